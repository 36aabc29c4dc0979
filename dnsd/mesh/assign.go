package mesh

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// assigned is an Assignment, with what its names need. It is what it is for as long as it is in use.
type assigned struct {
	*Assignment
	reports    // about the cluster; they count while it is in use
	has4, has6 bool
	wants      []want

	parts int  // how many use it
	stale bool // a name behind it has other addresses now
}

// want is a lookup a cluster needs, on its own schedule.
type want struct {
	lookup   Lookup
	schedule Schedule
	ordered  bool
}

// find returns the assignment of that name, if it is there and good.
func (r *run) find(name string) *assigned {
	if a := r.fresh[name]; a != nil {
		return a
	}
	return r.assigned[name]
}

// enter makes a the assignment of its name. One that says the same as another did before becomes that.
func (r *run) enter(a *assigned) *assigned {
	a.Warming, a.Cold = r.warmth(a)
	a.Lookups = lookupsOf(a.wants)
	switch old := r.former[a.Name]; {
	case old == nil || !reflect.DeepEqual(old.Assignment, a.Assignment):
	case slices.Equal(old.wants, a.wants) && slices.Equal(old.all, a.all):
		old.stale = false
		a = old
	default:
		a.Assignment = old.Assignment
	}
	r.fresh[a.Name] = a
	return a
}

// refusing returns an assignment without endpoints: connections to it are refused at once.
func (r *run) refusing(name, cluster, source string) *assigned {
	if a := r.find(name); a != nil {
		return a
	}
	return r.enter(&assigned{Assignment: &Assignment{Name: name, Cluster: cluster, Source: source, Discovery: Static, Balancing: Balancing{LbPolicy: LeastRequest}}})
}

// assign returns what a cluster's connections are spread over, once for all frontends.
func (r *run) assign(s *source, cl *Cluster) *assigned {
	name := s.name + "/" + cl.Name
	if a := r.find(name); a != nil {
		return a
	}
	a := r.resolve(s, name, cl)
	a.Cluster = cl.Name
	a.reportEmpty(s, cl)
	return r.enter(a)
}

// anyPort returns what serves the undeclared ports of a row's virtual addresses: the addresses its
// name has upstream, if a cluster of it looks that very name up, else nothing.
func (b *binder) anyPort(r *row) *assigned {
	for _, p := range r.ports {
		cl := b.cluster(r.source, p.Cluster)
		if cl == nil || !looksUp(cl, r.host) {
			continue
		}
		name := r.source.name + "/" + r.host + ":any"
		if r.view != "" {
			name += "@" + r.view
		}
		if a := b.find(name); a != nil {
			return a
		}
		a := b.resolve(r.source, name, &Cluster{
			Name: cl.Name, Discovery: cl.Discovery, Balancing: cl.Balancing, DNS: cl.DNS,
			Localities: []Locality{{Endpoints: []Endpoint{{Address: r.host}}}},
		})
		a.Cluster = cl.Name
		return b.enter(a)
	}
	return b.refusing("refuse", "", "")
}

// looksUp says whether one of the names a cluster looks up is host.
func looksUp(cl *Cluster, host string) bool {
	if cl.Discovery != StrictDNS && cl.Discovery != LogicalDNS {
		return false
	}
	return slices.ContainsFunc(cl.Localities, func(loc Locality) bool {
		return slices.ContainsFunc(loc.Endpoints, func(e Endpoint) bool {
			return strings.EqualFold(strings.TrimSuffix(e.Address, "."), host)
		})
	})
}

// resolve makes an assignment of a cluster by putting the newest addresses in the place of names.
func (r *run) resolve(s *source, name string, cl *Cluster) *assigned {
	a := &assigned{Assignment: &Assignment{
		Name: name, Source: s.name, Discovery: cl.Discovery,
		Balancing: cl.Balancing,
	}}
	a.LbPolicy = a.policy(s, cl)
	dns := DNS{}
	if cl.DNS != nil {
		dns = *cl.DNS
	}
	dns.Schedule = withDefaults(dns.Schedule)
	localities := cl.Localities
	if cl.Discovery == LogicalDNS {
		localities = a.single(s, cl)
	}
	for _, loc := range localities {
		al := AssignedLocality{
			Region: loc.Region, Zone: loc.Zone, SubZone: loc.SubZone,
			Weight: max(loc.Weight, 1), Priority: loc.Priority,
		}
		for _, e := range loc.Endpoints {
			if !e.RequiresTLS {
				al.Endpoints = r.endpoint(al.Endpoints, s, cl, e, &dns, a)
			}
		}
		if len(al.Endpoints) > 0 {
			slices.SortFunc(al.Endpoints, compareEndpoints)
			a.Localities = append(a.Localities, al)
		}
	}
	slices.SortFunc(a.Localities, compareLocalities)
	for _, al := range a.Localities {
		for _, e := range al.Endpoints {
			is4 := e.Address.Addr().Is4()
			a.has4, a.has6 = a.has4 || (is4 && !e.Unhealthy), a.has6 || (!is4 && !e.Unhealthy)
		}
	}
	return a
}

