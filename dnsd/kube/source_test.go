package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodens-dns/nodens/conformance/kubeapi"
	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// watcher is a running source, and what it said last.
type watcher struct {
	*Source
	t    *testing.T
	said chan mesh.Input
	last mesh.Input
}

// api is a server, whose objects have to be good.
type api struct {
	*kubeapi.Server
	t *testing.T
}

func serveAPI(t *testing.T) *api {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &api{kubeapi.Serve(ln), t}
	t.Cleanup(a.Close)
	return a
}

func (a *api) put(manifest string) {
	a.t.Helper()
	if err := a.Put(manifest); err != nil {
		a.t.Fatal(err)
	}
}

func (a *api) remove(manifest string) {
	a.t.Helper()
	if err := a.Remove(manifest); err != nil {
		a.t.Fatal(err)
	}
}

// run starts a source of the server, with short pauses.
func (a *api) run(t *testing.T) *watcher {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := a.WriteKubeconfig(kubeconfig); err != nil {
		t.Fatal(err)
	}
	return start(t, New(Options{Kubeconfig: kubeconfig, Node: "n1"}))
}

func start(t *testing.T, s *Source) *watcher {
	s.timing.coalesce, s.timing.missing, s.timing.patience = time.Millisecond, 50*time.Millisecond, 100*time.Millisecond
	s.timing.answer, s.timing.list = 2*time.Second, 2*time.Second
	w := &watcher{Source: s, t: t, said: make(chan mesh.Input)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Run(ctx, func(in mesh.Input) {
			select {
			case w.said <- in:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return w
}

// until waits for an input that is as it should be.
func (w *watcher) until(what string, is func(mesh.Input) bool) {
	w.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case w.last = <-w.said:
			if is(w.last) {
				return
			}
		case <-deadline:
			w.t.Fatalf("%s: not within 30 s; it said last %+v", what, w.last)
		}
	}
}

// hosts are the names of an input's hosts, without what all end in.
func hosts(in mesh.Input) string {
	var names []string
	for _, h := range in.Hosts {
		names = append(names, strings.TrimSuffix(h.Name, ".svc.cluster.local"))
	}
	return strings.Join(names, " ")
}

func has(want string) func(mesh.Input) bool {
	return func(in mesh.Input) bool { return hosts(in) == want }
}

func namespace(name string) string {
	return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": %q}}`, name)
}

func service(name string) string {
	return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": %q}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]}}`, name)
}

func slice(name, of, addr string) string {
	return fmt.Sprintf(`{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"namespace": "shop", "name": %q, "labels": {"kubernetes.io/service-name": %q}}, "addressType": "IPv4",
		"ports": [{"name": "http", "port": 8080}], "endpoints": [{"addresses": [%q], "conditions": {"ready": true}}]}`, name, of, addr)
}

func endpoints(in mesh.Input) (all []string) {
	for _, c := range in.Clusters {
		for _, l := range c.Localities {
			for _, e := range l.Endpoints {
				all = append(all, e.Address)
			}
		}
	}
	return all
}

// A source follows its cluster, from the first list on, whether that is streamed or not.
func TestFollow(t *testing.T) {
	t.Run("streamed", func(t *testing.T) { follow(t, serveAPI(t)) })
	t.Run("listed", func(t *testing.T) {
		a := serveAPI(t)
		a.Old()
		follow(t, a)
	})
}

func follow(t *testing.T, a *api) {
	a.put(namespace("shop"))
	a.put(service("cart"))
	a.put(slice("cart-1", "cart", "10.1.0.1"))
	w := a.run(t)
	w.until("the first list", has("cart.shop"))
	if z := w.last.Zones; len(z) != 1 || z[0].Name != "cluster.local" || !slices.Equal(z[0].Namespaces, []string{"shop"}) {
		t.Errorf("zones %+v", z)
	}
	if got := endpoints(w.last); !slices.Equal(got, []string{"10.1.0.1"}) {
		t.Errorf("endpoints %v", got)
	}
	a.put(service("stock"))
	w.until("a service that is new", has("cart.shop stock.shop"))
	a.put(slice("cart-1", "cart", "10.1.0.2"))
	w.until("an endpoint that has moved", func(in mesh.Input) bool { return slices.Equal(endpoints(in), []string{"10.1.0.2"}) })
	a.remove(service("cart"))
	a.put(namespace("till"))
	w.until("one that is gone", func(in mesh.Input) bool {
		return hosts(in) == "stock.shop" && slices.Equal(in.Zones[0].Namespaces, []string{"shop", "till"})
	})
}

// Kinds that somebody defines later are found, and gone with their definition.
func TestDefinedLater(t *testing.T) {
	a := serveAPI(t)
	w := a.run(t)
	w.until("without definitions", has(""))
	const entry = `{"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"namespace": "shop", "name": "db"}, "spec": {"hosts": ["db.test"], "resolution": "DNS", "newField": 1,
		"ports": [{"name": "tcp", "number": 3306}]}, "status": {"addresses": [{"host": "db.test", "value": "240.240.0.9"}]}}`
	a.put(entry)
	a.put(`{"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"namespace": "shop", "name": "bad"}, "spec": {"hosts": ["*"]}}`)
	w.until("an entry", func(in mesh.Input) bool {
		return hosts(in) == "db.test" && in.Hosts[0].Addresses[0].String() == "240.240.0.9" && len(in.Problems) == 1
	})
	a.put(`{"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"namespace": "shop", "name": "db"}, "spec": {"host": "db.test", "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}}}`)
	w.until("a rule", func(in mesh.Input) bool { return in.Clusters[0].LbPolicy == mesh.Random })
}

// What was said last stays while the API is out of reach, however that shows, but not that there is nothing
// else; and afterwards what has changed is made up for.
func TestOutage(t *testing.T) {
	for name, failure := range map[string]kubeapi.Failure{"unavailable": kubeapi.Unavailable, "silent": kubeapi.Silent, "broken": kubeapi.Broken} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := serveAPI(t)
			a.put(service("cart"))
			w := a.run(t)
			w.until("the first list", has("cart.shop"))
			a.Fail(failure)
			w.until("out of reach", func(in mesh.Input) bool {
				return hosts(in) == "cart.shop" && len(in.Zones) == 0 && len(in.Problems) > 0 && strings.Contains(in.Problems[0].Reason, "stays")
			})
			a.Fail(kubeapi.None)
			a.put(service("stock"))
			w.until("back again", func(in mesh.Input) bool {
				return hosts(in) == "cart.shop stock.shop" && len(in.Zones) == 1 && len(in.Problems) == 0
			})
		})
	}
}

