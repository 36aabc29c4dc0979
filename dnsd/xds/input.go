package xds

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// view is what one stream was told, or several the same, seen from their namespaces and found by what it
// is asked for.
type view struct {
	namespaces []string // sorted
	*state
	ports   map[string][]*cluster // clusters that serve a host's ports, by host, sorted by name
	own     map[string][]*cluster // the same, of hosts that ports, another view's, is wrong about
	hashed  map[string]bool       // clusters some listener picks the endpoint of by the client's address
	missing map[string]bool       // clusters some listener leads to and the control plane has not sent
	notes   []mesh.Problem
	from    []any // see makings
}

// newView finds its way in s. What like has found already it takes over; like is nil for the first.
func newView(namespace string, s *state, like *view) *view {
	v := &view{
		namespaces: []string{namespace}, state: s,
		own: map[string][]*cluster{}, hashed: map[string]bool{}, missing: map[string]bool{},
		notes: slices.Clone(s.shared),
	}
	if like == nil {
		v.ports = make(map[string][]*cluster, len(s.names))
		v.index(v.ports, func(string) bool { return true })
	} else {
		v.ports = like.ports
		v.differ(like)
		v.index(v.own, func(host string) bool { _, differs := v.own[host]; return differs })
	}
	for _, l := range v.binding() {
		for _, b := range l.binds {
			for _, c := range b.Clusters {
				if v.clusters[c.Name] == nil {
					v.missing[c.Name] = true
				}
				if l.hashed {
					v.hashed[c.Name] = true
				}
			}
		}
	}
	return v
}

// index lists clusters by those of the hosts they serve that are wanted.
func (v *view) index(ports map[string][]*cluster, wanted func(host string) bool) {
	for _, c := range v.clusters {
		for _, svc := range c.serves {
			if wanted(svc.host) {
				ports[svc.host] = append(ports[svc.host], c)
			}
		}
	}
	for _, clusters := range ports {
		slices.SortFunc(clusters, func(a, b *cluster) int { return cmp.Compare(a.Name, b.Name) })
	}
}

// differ gives the hosts whose clusters are not like's an empty list of their own.
func (v *view) differ(like *view) {
	mark := func(c *cluster) {
		for _, svc := range c.serves {
			v.own[svc.host] = nil
		}
	}
	for name, c := range v.clusters {
		if other := like.clusters[name]; other != c {
			mark(c)
			if other != nil {
				mark(other)
			}
		}
	}
	for name, c := range like.clusters {
		if v.clusters[name] == nil {
			mark(c)
		}
	}
}

// serving are the clusters that serve a host's ports, sorted by name.
func (v *view) serving(host string) []*cluster {
	if clusters, own := v.own[host]; own {
		return clusters
	}
	return v.ports[host]
}

// binding are the listeners that bind something, by name, those of crossings among them.
func (v *view) binding() iter.Seq2[string, *listener] {
	return func(yield func(string, *listener) bool) {
		for _, of := range []map[string]*listener{v.listeners, v.passed} {
			for name, l := range of {
				if len(l.binds) > 0 && !yield(name, l) {
					return
				}
			}
		}
	}
}

// assignment is where a cluster's endpoints are; nil while they have not come.
func (v *view) assignment(c *cluster) *assignment {
	if c.eds != "" {
		return v.endpoints[c.eds]
	}
	return c.inline
}

// hosts calls visit with each row of the name table and the pods' rows that are records of it. A row of
// a pod ("web-0.web" of service "web") is a record of its service's host, if that has a row too.
func (v *view) hosts(visit func(n *name, records []*name)) {
	records := map[string][]*name{}
	for host, n := range v.names {
		if parent, isRecord := v.recordOf(n); isRecord {
			records[parent] = append(records[parent], v.names[host])
		}
	}
	for host, n := range v.names {
		if _, isRecord := v.recordOf(n); isRecord {
			continue
		}
		slices.SortFunc(records[host], func(a, b *name) int { return cmp.Compare(a.host, b.host) })
		visit(n, records[host])
	}
}

// recordOf finds the service a row is a pod's record of.
func (v *view) recordOf(n *name) (service string, ok bool) {
	_, short, dotted := strings.Cut(n.shortname, ".")
	if !n.kubernetes || !dotted {
		return "", false
	}
	_, service, _ = strings.Cut(n.host, ".")
	parent := v.names[service]
	return service, parent != nil && parent.kubernetes && parent.shortname == short
}

// host is a row with its ports: one for each cluster that serves a port of it.
func (v *view) host(n *name, records []*name) mesh.Host {
	h := mesh.Host{
		Name: n.host, Object: "name table entry " + n.host, Namespace: n.namespace,
		Kubernetes: n.kubernetes, Addresses: v.addresses(n), Headless: len(records) > 0,
	}
	clusters := v.serving(n.host)
	passed := 0
	for _, c := range clusters {
		if c.Discovery == mesh.OriginalDst {
			passed++
		}
		if h.Namespace == "" {
			i := slices.IndexFunc(c.serves, func(s service) bool { return s.host == n.host })
			h.Namespace = c.serves[i].namespace
		}
		h.Headless = h.Headless || v.has(c, h.Addresses)
	}
	// A service whose clusters all pass connections through is headless. So is a row of a single pod
	// without its service's row, and a host with an address that is one of its endpoints: balancing
	// that would send a client that chose one pod to another.
	h.Headless = h.Headless || n.kubernetes && passed > 0 && passed == len(clusters) || strings.Contains(n.shortname, ".")
	for _, c := range clusters {
		p := mesh.Port{Number: c.port, Protocol: mesh.TCP}
		if c.Discovery != mesh.OriginalDst && !h.Headless {
			p.Cluster = c.Name
		}
		h.Ports = append(h.Ports, p)
	}
	slices.SortFunc(h.Ports, func(a, b mesh.Port) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Cluster, b.Cluster))
	})
	for _, r := range records {
		label, _, _ := strings.Cut(r.host, ".")
		h.Records = append(h.Records, mesh.Record{Label: label, Addresses: v.addresses(r)})
	}
	return h
}

func (v *view) addresses(n *name) []netip.Addr {
	var out []netip.Addr
	for _, s := range n.ips {
		if ip, err := netip.ParseAddr(s); err == nil && !slices.Contains(out, ip.Unmap()) {
			out = append(out, ip.Unmap())
		} else if err != nil {
			v.note(fmt.Sprintf("host %q", n.host), fmt.Sprintf("address %q is not an IP address; it is left out", s))
		}
	}
	return out
}

func (v *view) note(object, reason string) {
	v.notes = append(v.notes, mesh.Problem{Source: sourceName, Object: object, Reason: reason})
}

// has says whether one of addresses is an endpoint of c.
func (v *view) has(c *cluster, addresses []netip.Addr) bool {
	a := v.assignment(c)
	if c.Discovery != mesh.Static || a == nil {
		return false
	}
	for _, addr := range addresses {
		text := addr.String() // as an endpoint's address is spelled
		for _, l := range a.localities {
			if slices.ContainsFunc(l.Endpoints, func(e mesh.Endpoint) bool { return e.Address == text }) {
				return true
			}
		}
	}
	return false
}

// told lists what could not be used of the newest responses, sorted.
func (v *view) told() []mesh.Problem {
	var all []mesh.Problem
	for _, t := range allTypes {
		of := v.problems[t]
		for _, key := range slices.Sorted(maps.Keys(of)) {
			all = append(all, of[key])
		}
	}
	slices.SortFunc(v.notes, func(a, b mesh.Problem) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Reason, b.Reason))
	})
	return append(v.notes, all...)
}
