package mesh

import (
	"cmp"
	"net/netip"
	"slices"
)

// Spreads says whether connections to one of n's addresses are spread over addr. n is one of the plan's
// names, or has been one of an earlier plan.
func (p *Plan) Spreads(n *Name, addr netip.Addr) bool {
	for _, list := range [...][]netip.Addr{n.Addr4, n.Addr6} {
		for _, own := range list {
			i, _ := slices.BinarySearchFunc(p.Frontends, own, func(f *Frontend, own netip.Addr) int { return f.Address.Compare(own) })
			for ; i < len(p.Frontends) && p.Frontends[i].Address == own; i++ {
				if a := p.assignment(p.Frontends[i].Assignment); a != nil && a.uses(addr) {
					return true
				}
			}
		}
	}
	return false
}

func (p *Plan) assignment(name string) *Assignment {
	i, ok := slices.BinarySearchFunc(p.Assignments, name, func(a *Assignment, name string) int { return cmp.Compare(a.Name, name) })
	if !ok {
		return nil
	}
	return p.Assignments[i]
}

// uses says whether addr is an endpoint that gets connections.
func (a *Assignment) uses(addr netip.Addr) bool {
	for i := range a.Localities {
		for _, e := range a.Localities[i].Endpoints {
			if e.Address.Addr() == addr && !e.Unhealthy {
				return true
			}
		}
	}
	return false
}