// A kind that may not be read any more is as it was, also if the refusal has no words.
func TestDenied(t *testing.T) {
	t.Parallel()
	a := serveAPI(t)
	a.put(service("cart"))
	a.put(`{"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"namespace": "shop", "name": "db"}, "spec": {"hosts": ["db.test"], "ports": [{"name": "tcp", "number": 3306}]}}`)
	w := a.run(t)
	w.until("the first list", has("cart.shop db.test"))
	a.Deny("serviceentries", true)
	w.until("denied", func(in mesh.Input) bool {
		return hosts(in) == "cart.shop db.test" && len(in.Problems) == 1 && strings.Contains(in.Problems[0].Reason, "stays: HTTP 403 Forbidden")
	})
	a.Down(true)
	w.until("out of reach", func(in mesh.Input) bool { return len(in.Zones) == 0 && len(in.Problems) > 1 })
	a.Down(false)
	w.until("in reach, and still denied", func(in mesh.Input) bool { return len(in.Zones) == 1 && len(in.Problems) == 1 })
	a.Deny("serviceentries", false)
	w.until("allowed again", func(in mesh.Input) bool { return hosts(in) == "cart.shop db.test" && len(in.Problems) == 0 })
	a.Deny("services", true) // without which there is no cluster
	w.until("Kubernetes' own", func(in mesh.Input) bool {
		return hosts(in) == "cart.shop db.test" && len(in.Zones) == 0 && len(in.Problems) == 1 && strings.Contains(in.Problems[0].Reason, "out of reach: HTTP 403 Forbidden")
	})
}

