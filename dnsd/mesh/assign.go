package mesh

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// assigned is an Assignment in the making, with what its names need.
type assigned struct {
	Assignment
	has4, has6 bool
	wants      []want
}

// want is a lookup a cluster needs, on its own schedule.
type want struct {
	lookup   Lookup
	schedule Schedule
	ordered  bool
}

// refusing returns an assignment without endpoints: connections to it are refused at once.
func (c *compiler) refusing(name, cluster, source string) *assigned {
	a := c.assigned[name]
	if a == nil {
		a = &assigned{Assignment: Assignment{Name: name, Cluster: cluster, Source: source, Discovery: Static, Balancing: Balancing{LbPolicy: LeastRequest}}}
		c.assigned[name] = a
	}
	return a
}

// assign returns what a cluster's connections are spread over, once for all frontends.
func (c *compiler) assign(s *source, cl *Cluster) *assigned {
	name := s.name + "/" + cl.Name
	if a := c.assigned[name]; a != nil {
		return a
	}
	a := c.resolve(s, name, cl)
	a.Cluster = cl.Name
	c.reportEmpty(s, cl, a)
	c.assigned[name] = a
	return a
}

// anyPort returns what serves the undeclared ports of a row's virtual addresses: the addresses its
// name has upstream, if a cluster of it looks that very name up, else nothing.
func (c *compiler) anyPort(r *row) *assigned {
	for _, p := range r.ports {
		cl := r.source.clusters[p.Cluster]
		if cl == nil || !looksUp(cl, r.host) {
			continue
		}
		name := r.source.name + "/" + r.host + ":any"
		if r.view != "" {
			name += "@" + r.view
		}
		if c.assigned[name] == nil {
			a := c.resolve(r.source, name, &Cluster{
				Name: cl.Name, Discovery: cl.Discovery, Balancing: cl.Balancing, DNS: cl.DNS,
				Localities: []Locality{{Endpoints: []Endpoint{{Address: r.host}}}},
			})
			a.Cluster = cl.Name
			c.assigned[name] = a
		}
		return c.assigned[name]
	}
	return c.refusing("refuse", "", "")
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
func (c *compiler) resolve(s *source, name string, cl *Cluster) *assigned {
	a := &assigned{Assignment: Assignment{
		Name: name, Source: s.name, Discovery: cl.Discovery,
		Balancing: cl.Balancing,
	}}
	a.LbPolicy = c.policy(s, cl)
	dns := DNS{}
	if cl.DNS != nil {
		dns = *cl.DNS
	}
	dns.Schedule = withDefaults(dns.Schedule)
	localities := cl.Localities
	if cl.Discovery == LogicalDNS {
		localities = c.single(s, cl)
	}
	for _, loc := range localities {
		al := AssignedLocality{
			Region: loc.Region, Zone: loc.Zone, SubZone: loc.SubZone,
			Weight: max(loc.Weight, 1), Priority: loc.Priority,
		}
		for _, e := range loc.Endpoints {
			if !e.RequiresTLS {
				al.Endpoints = c.endpoint(al.Endpoints, s, cl, e, &dns, a)
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
func (c *compiler) endpoint(list []AssignedEndpoint, s *source, cl *Cluster, e Endpoint, dns *DNS, a *assigned) []AssignedEndpoint {
	var addrs []netip.Addr
	if ip, ok := literal(e.Address); ok {
		addrs = []netip.Addr{ip}
	} else if cl.Discovery == Static {
		c.report(s, clusterObject(cl), "endpoint %q is not an address; it is left out", e.Address)
	} else if host, err := dnsName(e.Address); err != nil {
		c.report(s, clusterObject(cl), "endpoint %v; it is left out", err)
	} else {
		l := lookup(host, dns)
		a.wants = append(a.wants, want{l, dns.Schedule, cl.Discovery == LogicalDNS})
		addrs = addresses(c.resolved[l], cl.Discovery)
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
func (c *compiler) single(s *source, cl *Cluster) []Locality {
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
		c.report(s, clusterObject(cl), "LOGICAL_DNS has one endpoint, this cluster %d; only %s is used", count, first.Endpoints[0].Address)
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

// warming says that an assignment has no endpoints only because none of its names has been answered so
// far, neither with addresses nor with a definite no.
func (c *compiler) warming(a *assigned) bool {
	if len(a.Localities) > 0 || len(a.wants) == 0 {
		return false
	}
	return !slices.ContainsFunc(a.wants, func(w want) bool {
		r := c.resolved[w.lookup]
		return r != nil && (r.Negative || len(r.Addresses) > 0)
	})
}
