package names

import (
	"hash/maphash"
	"math/bits"
	"net/netip"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// index finds entries, by name or by address, in one view. A node has one table and it may be large, so that
// an entry costs little more than its name: names lie one behind the other, entries too, and what finds them
// are places in those, kept by open addressing.
type index struct {
	seed    maphash.Seed
	entries []entry
	names   strings.Builder
	exact   []uint32 // by name and view, from 1; a power of two of them, a third at least 0
	reverse []claim  // by address and view, the same way
}

// claim is the entry that an address belongs to, from 1, and which one of its addresses that is.
type claim struct{ entry, nth uint32 }

// newIndex has room for the names of rows, for those of the records below them, and for what they claim.
func newIndex(rows []*mesh.Name) *index {
	entries, addrs, text := len(rows), 0, 0
	for _, row := range rows {
		text += len(row.Host) + 1
		addrs += len(row.Addr4) + len(row.Addr6)
		entries += len(row.Records)
		for i := range row.Records {
			text += len(row.Records[i].Label) + len(".") + len(row.Host) + 1
			addrs += len(row.Records[i].Addresses)
		}
	}
	x := &index{
		seed: maphash.MakeSeed(), entries: make([]entry, 0, entries),
		exact: make([]uint32, slots(entries)), reverse: make([]claim, slots(addrs)),
	}
	x.names.Grow(text)
	return x
}

// slots is how many places n entries need.
func slots(n int) int { return 1 << bits.Len(uint(n+n/2)) }

// fqdn is fqdn of parts, which belong together with a dot between them.
func (x *index) fqdn(parts ...string) string {
	start := x.names.Len()
	for _, part := range parts {
		x.names.WriteString(strings.TrimSuffix(strings.ToLower(part), "."))
		x.names.WriteByte('.')
	}
	return x.names.String()[start:]
}

// enter adds an entry that is not to be found yet. There must be room.
func (x *index) enter(e entry) *entry {
	x.entries = append(x.entries, e)
	return &x.entries[len(x.entries)-1]
}

// named returns where the entry of this name is in exact, or would be.
func (x *index) named(view, name string) int {
	mask := uint64(len(x.exact) - 1)
	for i := maphash.String(x.seed, name) ^ maphash.String(x.seed, view); ; i++ {
		n := x.exact[i&mask]
		if n == 0 {
			return int(i & mask)
		}
		if e := &x.entries[n-1]; e.name == name && e.row.View == view {
			return int(i & mask)
		}
	}
}

// at returns the entry that number n stands for, nil for 0.
func (x *index) at(n uint32) *entry {
	if n == 0 {
		return nil
	}
	return &x.entries[n-1]
}

// number is that of the entry entered last.
func (x *index) number() uint32 { return uint32(len(x.entries)) }

// addressed returns where the claim to an address is in reverse, or would be.
func (x *index) addressed(view string, addr netip.Addr) int {
	mask := uint64(len(x.reverse) - 1)
	bytes := addr.As16()
	for i := maphash.Bytes(x.seed, bytes[:]) ^ maphash.String(x.seed, view); ; i++ {
		c := x.reverse[i&mask]
		if c.entry == 0 {
			return int(i & mask)
		}
		if e := &x.entries[c.entry-1]; e.nth(c.nth) == addr && e.row.View == view {
			return int(i & mask)
		}
	}
}

// claim has the addresses of the entry entered last belong to it, as far as nobody has claimed them.
func (x *index) claim() {
	e := x.at(x.number())
	for n := range uint32(len(e.a()) + len(e.aaaa())) {
		if i := x.addressed(e.row.View, e.nth(n)); x.reverse[i].entry == 0 {
			x.reverse[i] = claim{x.number(), n}
		}
	}
}

// nth is e's n-th address.
func (e *entry) nth(n uint32) netip.Addr {
	if v4 := e.a(); int(n) < len(v4) {
		return v4[n]
	}
	return e.aaaa()[int(n)-len(e.a())]
}

// a and aaaa are e's addresses. Those of a record are sorted, which has IPv4 first.
func (e *entry) a() []netip.Addr {
	if e.record == nil {
		return e.row.Addr4
	}
	return e.record.Addresses[:e.v4s()]
}

func (e *entry) aaaa() []netip.Addr {
	if e.record == nil {
		return e.row.Addr6
	}
	return e.record.Addresses[e.v4s():]
}

// v4s is how many IPv4 addresses e's record has.
func (e *entry) v4s() (n int) {
	for n < len(e.record.Addresses) && e.record.Addresses[n].Is4() {
		n++
	}
	return n
}
