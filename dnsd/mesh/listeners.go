package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// checkListener says what is wrong with a listener, or nil.
func checkListener(l *Listener) error {
	if err := checkAddress(l.Address); err != nil {
		return fmt.Errorf("%w; it is left out", err)
	}
	if l.Port == 0 || (l.Protocol != TCP && l.Protocol != UDP) || len(l.Clusters) == 0 {
		return errors.New("it needs a TCP or UDP port and a cluster; it is left out")
	}
	return nil
}

func listenerKey(l *Listener) (frontendKey, bool) {
	return frontendKey{bind{l.Address.Unmap(), l.Port, l.Protocol}, l.View}, checkListener(l) == nil
}

// checkListeners reports those that bind nothing.
func (s *source) checkListeners(r *reports) {
	for _, i := range s.listeners.bad {
		l := &s.listeners.list[i]
		r.report(s, listenerObject(l), "%v", checkListener(l))
	}
	for at := range s.listeners.twins {
		first := s.listener(at)
		for l := range s.listeners.all(at) {
			if !slices.Equal(first.Clusters, l.Clusters) {
				r.report(s, listenerObject(l), "%s is bound by listener %q already, which counts", at, first.Name)
			}
		}
	}
}

// listener returns what a source has bound there, the first by name, or nil.
func (s *source) listener(at frontendKey) (first *Listener) {
	for l := range s.listeners.all(at) {
		if first == nil || cmp.Or(cmp.Compare(l.Name, first.Name), slices.CompareFunc(l.Clusters, first.Clusters, compareWeighted)) < 0 {
			first = l
		}
	}
	return first
}

func compareWeighted(a, b WeightedCluster) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Weight, b.Weight))
}

// bindListeners makes the frontends of a source's listeners at an address that no host took. What a
// stronger source has is not theirs to take: it may well be the same host, with the address adopted from
// this source.
func (b *binder) bindListeners(s *source, addr netip.Addr) {
	for _, at := range s.bound(addr) { // everybody's before those of views
		l := s.listener(at)
		first, taken := b.frontends[at]
		if !taken {
			first, taken = b.frontends[frontendKey{bind: at.bind}]
		}
		if taken && first.source != s {
			continue
		}
		serves, known := b.listening(s, l)
		switch {
		case !known && !taken && b.virtual(at.addr):
			serves = b.refusing(s.name+"/"+l.Clusters[0].Name, l.Clusters[0].Name, s.name)
		case known && serves == nil && taken && at.view != "":
			b.report(s, listenerObject(l), "it leaves %s alone, which cannot be had for one namespace: connections reach what serves %s", at, first.host)
		}
		if serves != nil {
			r := &row{host: l.Name, view: l.View, object: listenerObject(l), source: s}
			b.bind(r, at, serves)
			b.guard(r, at.addr)
		}
	}
}

// distinct returns the rows that listeners add to those of one host: one for each view in which a listener
// serves a port of the row that everybody sees. What a namespace is answered must fit what its
// connections reach.
func distinct(rows []*row) (more []*row) {
	if len(rows) == 0 {
		return nil
	}
	all := rows[0] // sorted by view, so that everybody's comes first
	if all.view != "" || all.headless || len(all.source.binds) == 0 {
		return nil
	}
	var views []string
	for _, addr := range all.addrs {
		for _, at := range all.source.bound(addr) {
			if at.view != "" && slices.ContainsFunc(all.ports, func(p Port) bool { return p.Number == at.port && p.Protocol == at.protocol }) {
				views = append(views, at.view)
			}
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
func (b *binder) listening(s *source, l *Listener) (serves *assigned, known bool) {
	var shares []share
	for _, wc := range l.Clusters {
		switch use, cl := b.judge(s, wc.Name, l.Address.Unmap()); use {
		case leave:
			if len(l.Clusters) > 1 {
				b.report(s, listenerObject(l), "its cluster %q cannot be balanced, so the whole split is left alone", wc.Name)
			}
			return nil, true
		case absent:
			b.report(s, listenerObject(l), "the source has no cluster %q (it may still come)", wc.Name)
		case balance:
			shares = append(shares, share{b.assign(s, cl), wc.Weight})
		}
	}
	if len(shares) == 0 {
		return nil, false
	}
	return b.split(s, shares), true
}

func listenerObject(l *Listener) string { return fmt.Sprintf("listener %q", l.Name) }