// An entry's endpoints are also the pods that it selects, while they are ready; without such an entry nobody
// asks for pods.
func TestSelectedPods(t *testing.T) {
	t.Parallel()
	a := serveAPI(t)
	pod := func(name, app, addr, ready string) string {
		return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": %q, "labels": {"app": %q, "x": "y"}},
			"status": {"podIP": %q, "conditions": [{"type": "Ready", "status": %q}]}}`, name, app, addr, ready)
	}
	a.put(service("cart"))
	a.put(pod("vm-0", "vm", "10.3.0.1", "True"))
	a.put(pod("vm-1", "vm", "10.3.0.2", "False"))
	a.put(pod("other", "other", "10.3.0.9", "True"))
	w := a.run(t)
	w.until("the first list", has("cart.shop"))
	if n := a.Lists("pods"); n != 0 {
		t.Errorf("pods were listed %d times for nobody", n)
	}
	over := func(addrs ...string) func(mesh.Input) bool {
		return func(in mesh.Input) bool { return slices.Equal(endpoints(in), addrs) }
	}
	a.put(`{"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"namespace": "shop", "name": "db"},
		"spec": {"hosts": ["db.test"], "resolution": "STATIC", "workloadSelector": {"labels": {"app": "vm"}}, "ports": [{"name": "tcp", "number": 3306}]}}`)
	w.until("the pods that it selects", over("10.3.0.1"))
	a.put(pod("vm-1", "vm", "10.3.0.2", "True"))
	w.until("one that became ready", over("10.3.0.1", "10.3.0.2"))
	a.put(`{"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry", "metadata": {"namespace": "shop", "name": "w"}, "spec": {"address": "10.4.0.1", "labels": {"app": "vm"}}}`)
	w.until("and a machine", over("10.4.0.1", "10.3.0.1", "10.3.0.2"))
	a.remove(pod("vm-0", "vm", "", ""))
	a.put(pod("vm-1", "left", "10.3.0.2", "True"))
	w.until("pods that went and that are called otherwise", over("10.4.0.1"))

	again := a.run(t)
	again.until("all of it at once", func(in mesh.Input) bool { return hosts(in) != "" })
	if !over("10.4.0.1")(again.last) {
		t.Errorf("it spoke before it had listed pods: %v", endpoints(again.last))
	}
	a.Deny("pods", true)
	w.until("pods may not be read", func(in mesh.Input) bool {
		return len(in.Problems) == 1 && strings.Contains(in.Problems[0].Object, "pods") && over("10.4.0.1")(in)
	})
}

// What says the same as before is no news: somebody writes status and annotations all the time.
func TestNoNews(t *testing.T) {
	written := []string{
		`{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "annotations": {"a": %q}, "labels": {"topology.kubernetes.io/zone": "z"}}}`,
		`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "annotations": {"a": %q}}}`,
		`{"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry", "metadata": {"namespace": "shop", "name": "w", "annotations": {"a": %q}}, "spec": {"address": "10.0.0.1"}}`,
		`{"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"namespace": "shop", "name": "db", "annotations": {"a": %q}}, "spec": {"hosts": ["db.test"], "ports": [{"name": "tcp", "number": 3306}]}}`,
		`{"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"namespace": "shop", "name": "db", "annotations": {"a": %q}}, "spec": {"host": "db.test"}}`,
	}
	for _, o := range written {
		s := New(Options{})
		for _, k := range s.kinds {
			if !strings.Contains(o, fmt.Sprintf(`"kind": %q`, k.Kind)) {
				continue
			}
			for i, want := range []bool{true, false} {
				object := k.example.DeepCopyObject()
				text := fmt.Sprintf(o, fmt.Sprint(i))
				if err := json.Unmarshal([]byte(text), object); err != nil {
					t.Fatal(err)
				}
				item, err := k.item(object)
				if err != nil {
					t.Fatal(err)
				}
				if news := k.put(item); news != want {
					t.Errorf("%s: news %t", text, news)
				}
			}
		}
	}
}

// A watch that begins too far back has everything listed again, once.
func TestExpired(t *testing.T) {
	a := serveAPI(t)
	for i := range 50 {
		a.put(service(fmt.Sprintf("s%02d", i)))
	}
	w := a.run(t)
	w.until("the first list", func(in mesh.Input) bool { return len(in.Hosts) == 50 })
	before := w.last.Hosts[1].Ports
	a.Down(true)
	w.until("out of reach", func(in mesh.Input) bool { return len(in.Zones) == 0 })
	a.remove(service("s00"))
	a.Forget()
	a.Down(false)
	w.until("listed again", func(in mesh.Input) bool { return len(in.Hosts) == 49 && len(in.Zones) == 1 })
	if after := w.last.Hosts[0].Ports; &before[0] != &after[0] {
		t.Error("a service that has not changed was taken anew")
	}
	if n := a.Lists("services"); n > 4 {
		t.Errorf("services were listed %d times", n)
	}
}

// Without a configuration that can be used the source says only why, and goes on trying: also where the files
// that it names come later.
func TestNoConfiguration(t *testing.T) {
	t.Parallel()
	a := serveAPI(t)
	a.put(service("cart"))
	dir := t.TempDir()
	kubeconfig, token := filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "cert")
	w := start(t, New(Options{Kubeconfig: kubeconfig}))
	why := func(part string) func(mesh.Input) bool {
		return func(in mesh.Input) bool {
			return in.Pending && len(in.Hosts) == 0 && len(in.Problems) == 1 && strings.Contains(in.Problems[0].Reason, part)
		}
	}
	w.until("no file", why(kubeconfig))
	if err := a.WriteKubeconfig(kubeconfig); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	good := string(text)
	bad := strings.Replace(good, "user: {}", fmt.Sprintf("user: {client-certificate: %q, client-key: %q}", token, token), 1)
	if err := os.WriteFile(kubeconfig, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	w.until("no certificate", why(token))
	if err := os.WriteFile(kubeconfig, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	w.until("all is there", has("cart.shop"))
}
