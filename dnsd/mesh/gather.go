package mesh

import (
	"net/netip"
	"slices"
	"strings"
)

// giveAddresses gives a virtual pair to every host that wants one and has no address. An announced
// address that another host has from us stays with that host, since clients may remember it; the
// announcer gets a pair instead.
func (r *run) giveAddresses() {
	had := make(map[*unit]bool, len(r.queue))
	for i, u := range r.queue {
		if r.Yield != nil && i%yieldEvery == yieldEvery-1 {
			r.Yield()
		}
		had[u] = u.wants
		r.rows[u] = r.hear(u)
		u.wants = slices.ContainsFunc(r.rows[u], (*row).wants)
	}
	keeps := func(holder string) bool {
		u := r.units[holder]
		return u != nil && u.wants || r.partial
	}
	for _, u := range r.queue {
		for _, row := range r.rows[u] {
			r.yieldAddresses(u, row, keeps)
		}
	}
	due := r.plan == nil || r.wasPartial && !r.partial
	var fresh []string
	for _, u := range r.queue {
		u.wants = slices.ContainsFunc(r.rows[u], (*row).wants)
		due = due || u.wants != had[u]
		if u.wants && !r.vips.has(u.name) {
			fresh = append(fresh, u.name)
		}
		if r.forgotten(u) {
			delete(r.units, u.name)
		}
		// Whether it has what it announces, another host may decide.
		r.setUneasy(u, len(u.announced) > 0)
	}
	if due || len(fresh) > 0 {
		wanted := func(host string) bool { u := r.units[host]; return u != nil && u.wants }
		r.vips.settle(wanted, fresh, r.announced, r.partial)
	}
	for _, u := range r.queue {
		r.addPairs(u)
		if u.wants && !r.vips.has(u.name) {
			r.setUneasy(u, true) // there may be a pair the next time
		}
	}
}

// forgotten says that there is nothing to tell of a host, not even what is wrong with it.
func (r *run) forgotten(u *unit) bool { return len(r.rows[u]) == 0 && len(u.all) == 0 }

func (r *run) setUneasy(u *unit, uneasy bool) {
	if uneasy {
		r.uneasy[u] = true
	} else {
		delete(r.uneasy, u)
	}
}

// announced yields the addresses that sources announce, of those that pairs are given from.
func (r *run) announced(yield func(netip.Addr) bool) {
	for _, s := range r.sources {
		for _, addr := range s.announced {
			if !yield(addr) {
				return
			}
		}
	}
	for u := range r.uneasy { // whoever announces any is among them
		for _, addr := range u.announced {
			if !yield(addr) {
				return
			}
		}
	}
}

// wants says whether a pair is wanted for the row.
func (r *row) wants() bool {
	return r.allocate && len(r.addrs) == 0 && !r.headless && r.externalName == "" && !strings.HasPrefix(r.host, "*.")
}

// addPairs gives the rows of a host that want it the pair it has.
func (r *run) addPairs(u *unit) {
	for _, row := range r.rows[u] {
		if !row.wants() {
			continue
		}
		if pair, ok := r.vips.pair(u.name); ok {
			row.addrs = []netip.Addr{pair.v4, pair.v6}
		} else {
			u.report(row.source, row.object, "no virtual address is left for %s in %s and %s: its name goes upstream; use larger ranges",
				row.host, r.vips.v4, r.vips.v6)
		}
	}
}

// yieldAddresses takes from a row the addresses that another host has from us and keeps.
func (r *run) yieldAddresses(u *unit, row *row, keeps func(holder string) bool) {
	had := len(row.addrs)
	row.addrs = slices.DeleteFunc(row.addrs, func(addr netip.Addr) bool {
		holder := r.vips.holder(addr)
		if holder == "" || holder == row.host || !keeps(holder) {
			return false
		}
		u.conflict(row.source, row.object, row.host, "address %s of %s is %s's, given by this node before it was announced; announce one outside %s and %s",
			addr, row.host, holder, r.vips.v4, r.vips.v6)
		return true
	})
	row.allocate = row.allocate || len(row.addrs) < had
}

// gather puts hosts and listeners together that have an address in common. Whoever has one of them
// already is taken apart first.
func (r *run) gather() {
	for i := 0; i < len(r.queue); i++ { // it grows
		u := r.queue[i]
		if r.rows[u] == nil {
			r.rows[u] = r.hear(u)
			r.addPairs(u)
		}
		for addr := range addressesOf(r.rows[u]) {
			if p := r.at[addr]; p != nil {
				r.takeApart(p)
			}
		}
	}
	for _, u := range r.queue {
		if !r.forgotten(u) {
			r.place(u)
		}
	}
	for addr := range r.addrs {
		if r.at[addr] == nil && slices.ContainsFunc(r.sources, func(s *source) bool { return len(s.bound(addr)) > 0 }) {
			r.own(r.newPart(), addr)
		}
	}
	r.come = slices.DeleteFunc(r.come, func(p *part) bool { return p.gone })
}

// addressesOf yields the addresses that connections to a host go to, some of them several times.
func addressesOf(rows []*row) func(yield func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		for _, row := range rows {
			for _, addr := range row.addrs {
				if !row.headless && !yield(addr) {
					return
				}
			}
		}
	}
}

// place puts a host where its addresses are.
func (r *run) place(u *unit) {
	for addr := range addressesOf(r.rows[u]) {
		if p := r.at[addr]; p != nil && p != u.part {
			u.part = r.join(p, u.part)
		}
	}
	if u.part == nil {
		u.part = r.newPart()
	}
	u.part.units = append(u.part.units, u)
	for addr := range addressesOf(r.rows[u]) {
		r.own(u.part, addr)
	}
}

func (r *run) newPart() *part {
	p := &part{}
	r.come = append(r.come, p)
	return p
}

func (r *run) own(p *part, addr netip.Addr) {
	if r.at[addr] == nil {
		r.at[addr] = p
		p.addrs = append(p.addrs, addr)
	}
}

// join makes one of two new parts, of which q may be nil.
func (r *run) join(p, q *part) *part {
	if q == nil {
		return p
	}
	if len(p.addrs) < len(q.addrs) {
		p, q = q, p
	}
	q.gone = true
	for _, addr := range q.addrs {
		r.at[addr] = p
	}
	for _, u := range q.units {
		u.part = p
	}
	p.addrs, p.units = append(p.addrs, q.addrs...), append(p.units, q.units...)
	return p
}
