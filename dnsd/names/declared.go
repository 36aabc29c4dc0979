package names

import (
	"iter"
	"net/netip"
)

// Declared is a name, and all that A and AAAA questions for it need to know of a client is its namespace
// and whether it has IPv6. It must not be changed.
type Declared struct {
	Name string // in lower case, with its final dot
	View string // the namespace that sees it; empty for everybody else
	// A and AAAA are its addresses, AAAA only for clients with IPv6 if Virtual.
	A, AAAA []netip.Addr
	Virtual bool
	TTL     uint32 // of addresses, in seconds
	Zone    string // of the SOA record where there is no address: the end of Name
	// Other says that the answer is of another kind: a CNAME, or that there is no such name.
	Other bool
}

// Declared yields every name that is found as it stands, once for each view in which it is another.
func (t *Table) Declared() iter.Seq[Declared] {
	return func(yield func(Declared) bool) {
		for i := range t.index.entries {
			e := &t.index.entries[i]
			// See lookup: a row of everybody's counts for more than a record of the namespace's.
			if lookup(views{t.views[e.row.View], t.views[""]}, e.name) != e {
				continue
			}
			d := Declared{
				Name: e.name, View: e.row.View, A: e.a(), AAAA: e.aaaa(), Virtual: e.virtual,
				TTL: t.ttlOf(e), Zone: e.name, Other: e.alias || e.gone,
			}
			if e.local {
				d.Zone = t.domain
			}
			if !yield(d) {
				return
			}
		}
	}
}
