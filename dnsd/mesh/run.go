package mesh

import (
	"net/netip"
	"slices"
)

// unit is what a Compiler remembers of one host.
type unit struct {
	name      string
	part      *part
	wants     bool         // a pair of addresses
	announced []netip.Addr // by sources, of those that pairs are given from
	reports                // about what is said of it
}

// run is one Compile: what is taken apart, and what comes of it.
type run struct {
	*Compiler
	any, wasPartial bool // whether anything is news, and what was before

	rows  map[*unit][]*row    // of the units that are in no part at present
	queue []*unit             // those of them that are not in a new part yet
	addrs map[netip.Addr]bool // that were a part's, or that listeners bind or left

	gone, come []*part
	former     map[string]*assigned // out of use since this run began, by name
	fresh      map[string]*assigned // looked at by new parts
	active     []*assigned          // in use since this run began
}

// begin takes apart what depends on news.
func (c *Compiler) begin() *run {
	r := &run{
		Compiler: c, any: c.plan == nil, wasPartial: c.partial,
		rows: make(map[*unit][]*row), addrs: make(map[netip.Addr]bool),
		former: make(map[string]*assigned), fresh: make(map[string]*assigned),
	}
	stale := false
	c.partial = false
	for _, s := range c.sources {
		c.partial = c.partial || s.pending
		r.any = r.any || s.news.any
		stale = stale || len(s.news.clusters) > 0
		for l := range s.news.lookups {
			for _, a := range c.wanters[l] {
				a.stale, stale = true, true
			}
		}
	}
	if stale {
		for _, p := range c.parts {
			if p.stale() {
				r.takeApart(p)
			}
		}
	}
	for _, s := range c.sources {
		for addr := range s.news.listeners {
			r.loosenAt(addr)
		}
		for name := range s.news.hosts {
			u := c.units[name]
			if u == nil {
				u = &unit{name: name}
				c.units[name] = u
			}
			r.loosen(u)
		}
	}
	for u := range c.uneasy {
		r.loosen(u)
	}
	return r
}

// loosen takes a host out of its part, and the part apart.
func (r *run) loosen(u *unit) {
	if _, loose := r.rows[u]; loose {
		return
	}
	if u.part != nil {
		r.takeApart(u.part)
		return
	}
	r.rows[u] = nil
	r.queue = append(r.queue, u)
}

// loosenAt does it for whoever has addr.
func (r *run) loosenAt(addr netip.Addr) {
	r.addrs[addr] = true
	if p := r.at[addr]; p != nil {
		r.takeApart(p)
	}
}

// takeApart has all of a part compiled anew.
func (r *run) takeApart(p *part) {
	if p.gone {
		return
	}
	p.gone = true
	r.gone = append(r.gone, p)
	for _, addr := range p.addrs {
		delete(r.at, addr)
		r.addrs[addr] = true
	}
	for _, a := range p.uses {
		if a.parts--; a.parts == 0 {
			r.drop(a)
		}
	}
	for _, u := range p.units {
		u.part = nil
		r.loosen(u)
	}
}

func (r *run) drop(a *assigned) {
	r.former[a.Name] = a
	delete(r.assigned, a.Name)
	for _, w := range a.wants {
		left := slices.DeleteFunc(r.wanters[w.lookup], func(b *assigned) bool { return a == b })
		if r.wanters[w.lookup] = left; len(left) == 0 {
			delete(r.wanters, w.lookup)
		}
	}
}
