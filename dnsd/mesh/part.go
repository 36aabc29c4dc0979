package mesh

import (
	"cmp"
	"net/netip"
	"slices"
)

// part is what is compiled together, and what came of it. One without hosts is the listeners at an address.
type part struct {
	units []*unit
	addrs []netip.Addr
	gone  bool

	names     []*Name
	frontends []*Frontend
	problems  []Problem
	uses      []*assigned // of the frontends, each once
	asked     []question
}

// question is a cluster that a part has asked for, whether it is there or not.
type question struct {
	source *source
	name   string
}

// stale says that the part depends on news about clusters or lookups.
func (p *part) stale() bool {
	for _, q := range p.asked {
		if q.source.news.clusters[q.name] {
			return true
		}
	}
	return slices.ContainsFunc(p.uses, func(a *assigned) bool { return a.stale })
}

// binder compiles one part.
type binder struct {
	*run
	reports
	frontends map[frontendKey]binding
	given     map[bind]frontendKey // where services have theirs; of one in several views one of them
	guarded   map[netip.Addr]*row  // see guard
	asked     []question
}

// cluster returns a source's cluster, or nil, and notes that it was asked for.
func (b *binder) cluster(s *source, name string) *Cluster {
	if q := (question{s, name}); !slices.Contains(b.asked, q) {
		b.asked = append(b.asked, q)
	}
	return s.cluster(name)
}

// compile fills in what comes of a part.
func (r *run) compile(p *part) {
	b := &binder{run: r, frontends: make(map[frontendKey]binding), given: make(map[bind]frontendKey), guarded: make(map[netip.Addr]*row)}
	var rows []*row
	for _, u := range p.units {
		b.all = append(b.all, u.all...)
		rows = append(rows, r.rows[u]...)
		rows = append(rows, distinct(r.rows[u])...)
	}
	slices.SortFunc(rows, func(a, b *row) int { return cmp.Or(cmp.Compare(a.host, b.host), cmp.Compare(a.view, b.view)) })
	for _, s := range r.sources {
		// The address of a service is the cluster's to give: whoever announces it for another host has none of it.
		for _, given := range [...]bool{true, false} {
			for _, row := range rows {
				if row.source == s && row.given == given {
					b.bindRow(row)
				}
			}
		}
		for _, addr := range p.addrs {
			b.bindListeners(s, addr)
		}
	}
	b.bindGuards()
	p.frontends, p.uses = b.bound()
	p.names = b.names(rows)
	p.problems, p.asked = b.all, b.asked
	for _, a := range p.uses {
		r.use(a)
	}
}

// bound returns the frontends decided and the assignments they use.
func (b *binder) bound() (frontends []*Frontend, uses []*assigned) {
	if len(b.frontends) == 0 {
		return nil, nil
	}
	frontends = make([]*Frontend, 0, len(b.frontends))
	for key, has := range b.frontends {
		frontends = append(frontends, &Frontend{
			Address: key.addr, Port: key.port, Protocol: key.protocol,
			View: key.view, Host: has.host, Assignment: has.serves.Name,
		})
		if !slices.Contains(uses, has.serves) {
			uses = append(uses, has.serves)
		}
	}
	return frontends, uses
}

// use notes that a new part uses an assignment.
func (r *run) use(a *assigned) {
	if a.parts++; a.parts > 1 {
		return
	}
	r.assigned[a.Name] = a
	if r.former[a.Name] == a {
		delete(r.former, a.Name)
	} else {
		r.active = append(r.active, a)
	}
	for _, w := range a.wants {
		r.wanters[w.lookup] = append(r.wanters[w.lookup], a)
	}
}

// names turns rows into what DNS answers. A host with nothing to answer has no name of ours and goes
// upstream; a headless Kubernetes service without endpoints is ours, and empty.
func (c *Compiler) names(rows []*row) []*Name {
	var names []*Name
	for _, r := range rows {
		if len(r.addrs) == 0 && len(r.records) == 0 && r.externalName == "" && r.data == nil && (!r.kubernetes || !r.headless) {
			continue
		}
		n := c.name(r)
		if r.all != nil {
			all := c.name(r.all)
			if slices.Equal(n.Addr4, all.Addr4) && slices.Equal(n.Addr6, all.Addr6) && n.Virtual == all.Virtual {
				continue // only its connections differ
			}
		}
		names = append(names, n)
	}
	return names
}

func (c *Compiler) name(r *row) *Name {
	n := &Name{
		Host: r.host, View: r.view,
		Source: r.source.name, Object: r.object, Also: r.also,
		Namespace: r.namespace, Kubernetes: r.kubernetes, Headless: r.headless, Virtual: r.balanced,
		CNAME: r.externalName, Ports: r.ports, Records: r.records, TTL: r.ttl, Data: r.data,
	}
	for _, addr := range r.addrs {
		switch {
		case c.virtual(addr) && r.deaf(addr):
		case addr.Is4():
			n.Addr4 = append(n.Addr4, addr)
		default:
			n.Addr6 = append(n.Addr6, addr)
		}
	}
	return n
}
