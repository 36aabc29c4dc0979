package mesh

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// binding is a frontend as it is decided: who has it, and what serves it.
type binding struct {
	host, object string
	source       *source
	serves       *assigned
}

// giveAddresses gives a virtual pair to every host that wants one and has no address. An announced
// address that another host has from us stays with that host, since clients may remember it; the
// announcer gets a pair instead.
func (c *compiler) giveAddresses(rows []*row) {
	wanted := make(map[string]bool)
	want := func(r *row) bool {
		return r.allocate && len(r.addrs) == 0 && !r.headless && r.externalName == "" && !strings.HasPrefix(r.host, "*.")
	}
	for _, r := range rows {
		if want(r) {
			wanted[r.host] = true
		}
	}
	for _, r := range rows {
		c.yieldAddresses(r, func(holder string) bool { return wanted[holder] || c.partial })
	}
	for _, r := range rows {
		if want(r) {
			wanted[r.host] = true
		}
	}
	pairs := c.vips.assign(slices.Sorted(maps.Keys(wanted)), c.announced, c.partial)
	for _, r := range rows {
		if !want(r) {
			continue
		}
		if pair, ok := pairs[r.host]; ok {
			r.addrs = []netip.Addr{pair.v4, pair.v6}
		} else {
			c.report(r.source, r.object, "no virtual address is left for %s in %s and %s: its name goes upstream; use larger ranges",
				r.host, c.vips.v4, c.vips.v6)
		}
	}
}

// yieldAddresses takes from a row the addresses that another host has from us and keeps.
func (c *compiler) yieldAddresses(r *row, keeps func(holder string) bool) {
	had := len(r.addrs)
	r.addrs = slices.DeleteFunc(r.addrs, func(addr netip.Addr) bool {
		holder := c.vips.holder(addr)
		if holder == "" || holder == r.host || !keeps(holder) {
			return false
		}
		c.report(r.source, r.object, "address %s of %s is %s's, given by this node before it was announced; announce one outside %s and %s",
			addr, r.host, holder, c.vips.v4, c.vips.v6)
		return true
	})
	r.allocate = r.allocate || len(r.addrs) < had
}

// bindRow makes the frontends of one host in one view. A row that listeners alone tell from everybody's
// has only theirs: for the rest everybody's are its own, too.
func (c *compiler) bindRow(r *row) {
	if r.headless {
		return
	}
	r.balanced = r.all != nil && r.all.balanced
	for _, addr := range r.addrs {
		for _, p := range r.ports {
			at := frontendKey{bind{addr, p.Number, p.Protocol}, r.view}
			if r.all != nil && r.source.listeners[at] == nil {
				if b, ok := c.frontends[frontendKey{bind: at.bind}]; ok {
					r.reach(b.serves)
				}
			} else if serves := c.serving(r, at, p.Cluster); serves != nil {
				c.bind(r, at, serves)
			}
		}
		if c.virtual(addr) && r.all == nil {
			c.bind(r, frontendKey{bind{addr: addr}, r.view}, c.anyPort(r))
			if r.view != "" {
				c.guard(r, addr)
			}
		}
	}
}

// guard notes that addr, if it is virtual, must have a frontend for everybody: whoever knows it
// without being allowed to see its host is refused, instead of sending packets to nowhere.
func (c *compiler) guard(r *row, addr netip.Addr) {
	if _, ok := c.guarded[addr]; !ok && c.virtual(addr) {
		c.guarded[addr] = r
	}
}

func (c *compiler) bindGuards() {
	for addr, r := range c.guarded {
		key := frontendKey{bind: bind{addr: addr}}
		if _, ok := c.frontends[key]; !ok {
			c.frontends[key] = binding{r.host, r.object, r.source, c.refusing("refuse", "", "")}
		}
	}
}

// bind puts a frontend into the plan, unless a stronger source or an earlier host has it already.
func (c *compiler) bind(r *row, at frontendKey, serves *assigned) {
	b, ok := c.frontends[at]
	if !ok {
		b = binding{r.host, r.object, r.source, serves}
		c.frontends[at] = b
	} else if b.serves != serves && at.port != 0 {
		c.report(r.source, r.object, "%s of %s is served for %s (%s) already, and connections reach that", at, r.host, b.host, b.object)
	}
	r.balanced = true
	if at.port != 0 {
		r.reach(b.serves)
	}
}

// serving says what connections to one declared port are spread over; nil means they are left alone.
func (c *compiler) serving(r *row, at frontendKey, cluster string) *assigned {
	for _, key := range [...]frontendKey{at, {bind: at.bind}} {
		if l := r.source.listeners[key]; l != nil {
			if serves, known := c.listening(r.source, l); known {
				return serves
			}
		}
	}
	if cluster == "" {
		return nil
	}
	switch use, cl := c.judge(r.source, cluster, at.addr); use {
	case balance:
		return c.assign(r.source, cl)
	case absent:
		c.report(r.source, r.object, "port %d/%s of %s: the source has no cluster %q (it may still come)", at.port, at.protocol, r.host, cluster)
		if c.virtual(at.addr) {
			return c.refusing(r.source.name+"/"+cluster, cluster, r.source.name)
		}
	}
	return nil
}

// connections returns the frontends decided, the assignments they use and the lookups those need.
func (c *compiler) connections() ([]Frontend, []Assignment, []Watch) {
	frontends := make([]Frontend, 0, len(c.frontends))
	used := make(map[string]*assigned)
	for key, b := range c.frontends {
		frontends = append(frontends, Frontend{
			Address: key.addr, Port: key.port, Protocol: key.protocol,
			View: key.view, Host: b.host, Assignment: b.serves.Name,
		})
		used[b.serves.Name] = b.serves
	}
	slices.SortFunc(frontends, func(a, b Frontend) int {
		return cmp.Or(
			a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port),
			cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.View, b.View),
		)
	})
	assignments := make([]Assignment, 0, len(used))
	wants := make(map[Lookup][]want)
	for _, name := range slices.Sorted(maps.Keys(used)) {
		a := used[name]
		a.Warming, a.Lookups = c.warming(a), lookupsOf(a.wants)
		assignments = append(assignments, a.Assignment)
		for _, w := range a.wants {
			wants[w.lookup] = append(wants[w.lookup], w)
		}
	}
	return frontends, assignments, watches(wants)
}
