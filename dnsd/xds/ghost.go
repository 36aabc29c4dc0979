package xds

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// passthrough is the cluster Istio sends connections to that it has no rule for: where they wanted to go.
const passthrough = "PassthroughCluster"

// neverRouted are ranges in which an address is a name for a host and nothing else: 240.0.0.0/4 is
// reserved (RFC 1112), 2001:2::/48 for benchmarks (RFC 5180). Istio allocates from them.
var neverRouted = [...]netip.Prefix{netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("2001:2::/48")}

// crossings is what follows where the name table and the listeners disagree.
type crossings struct {
	passed map[string]*listener // leave connections to places without a listener alone
	shared []mesh.Problem
}

// compare holds the name table against the listeners. It takes as long as all of both take to read, so a
// stream does it once for each change.
//
// A host of several ServiceEntries has the addresses of all of them, but each has listeners for its own
// ports only. On an address that is a real one the other ports are somebody else's: connections to them
// pass through. An allocated address can mean nothing but this host, and DNS answers it together with the
// others, so there all ports are served.
//
// Two hosts may have one address and port; only one of them has the listener. The other is reported.
func (v *view) compare() crossings {
	bound := map[netip.AddrPort][]mesh.WeightedCluster{}
	for _, l := range v.listeners {
		for _, b := range l.binds {
			bound[netip.AddrPortFrom(b.Address, b.Port)] = b.Clusters
		}
	}
	if len(bound) == 0 {
		return crossings{} // a control plane that knows no listeners has no opinion
	}
	served := map[string]*cluster{} // clusters by name, those that serve a host's port
	for host := range v.names {
		for _, c := range v.serving(host) {
			served[c.Name] = c
		}
	}
	var out crossings
	for _, host := range slices.Sorted(maps.Keys(v.names)) {
		n := v.names[host]
		for _, c := range v.serving(host) {
			at, missing := places(n, c.port, bound)
			for _, ap := range at {
				if other := v.taken(ap, c, bound[ap], served); other != nil {
					out.shared = append(out.shared, mesh.Problem{
						Source: sourceName, Object: fmt.Sprintf("host %q", host),
						Reason: fmt.Sprintf("shares %s with %s, whose cluster %q gets its connections", ap, other.serves[0].host, other.Name),
					})
				}
			}
			if len(at) > 0 && c.Discovery != mesh.OriginalDst {
				out.pass(missing, v.clusters[passthrough])
			}
		}
	}
	return out
}

// places divides a host's addresses into those that have a listener for the port and those, of the ones
// that are routed, that have none.
func places(n *name, port uint16, bound map[netip.AddrPort][]mesh.WeightedCluster) (at, missing []netip.AddrPort) {
	for _, text := range n.ips {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		ap := netip.AddrPortFrom(ip.Unmap(), port)
		_, isBound := bound[ap]
		switch {
		case isBound:
			at = append(at, ap)
		case !slices.ContainsFunc(neverRouted[:], func(p netip.Prefix) bool { return p.Contains(ap.Addr()) }):
			missing = append(missing, ap)
		}
	}
	return at, missing
}

// taken returns the cluster of another host with the same address that has the listener instead of c.
func (v *view) taken(at netip.AddrPort, c *cluster, has []mesh.WeightedCluster, served map[string]*cluster) *cluster {
	if len(has) != 1 || has[0].Name == c.Name {
		return nil // a split is meant as it is
	}
	other := served[has[0].Name]
	if other == nil || other.port != c.port {
		return nil
	}
	for _, s := range other.serves {
		if n := v.names[s.host]; n != nil && slices.Contains(n.ips, at.Addr().String()) {
			return other
		}
	}
	return nil
}

// pass leaves connections to the places alone, as c does if the control plane has it.
func (x *crossings) pass(places []netip.AddrPort, c *cluster) {
	if len(places) == 0 || c == nil || c.Discovery != mesh.OriginalDst {
		return
	}
	if x.passed == nil {
		x.passed = map[string]*listener{}
	}
	for _, at := range places {
		name := at.String() + " without a listener"
		x.passed[name] = &listener{name: name, binds: []mesh.Listener{{
			Name: name, Address: at.Addr(), Port: at.Port(), Protocol: mesh.TCP,
			Clusters: []mesh.WeightedCluster{{Name: passthrough, Weight: 1}},
		}}}
	}
}
