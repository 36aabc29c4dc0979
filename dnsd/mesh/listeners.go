package mesh

import (
	"cmp"
	"fmt"
	"slices"
)

// indexListeners checks a source's listeners and finds them by what they bind.
func (c *compiler) indexListeners(s *source, listeners []Listener) {
	s.listeners = make(map[frontendKey]*Listener, len(listeners))
	s.private = make(map[bind][]string)
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
		at := frontendKey{bind{l.Address.Unmap(), l.Port, l.Protocol}, l.View}
		if first := s.listeners[at]; first != nil {
			if !slices.Equal(first.Clusters, l.Clusters) {
				c.report(s, listenerObject(l), "%s is bound by listener %q already, which counts", at, first.Name)
			}
			continue
		}
		s.listeners[at] = l
		if l.View != "" {
			s.private[at.bind] = append(s.private[at.bind], l.View)
		}
		s.binds = append(s.binds, at)
		c.announced[at.addr] = true
	}
	slices.SortFunc(s.binds, compareKeys)
}

func compareWeighted(a, b WeightedCluster) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Weight, b.Weight))
}

// bindListeners makes the frontends of the listeners no host took. What a stronger source has is not
// theirs to take: it may well be the same host, with the address adopted from this source.
func (c *compiler) bindListeners(s *source) {
	for _, at := range s.binds { // everybody's before those of views
		l := s.listeners[at]
		first, taken := c.frontends[at]
		if !taken {
			first, taken = c.frontends[frontendKey{bind: at.bind}]
		}
		if taken && first.source != s {
			continue
		}
		serves, known := c.listening(s, l)
		switch {
		case !known && !taken && c.virtual(at.addr):
			serves = c.refusing(s.name+"/"+l.Clusters[0].Name, l.Clusters[0].Name, s.name)
		case known && serves == nil && taken && at.view != "":
			c.report(s, listenerObject(l), "it leaves %s alone, which cannot be had for one namespace: connections reach what serves %s", at, first.host)
		}
		if serves != nil {
			r := &row{host: l.Name, view: l.View, object: listenerObject(l), source: s}
			c.bind(r, at, serves)
			c.guard(r, at.addr)
		}
	}
}

// distinguish adds rows for the views in which listeners serve ports of a row that everybody sees: what a
// namespace is answered must fit what its connections reach.
func (c *compiler) distinguish(rows []*row) []*row {
	all := make([]*row, 0, len(rows))
	for len(rows) > 0 {
		n := 1
		for n < len(rows) && rows[n].host == rows[0].host {
			n++
		}
		all = append(all, rows[:n]...)
		all = append(all, distinct(rows[:n])...)
		rows = rows[n:]
	}
	slices.SortFunc(all, func(a, b *row) int { return cmp.Or(cmp.Compare(a.host, b.host), cmp.Compare(a.view, b.view)) })
	return all
}

// distinct returns the rows that listeners add to those of one host.
func distinct(rows []*row) (more []*row) {
	all := rows[0] // sorted by view, so that everybody's comes first
	if all.view != "" || all.headless || len(all.source.private) == 0 {
		return nil
	}
	var views []string
	for _, addr := range all.addrs {
		for _, p := range all.ports {
			views = append(views, all.source.private[bind{addr, p.Number, p.Protocol}]...)
		}
	}
	slices.Sort(views)
	for _, view := range slices.Compact(views) {
		if !slices.ContainsFunc(rows, func(r *row) bool { return r.view == view }) {
			own := *all
			own.view, own.all = view, all
			more = append(more, &own)
		}
	}
	return more
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
