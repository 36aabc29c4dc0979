package xds

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// builder makes one Input of a state.
type builder struct {
	*state
	in    mesh.Input
	used  map[string]bool       // clusters some port or listener refers to
	ports map[string][]*cluster // clusters that serve a host's ports, by host, sorted by name
}

// input is everything known, in mesh words, sorted: equal states give equal inputs.
func (s *state) input() mesh.Input {
	b := &builder{state: s, used: map[string]bool{}, ports: map[string][]*cluster{}}
	b.in.Source = sourceName
	for _, name := range slices.Sorted(maps.Keys(s.clusters)) {
		for _, svc := range s.clusters[name].serves {
			b.ports[svc.host] = append(b.ports[svc.host], s.clusters[name])
		}
	}
	b.addHosts()
	for _, name := range slices.Sorted(maps.Keys(s.listeners)) {
		for _, l := range s.listeners[name] {
			b.in.Listeners = append(b.in.Listeners, l)
			for _, c := range l.Clusters {
				b.used[c.Name] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.used)) {
		// One that is missing stays a name: the control plane sends listeners before clusters at
		// times, and until then the port refuses.
		if c := s.clusters[name]; c != nil {
			out, notes := c.resolved(s.assignments)
			b.in.Clusters = append(b.in.Clusters, out)
			for _, n := range notes {
				b.problem(object("cluster", name, 0), n)
			}
		}
	}
	for _, t := range []string{clusterType, endpointType, listenerType, nameTableType} {
		b.in.Problems = append(b.in.Problems, s.problems[t]...)
	}
	return b.in
}

func (b *builder) problem(object, reason string) {
	b.in.Problems = append(b.in.Problems, mesh.Problem{Source: sourceName, Object: object, Reason: reason})
}

// addHosts makes a host of each row of the name table. A row of a pod ("web-0.web" of service "web")
// becomes a record of its service's host, if that has a row too.
func (b *builder) addHosts() {
	rows := map[string]name{}
	for _, n := range b.names {
		rows[n.host] = n
	}
	hosts := map[string]*mesh.Host{}
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		if _, isRecord := recordOf(rows, key); !isRecord {
			hosts[key] = b.host(rows[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		if parent, isRecord := recordOf(rows, key); isRecord {
			label, _, _ := strings.Cut(key, ".")
			h := hosts[parent]
			h.Headless = true
			h.Records = append(h.Records, mesh.Record{Label: label, Addresses: b.addresses(rows[key])})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(hosts)) {
		b.in.Hosts = append(b.in.Hosts, *hosts[key])
	}
}

// recordOf finds the service a row is a pod's record of.
func recordOf(rows map[string]name, host string) (service string, ok bool) {
	n := rows[host]
	_, short, dotted := strings.Cut(n.shortname, ".")
	_, service, _ = strings.Cut(host, ".")
	parent, found := rows[service]
	return service, n.kubernetes && dotted && found && parent.kubernetes && parent.shortname == short
}

func (b *builder) addresses(n name) []netip.Addr {
	var out []netip.Addr
	for _, s := range n.ips {
		if ip, err := netip.ParseAddr(s); err == nil && !slices.Contains(out, ip.Unmap()) {
			out = append(out, ip.Unmap())
		} else if err != nil {
			b.problem(fmt.Sprintf("host %q", n.host), fmt.Sprintf("address %q is not an IP address; it is left out", s))
		}
	}
	return out
}

// host is a row with its ports: one for each cluster that serves a port of it.
func (b *builder) host(n name) *mesh.Host {
	h := &mesh.Host{
		Name: n.host, Object: "name table entry " + n.host, Namespace: n.namespace,
		Kubernetes: n.kubernetes, Addresses: b.addresses(n),
	}
	clusters := b.ports[n.host]
	passed := 0
	for _, c := range clusters {
		if c.Discovery == mesh.OriginalDst {
			passed++
		}
		if h.Namespace == "" {
			i := slices.IndexFunc(c.serves, func(s service) bool { return s.host == n.host })
			h.Namespace = c.serves[i].namespace
		}
		h.Headless = h.Headless || b.has(c, h.Addresses)
	}
	// A service whose clusters all pass connections through is headless. So is a row of a single pod
	// without its service's row, and a host with an address that is one of its endpoints: balancing
	// that would send a client that chose one pod to another.
	h.Headless = h.Headless || n.kubernetes && passed > 0 && passed == len(clusters) || strings.Contains(n.shortname, ".")
	for _, c := range clusters {
		p := mesh.Port{Number: c.port, Protocol: mesh.TCP}
		if c.Discovery != mesh.OriginalDst && !h.Headless {
			p.Cluster = c.Name
			b.used[c.Name] = true
		}
		h.Ports = append(h.Ports, p)
	}
	slices.SortFunc(h.Ports, func(a, b mesh.Port) int { return cmp.Compare(a.Number, b.Number) })
	return h
}

// has says whether one of addresses is an endpoint of c.
func (b *builder) has(c *cluster, addresses []netip.Addr) bool {
	if c.Discovery != mesh.Static {
		return false
	}
	from := c.inline
	if c.eds != "" {
		from = b.assignments[c.eds]
	}
	for _, l := range from.GetEndpoints() {
		for _, e := range l.GetLbEndpoints() {
			ip, err := netip.ParseAddr(e.GetEndpoint().GetAddress().GetSocketAddress().GetAddress())
			if err == nil && slices.Contains(addresses, ip.Unmap()) {
				return true
			}
		}
	}
	return false
}
