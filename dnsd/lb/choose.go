package lb

import (
	"cmp"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// choice is which endpoints of one family an assignment's connections go to, and in which proportions.
type choice struct {
	*mesh.Assignment
	levels  [][]mesh.AssignedLocality // by priority, with endpoints of the family only
	ejected map[netip.AddrPort]bool
}

// defaults of Envoy's, in percent.
const overprovisioning, panicThreshold = 140, 50

func newChoice(a *mesh.Assignment, is4 bool, ejected map[netip.AddrPort]bool) *choice {
	c := &choice{Assignment: a, ejected: ejected}
	for i, loc := range a.Localities { // sorted by priority
		if i == 0 || loc.Priority != a.Localities[i-1].Priority {
			c.levels = append(c.levels, nil)
		}
		var own []mesh.AssignedEndpoint
		for _, e := range loc.Endpoints {
			if e.Address.Addr().Is4() == is4 {
				own = append(own, e)
			}
		}
		if len(own) > 0 {
			loc.Endpoints = own
			c.levels[len(c.levels)-1] = append(c.levels[len(c.levels)-1], loc)
		}
	}
	return c
}

func (c *choice) over() uint32 { return cmp.Or(c.Overprovisioning, overprovisioning) }

// threshold is below which percentage of healthy endpoints a priority panics.
func (c *choice) threshold() uint32 {
	if c.PanicThreshold == nil {
		return panicThreshold
	}
	return *c.PanicThreshold
}

// tier is one priority's groups and what their shares add up to.
type tier struct {
	groups  []group
	total   uint64
	percent uint32 // of all connections
}

// groups are the endpoints that get connections, or will as soon as they are well again.
func (c *choice) groups() []group {
	loads := c.loads()
	last := -1
	for i, l := range loads {
		if l.percent > 0 {
			last = i
		}
	}
	var tiers []tier
	for i := range last + 1 {
		t := c.sharing(c.levels[i])
		if loads[i].panic {
			t = c.panicking(c.levels[i])
		}
		t.percent = loads[i].percent
		if t.percent == 0 { // if any is ejected, it is probed with the share it would have
			t.percent = 100
		}
		if !loads[i].panic || loads[i].percent > 0 {
			tiers = append(tiers, t)
		}
	}
	return join(slices.DeleteFunc(tiers, func(t tier) bool { return len(t.groups) == 0 }))
}

// join makes the shares of several tiers comparable.
func join(tiers []tier) []group {
	var groups []group
	for _, t := range tiers {
		if len(tiers) == 1 {
			return t.groups
		}
		const percent = 720720 // it can be divided by all small numbers
		for _, g := range t.groups {
			high, low := bits.Mul64(g.share, uint64(t.percent)*percent)
			g.share, _ = bits.Div64(high, low, t.total)
			groups = append(groups, g)
		}
	}
	return groups
}

// loads says what each priority gets. Ejected endpoints are unhealthy ones, with two exceptions. An
// ejection the cluster did not ask for, by this node's own default, makes no panic: that would send
// connections where they are known to fail. And when ejections leave nobody, they do not count: one that
// may refuse is no worse than nobody.
func (c *choice) loads() []load {
	declared, present := make([]health, len(c.levels)), make([]health, len(c.levels))
	for i, level := range c.levels {
		declared[i], present[i] = c.health(level, false), c.health(level, true)
	}
	some := func(all []load) bool {
		return slices.ContainsFunc(all, func(l load) bool { return l.percent > 0 })
	}
	threshold := c.threshold()
	all := loads(declared, c.over(), threshold)
	if c.Outlier == nil {
		if slices.ContainsFunc(all, func(l load) bool { return l.panic && l.percent > 0 }) {
			return all
		}
		threshold = 0
	}
	if now := loads(present, c.over(), threshold); some(now) {
		return now
	}
	return all
}

func (c *choice) health(localities []mesh.AssignedLocality, ejections bool) (h health) {
	for _, loc := range localities {
		h.total += len(loc.Endpoints)
		for _, e := range loc.Endpoints {
			if !e.Unhealthy && (!ejections || !c.ejected[e.Address]) {
				h.healthy++
			}
		}
	}
	return h
}

// panicking is a priority all of whose endpoints are used, each speaking for itself.
func (c *choice) panicking(localities []mesh.AssignedLocality) tier {
	g := group{share: 1, always: c.Outlier != nil}
	for _, loc := range localities {
		g.endpoints = append(g.endpoints, loc.Endpoints...)
	}
	return newTier(1, g)
}

// sharing is what a priority's healthy endpoints get. With weighted localities each locality has a part
// that goes by its weight, and by its health in the same way as a priority's load does; else each
// endpoint speaks for itself.
func (c *choice) sharing(localities []mesh.AssignedLocality) tier {
	if !c.LocalityWeighted {
		g := group{share: 1, resting: c.ejected}
		for _, loc := range localities {
			g.endpoints = append(g.endpoints, healthy(loc)...)
		}
		return newTier(1, g)
	}
	var groups []group
	var total, natural uint64
	for _, loc := range localities {
		g := group{endpoints: healthy(loc), resting: c.ejected}
		available := c.health([]mesh.AssignedLocality{loc}, true).percent(c.over())
		total += uint64(loc.Weight) * uint64(available)
		if available == 0 { // as for a priority
			available = c.health([]mesh.AssignedLocality{loc}, false).percent(c.over())
		}
		g.share = uint64(loc.Weight) * uint64(available)
		natural += g.share
		groups = append(groups, g)
	}
	return newTier(cmp.Or(total, natural, 1), groups...)
}

func newTier(total uint64, groups ...group) tier {
	empty := func(g group) bool { return len(g.endpoints) == 0 || g.share == 0 }
	return tier{groups: slices.DeleteFunc(groups, empty), total: total}
}

// healthy are the endpoints the control plane does not call unhealthy.
func healthy(loc mesh.AssignedLocality) []mesh.AssignedEndpoint {
	var list []mesh.AssignedEndpoint
	for _, e := range loc.Endpoints {
		if !e.Unhealthy {
			list = append(list, e)
		}
	}
	return list
}