// endpoint adds the addresses of one endpoint to list, each with its full weight as in Envoy.
func (r *run) endpoint(list []AssignedEndpoint, s *source, cl *Cluster, e Endpoint, dns *DNS, a *assigned) []AssignedEndpoint {
	var addrs []netip.Addr
	if ip, ok := literal(e.Address); ok {
		addrs = []netip.Addr{ip}
	} else if cl.Discovery == Static {
		a.report(s, clusterObject(cl), "endpoint %q is not an address; it is left out", e.Address)
	} else if host, err := dnsName(e.Address); err != nil {
		a.report(s, clusterObject(cl), "endpoint %v; it is left out", err)
	} else {
		l := lookup(host, dns)
		a.wants = append(a.wants, want{l, dns.Schedule, cl.Discovery == LogicalDNS})
		addrs = addresses(r.resolution(l), cl.Discovery)
	}
	for _, addr := range addrs {
		list = append(list, AssignedEndpoint{netip.AddrPortFrom(addr, e.Port), max(e.Weight, 1), e.Unhealthy})
	}
	return list
}

// addresses returns what an endpoint's name stands for. A strict cluster has all addresses, and none
// once every family is known to have none. A logical one has the first, and keeps it; the first of
// each family, since a client's family is not ours to choose.
func addresses(r *Resolution, d DiscoveryType) []netip.Addr {
	if r == nil || (d == StrictDNS && r.Negative) {
		return nil
	}
	var addrs []netip.Addr
	var has4, has6 bool
	for _, addr := range r.Addresses {
		addr = addr.Unmap()
		seen := &has6
		if addr.Is4() {
			seen = &has4
		}
		if d == StrictDNS || !*seen {
			addrs = append(addrs, addr)
		}
		*seen = true
	}
	return sortAddrs(addrs)
}

// single returns the one endpoint a LOGICAL_DNS cluster may have. Envoy rejects a cluster with more;
// serving the first of the first priority is of more use than serving none.
func (a *assigned) single(s *source, cl *Cluster) []Locality {
	var first *Locality
	count := 0
	for i := range cl.Localities {
		loc := &cl.Localities[i]
		count += len(loc.Endpoints)
		if len(loc.Endpoints) > 0 && (first == nil || comparePlaces(loc, first) < 0) {
			first = loc
		}
	}
	if first == nil {
		return nil
	}
	if count > 1 {
		a.report(s, clusterObject(cl), "LOGICAL_DNS has one endpoint, this cluster %d; only %s is used", count, first.Endpoints[0].Address)
	}
	one := *first
	one.Priority = 0
	one.Endpoints = first.Endpoints[:1]
	return []Locality{one}
}

func comparePlaces(a, b *Locality) int {
	return cmp.Or(
		cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Region, b.Region),
		cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.SubZone, b.SubZone),
	)
}

func compareLocalities(a, b AssignedLocality) int {
	return cmp.Or(
		cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Region, b.Region),
		cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.SubZone, b.SubZone), cmp.Compare(a.Weight, b.Weight),
		slices.CompareFunc(a.Endpoints, b.Endpoints, compareEndpoints),
	)
}

func compareEndpoints(a, b AssignedEndpoint) int {
	return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Weight, b.Weight), compareBools(a.Unhealthy, b.Unhealthy))
}

// warmth says that an assignment has no endpoints only because none of its names has been answered so far,
// neither with addresses nor with a definite no: it is warming. And that it is cold: no lookup has failed
// either.
func (r *run) warmth(a *assigned) (warming, cold bool) {
	if len(a.Localities) > 0 || len(a.wants) == 0 {
		return false, false
	}
	cold = true
	for _, w := range a.wants {
		res := r.resolution(w.lookup)
		if res != nil && (res.Negative || len(res.Addresses) > 0) {
			return false, false
		}
		cold = cold && res == nil
	}
	return true, cold
}
