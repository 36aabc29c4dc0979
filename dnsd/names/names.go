// Package names is the answer table: built whole from a mesh.Plan, looked up without locks, shared by all
// pods of a node.
//
// A Table is never changed once built; whoever serves it swaps the next one in. What a pod sees of it is
// decided while looking up, by the Client who asks: its namespace lays its own rows over everybody's, and
// its search list is stripped from a name that nobody has declared. So a name is stored once, however
// many pods and short forms it has.
//
// Beside the plan's names it knows what no nameserver should be asked for: localhost and the like, and
// whose the virtual addresses are.
//
// Names are compared in lower case and written with their final dot throughout.
package names

import (
	"iter"
	"net/netip"
	"strings"
	"sync"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

const (
	// DefaultTTL is the time to live of answers, in seconds, unless Options say otherwise.
	DefaultTTL = 30
	// NegativeTTL is how long, in seconds, a client may remember that a name has no such record: short,
	// since the next plan may add one.
	NegativeTTL = 5
)

// yieldEvery is after how many rows: a fraction of a millisecond.
const yieldEvery = 200

// Options are the settings of a Table. The zero value is ready to use.
type Options struct {
	// ClusterDomain is the cluster's DNS domain; empty means cluster.local.
	ClusterDomain string
	// TTL of answers in seconds; 0 means DefaultTTL.
	TTL uint32
	// VIPs are the ranges that virtual addresses are given from. Nobody else can know whose an address
	// of theirs is, so their reverse zones are ours. None means that none is.
	VIPs []netip.Prefix
	// Elsewhere are domains that others answer for, whatever a source says of a zone that they are in.
	Elsewhere []string
	// Endpoint, if set, says whether connections to row's addresses are spread over addr: the addresses behind
	// a service have names, too, and are far too many to be entered here.
	Endpoint func(row *Row, addr netip.Addr) bool
	// Yield, if set, is called every now and then while a table is built, to let others have their turn.
	Yield func()
	// Version is that of the program: another may make other answers of the same rows.
	Version string
}

// Client is who asks. It is only read, and must not change while it is in use.
type Client struct {
	// Namespace picks the view, and is where Kubernetes short names are looked for first.
	Namespace string
	// Search is the search list of the client's resolv.conf, in its order.
	Search []string
	// IPv6 says that the client can reach IPv6 addresses, and so may be told a virtual one.
	IPv6 bool
}

// Table answers names. Its methods may be called by any number of goroutines; a nil Table knows no name.
type Table struct {
	domain string // the cluster's, with its final dot
	ttl    uint32
	vips   []netip.Prefix
	zone   *zone // of which every name is known, if there is one
	rows   []*mesh.Name
	views  map[string]*view // by namespace; "" is everybody's
	index  *index

	version    string
	hash       sync.Once
	generation uint64
}

// view holds the rows that one namespace, or everybody, sees.
type view struct {
	*index                    // of all views
	name    string            // the namespace
	wild    map[string]*entry // wildcard rows by what follows "*."
	above   map[string]bool   // the names in the cluster's domain that any name is below
	targets map[*entry]string // of those that are a CNAME
}

// views are the two that a client sees: its namespace's own is laid over everybody's.
type views struct{ own, all *view }

func (t *Table) seenBy(c *Client) views {
	if c.Namespace == "" {
		return views{all: t.views[""]}
	}
	return views{own: t.views[c.Namespace], all: t.views[""]}
}

// entry is one name of the table: a row's own, or that of a record below it.
type entry struct {
	name    string // "*.example.com." for a wildcard
	row     *mesh.Name
	record  *mesh.Record // nil for the row itself
	number  uint32       // of the row, from 1
	virtual bool
	alias   bool // it has a target
	gone    bool // a headless service without endpoints: the specification has it that there is no such name
	local   bool // below the cluster's domain: nobody else is asked about it
}

// Build makes the table of p's names. It keeps p's rows, which must not change any more.
func Build(p *mesh.Plan, o Options) *Table {
	if o.ClusterDomain == "" {
		o.ClusterDomain = "cluster.local"
	}
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	t := &Table{domain: fqdn(o.ClusterDomain), ttl: o.TTL, vips: o.VIPs, rows: p.Names, views: map[string]*view{}, version: o.Version}
	t.zone = newZone(p, &o)
	t.index = newIndex(t.rows)
	for i := range t.rows {
		t.add(t.rows[i], uint32(i)+1)
		if o.Yield != nil && i%yieldEvery == yieldEvery-1 {
			o.Yield()
		}
	}
	return t
}

// add enters row and the records below it. A name or address that two rows of a view claim stays with
// the first, except that a record, being the more precise, takes an address from its own row.
func (t *Table) add(row *mesh.Name, number uint32) {
	x, v := t.index, t.views[row.View]
	if v == nil {
		v = &view{index: x, name: row.View, wild: map[string]*entry{}, above: map[string]bool{}, targets: map[*entry]string{}}
		t.views[row.View] = v
	}
	for i := range row.Records {
		t.addRecord(v, row, &row.Records[i], number)
	}
	e := x.enter(entry{name: x.fqdn(row.Host), row: row, number: number, virtual: row.Virtual})
	e.local = t.inDomain(e.name)
	e.gone = row.Headless && row.CNAME == "" && row.Data == nil && len(row.Addr4)+len(row.Addr6)+len(row.Records) == 0
	if row.CNAME != "" {
		e.alias = true
		v.targets[e] = fqdn(row.CNAME)
	}
	t.exists(v, e.name)
	if suffix, ok := strings.CutPrefix(e.name, "*."); ok {
		if v.wild[suffix] == nil {
			v.wild[suffix] = e
		}
		return
	}
	if i := x.named(v.name, e.name); x.exact[i] == 0 || x.at(x.exact[i]).record != nil {
		x.exact[i] = x.number()
	}
	// An address that is neither the mesh's nor the cluster's has a PTR record elsewhere, if at all.
	if row.Virtual || row.Kubernetes {
		x.claim()
	}
}

// addRecord enters a record below row.
func (t *Table) addRecord(v *view, row *mesh.Name, r *mesh.Record, number uint32) {
	e := v.enter(entry{name: v.fqdn(r.Label, row.Host), row: row, record: r, number: number})
	e.local = t.inDomain(e.name)
	v.claim()
	if i := v.named(v.name, e.name); v.exact[i] == 0 {
		v.exact[i] = v.number()
	}
	t.exists(v, e.name)
}

// exists enters what follows from name's existence: that every name above it exists, too, as far as the
// cluster's domain goes. The walk ends where another name's has been.
func (t *Table) exists(v *view, name string) {
	for {
		_, name, _ = strings.Cut(name, ".")
		if !t.inDomain(name) || v.above[name] {
			return
		}
		v.above[name] = true
	}
}

// Row returns the row of an Answer of this table, nil for one that has none. It must not be changed.
func (t *Table) Row(a *Answer) *Row {
	if a.Row == 0 {
		return nil
	}
	return t.rows[a.Row-1]
}

// Len is the number of rows.
func (t *Table) Len() int {
	if t == nil {
		return 0
	}
	return len(t.rows)
}

// All yields the rows in the plan's order. They must not be changed.
func (t *Table) All() iter.Seq[*mesh.Name] {
	return func(yield func(*mesh.Name) bool) {
		for i := range t.Len() {
			if !yield(t.rows[i]) {
				return
			}
		}
	}
}

func (t *Table) inDomain(name string) bool { return within(name, t.domain) }

func fqdn(host string) string { return strings.TrimSuffix(strings.ToLower(host), ".") + "." }
