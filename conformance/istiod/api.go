package istiod

import (
	"fmt"
	"strings"

	pilotxds "istio.io/istio/pilot/pkg/xds"
	v3 "istio.io/istio/pilot/pkg/xds/v3"
	"sigs.k8s.io/yaml"
)

// Apply gives the API server objects, as YAML documents. A running istiod hears of them; it is not
// waited for.
func (i *Istiod) Apply(text string) error {
	parsed, err := parse(text)
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.running != nil {
		if err := i.objects.readBack(i.running.client); err != nil {
			return err
		}
	}
	for _, o := range parsed {
		known := i.objects[keyOf(o)] != nil
		i.objects.put(o)
		if i.running == nil {
			continue
		}
		if err := i.running.write(o, known); err != nil {
			return fmt.Errorf("apply %v: %w", keyOf(o), err)
		}
	}
	return nil
}

// write tells the running istiod's client of an object, which it may know already.
func (r *run) write(o object, known bool) error {
	tracker, resource, copied := trackerOf(r.client, o), resourceOf(o), o.DeepCopyObject()
	if known {
		return tracker.Update(resource, copied, o.GetNamespace())
	}
	return tracker.Create(resource, copied, o.GetNamespace())
}

// Delete takes an object, named as namespace/name, from the API server.
func (i *Istiod) Delete(kind, name string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	o := i.objects[key{kind, name}]
	if o == nil {
		return fmt.Errorf("there is no %s %s", kind, name)
	}
	delete(i.objects, key{kind, name})
	if i.running == nil {
		return nil
	}
	return trackerOf(i.running.client, o).Delete(resourceOf(o), o.GetNamespace(), o.GetName())
}

// Get is an object, as YAML.
func (i *Istiod) Get(kind, name string) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.running != nil {
		if err := i.objects.readBack(i.running.client); err != nil {
			return "", err
		}
	}
	o := i.objects[key{kind, name}]
	if o == nil {
		return "", fmt.Errorf("there is no %s %s", kind, name)
	}
	text, err := yaml.Marshal(o)
	return string(text), err
}

// Clients says, a line each, who is connected and which types it has acknowledged, refused or not yet
// answered: "shop cds acknowledged".
func (i *Istiod) Clients() (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.running == nil {
		return "", fmt.Errorf("istiod does not run")
	}
	var b strings.Builder
	for _, c := range i.running.server.Discovery.SortedClients() {
		for _, url := range []string{v3.ClusterType, v3.EndpointType, v3.ListenerType, v3.NameTableType} {
			if state := watched(c, url); state != "" {
				fmt.Fprintf(&b, "%s %s %s\n", c.Proxy().GetNamespace(), strings.ToLower(v3.GetShortType(url)), state)
			}
		}
	}
	return b.String(), nil
}

func watched(c *pilotxds.Connection, url string) string {
	w := c.Watcher().GetWatchedResource(url)
	switch {
	case w == nil:
		return ""
	case w.LastError != "":
		return "refused: " + w.LastError
	case w.NonceSent == w.NonceAcked:
		return "acknowledged"
	}
	return "pending"
}
