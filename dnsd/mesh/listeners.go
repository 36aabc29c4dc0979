package mesh

import (
	"cmp"
	"fmt"
	"slices"
)

// indexListeners checks a source's listeners and finds them by what they bind.
func (c *compiler) indexListeners(s *source, listeners []Listener) {
	s.listeners = make(map[bind]*Listener, len(listeners))
	sorted := make([]*Listener, len(listeners))
	for i := range listeners {
		sorted[i] = &listeners[i]
	}
	slices.SortFunc(sorted, func(a, b *Listener) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), slices.CompareFunc(a.Clusters, b.Clusters, compareWeighted))
	})
	for _, l := range sorted {
		if err := checkAddress(l.Address); err != nil {
			c.report(s, listenerObject(l), "%v; it is left out", err)
			continue
		}
		if l.Port == 0 || (l.Protocol != TCP && l.Protocol != UDP) || len(l.Clusters) == 0 {
			c.report(s, listenerObject(l), "it needs a TCP or UDP port and a cluster; it is left out")
			continue
		}
		at := bind{l.Address.Unmap(), l.Port, l.Protocol}
		if first := s.listeners[at]; first != nil {
			if !slices.Equal(first.Clusters, l.Clusters) {
				c.report(s, listenerObject(l), "%s is bound by listener %q already, which counts", at, first.Name)
			}
			continue
		}
		s.listeners[at] = l
		s.binds = append(s.binds, at)
		c.announced[at.addr] = true
	}
	slices.SortFunc(s.binds, compareBinds)
}

func compareWeighted(a, b WeightedCluster) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Weight, b.Weight))
}

// bindListeners makes the frontends of the listeners no host took. What a stronger source has is not
// theirs to take: it may well be the same host, with the address adopted from this source.
func (c *compiler) bindListeners(s *source) {
	for _, at := range s.binds {
		l := s.listeners[at]
		first, taken := c.frontends[frontendKey{bind: at}]
		if taken && first.source != s {
			continue
		}
		serves, known := c.listening(s, l)
		if !known && !taken && c.virtual(at.addr) {
			serves = c.refusing(s.name+"/"+l.Clusters[0].Name, l.Clusters[0].Name, s.name)
		}
		if serves != nil {
			r := &row{host: l.Name, object: listenerObject(l), source: s}
			c.bind(r, at, serves)
			c.guard(r, at.addr)
		}
	}
}

// listening says what a listener's connections are spread over; nil means they are left alone. known
// is false when no cluster of the listener exists, so that the host's own rule may decide.
func (c *compiler) listening(s *source, l *Listener) (serves *assigned, known bool) {
	var shares []share
	for _, wc := range l.Clusters {
		switch use, cl := c.judge(s, wc.Name, l.Address.Unmap()); use {
		case leave:
			if len(l.Clusters) > 1 {
				c.report(s, listenerObject(l), "its cluster %q cannot be balanced, so the whole split is left alone", wc.Name)
			}
			return nil, true
		case absent:
			c.report(s, listenerObject(l), "the source has no cluster %q (it may still come)", wc.Name)
		case balance:
			shares = append(shares, share{c.assign(s, cl), wc.Weight})
		}
	}
	if len(shares) == 0 {
		return nil, false
	}
	return c.split(s, shares), true
}

func listenerObject(l *Listener) string { return fmt.Sprintf("listener %q", l.Name) }
