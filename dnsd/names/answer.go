package names

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// Kind says who has the last word on a question.
type Kind uint8

const (
	// NotOurs means that the table does not know the name: the question goes upstream as it stands.
	NotOurs Kind = iota
	// Ours means that the Answer is the whole answer; without records it is NODATA, or NoName.
	Ours
	// Ask means that the name is ours but may have records of this type elsewhere: upstream is asked for
	// the Owner, and if it has no answer, or is at a loss, the answer is NODATA.
	Ask
	// Chase means that CNAMEs lead out of the table: upstream goes on from the Owner, and its outcome is
	// the outcome.
	Chase
	// Exists means that nobody declared the name, but names of the cluster are below it: the question goes
	// upstream as it stands, but "no such name" becomes NODATA, since whoever believes that may conclude
	// that there is none below either (RFC 8020). Zones of others are theirs to deny.
	Exists
)

// Row is one row of the plan, for those who do not know what a plan is.
type Row = mesh.Name

// maxCNAMEs bounds how many CNAMEs are followed within the table.
const maxCNAMEs = 8

// Answer is what the table says to one question. It is plain data that points into the table: making one
// allocates nothing, except for SRV records and names that spell an address. The slices must not be changed.
type Answer struct {
	Kind Kind
	// TTL of the records below, in seconds.
	TTL uint32
	// Addresses are the A or AAAA records of Owner, as the question asked. Whoever writes them down
	// starts at another one each time.
	Addresses []netip.Addr
	// Services are SRV records.
	Services []Service
	// Mail are MX records.
	Mail []Mail
	// Texts are TXT records, of any length.
	Texts []string
	// PTR is the name an address belongs to.
	PTR string
	// Zone owns the SOA record that a negative answer carries; empty if this is none, and cannot become
	// one either.
	Zone string
	// NoName means that there is no such name (NXDOMAIN), rather than no such record.
	NoName bool
	// Fleeting says that the next answer may be another, of the same table: it follows from what connections
	// are spread over.
	Fleeting bool
	// Row says what decided, to Table.Row: the row of the name found, before any CNAME was followed. It is
	// a number, so that keeping it does not look to the compiler like keeping the question's name.
	Row int

	cnames  [maxCNAMEs]string
	ncnames int
}

// Service is an SRV record, and the addresses of its target.
type Service struct {
	Priority, Weight, Port uint16
	Target                 string
	A, AAAA                []netip.Addr
}

// Mail is an MX record, and the addresses of its target.
type Mail struct {
	Preference uint16
	Target     string
	A, AAAA    []netip.Addr
}

// CNAMEs are the targets of the CNAME records that come first: the question's name owns the first of
// them, and each target the next.
func (a *Answer) CNAMEs() []string { return a.cnames[:a.ncnames] }

// Owner is the name that owns the records behind the CNAMEs: the last target, or else qname.
func (a *Answer) Owner(qname string) string {
	if a.ncnames > 0 {
		return a.cnames[a.ncnames-1]
	}
	return qname
}

// empty reports whether the answer has no record but CNAMEs.
func (a *Answer) empty() bool {
	return len(a.Addresses)+len(a.Services)+len(a.Mail)+len(a.Texts) == 0 && a.PTR == ""
}

// follow adds a CNAME; it reports false for one too many, or one that leads back.
func (a *Answer) follow(target string) bool {
	for _, seen := range a.CNAMEs() {
		if seen == target {
			return false
		}
	}
	if a.ncnames == maxCNAMEs {
		return false
	}
	a.cnames[a.ncnames] = target
	a.ncnames++
	return true
}

// Lookup answers a question of class IN. qname is as asked, in any case and with or without its final
// dot. A and AAAA of a name always lead to the same Kind, since a stub resolver that gets an address for
// one and "no such name" for the other may believe the latter.
func (t *Table) Lookup(c *Client, qname string, qtype uint16) Answer {
	q, ok := normal(qname)
	if t == nil || !ok {
		return Answer{}
	}
	v := t.seenBy(c)
	m := t.find(c, v, q)
	if m.entry == nil {
		return t.undeclared(v, q, qtype)
	}
	if !m.answers(qtype) {
		if t.denies(q) {
			return Answer{Kind: Ours, TTL: t.ttl, Zone: t.domain}
		}
		return Answer{}
	}
	a := Answer{TTL: t.ttlOf(m.entry), Row: int(m.entry.number)}
	if m.domain != "" {
		// Not by follow: what is stored through a pointer, the compiler believes to be kept, and qname could
		// not lie on the caller's stack.
		a.cnames[0], a.ncnames = m.full, 1
	}
	t.settle(&a, c, v, &m, qtype)
	if a.Kind == Chase || a.Kind == Ours && (!a.empty() || a.ncnames > 0 && wantsCNAME(qtype)) {
		return a
	}
	if m.domain != "" && a.Kind == Ours {
		a.ncnames = 0 // a name of the search list without data is NODATA itself, as Istio has it
	}
	if a.Zone = a.Owner(q); t.inDomain(a.Zone) {
		a.Zone = t.domain
	}
	return a
}

// undeclared answers what no row does: an address's name, a name of a zone of which every name is known, one
// that is special, or one that must only not be denied.
func (t *Table) undeclared(v views, q string, qtype uint16) Answer {
	if addr, ok := reverseAddr(q); ok {
		return t.pointer(v, addr, q, qtype)
	}
	if t.denies(q) {
		return t.deny(v, q, qtype)
	}
	if v.above(q) {
		return Answer{Kind: Exists}
	}
	return t.special(q, qtype)
}

// wantsCNAME reports whether a CNAME is what qtype asks for, rather than something on the way.
func wantsCNAME(qtype uint16) bool { return qtype == dns.TypeCNAME || qtype == dns.TypeANY }

// answers reports whether the way the name was found has a say in qtype. Elsewhere the question means
// the name as it stands: nobody asks for the pointer of a name, and a short form that its client wrote
// as a full name stands for an address, not for a zone.
func (m *match) answers(qtype uint16) bool {
	switch qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeSVCB, dns.TypeANY, dns.TypeCNAME:
		return true
	case dns.TypePTR:
		return m.rule != short && (m.entry.local || m.domain == "" && m.entry.data() != nil)
	case dns.TypeSRV:
		return m.rule != short || m.prefix != ""
	default:
		return m.rule != short || m.domain != ""
	}
}

// settle fills in what the entry found, or the one its CNAMEs lead to, has of qtype.
func (t *Table) settle(a *Answer, c *Client, v views, m *match, qtype uint16) {
	e := m.entry
	a.Kind, a.NoName = Ours, e.gone
	if e.gone {
		return
	}
	if wantsCNAME(qtype) {
		// ANY is the question of nobody who wants to connect: it gets no more than this (RFC 8482).
		switch {
		case a.ncnames > 0:
		case e.alias:
			a.follow(v.target(e))
		case qtype == dns.TypeCNAME && !e.local:
			a.Kind = Ask // who asks for a CNAME wants to know how the name is declared elsewhere
		}
		return
	}
	if m.prefix == "" && e.answers(a, c, v, qtype) {
		return // before an alias: what is declared of one type, a source means beside it
	}
	for e.alias {
		target := v.target(e)
		if !a.follow(target) {
			return
		}
		e = v.findWhole(target).entry
		if e == nil && t.denies(target) {
			denied := t.deny(v, target, qtype)
			a.NoName, a.Addresses = denied.NoName, denied.Addresses
			return
		}
		if e == nil {
			a.Kind = Chase
			return
		}
		a.TTL = min(a.TTL, t.ttlOf(e))
		if a.NoName = e.gone; e.gone {
			return
		}
	}
	switch {
	case m.prefix == "" && e.answers(a, c, v, qtype):
	case m.prefix != "" && qtype == dns.TypeSRV:
		a.Services = e.services(c, m.prefix, strings.TrimPrefix(m.full, m.prefix))
	case m.prefix != "" && (qtype == dns.TypeA || qtype == dns.TypeAAAA):
		// the name of a service has no address
	case qtype == dns.TypeA:
		a.Addresses = e.a()
	case qtype == dns.TypeAAAA:
		a.Addresses = e.reachable(c)
	case e.local:
		// nobody else knows names of the cluster better
	case e.virtual && (qtype == dns.TypeHTTPS || qtype == dns.TypeSVCB):
		// they may carry addresses that bypass the virtual one
	default:
		a.Kind = Ask
	}
}

// reachable returns e's IPv6 addresses, unless they are virtual and c could not even try them.
func (e *entry) reachable(c *Client) []netip.Addr {
	if e.virtual && !c.IPv6 {
		return nil
	}
	return e.aaaa()
}

// services returns the SRV records of host's port that prefix names: of its records, where they have
// the port (a headless service's pods), else its own.
func (e *entry) services(c *Client, prefix, host string) []Service {
	var all []Service
	for i := range e.below() {
		r := &e.row.Records[i]
		addresses := r.Addresses
		for j := range r.Ports { // its IPv4 and its IPv6 port may be two
			p := &r.Ports[j]
			if !called(p, prefix) {
				continue
			}
			s := Service{Weight: 1, Port: p.Number, Target: fqdn(r.Label) + host}
			for _, addr := range addresses {
				if addr.Is4() {
					s.A = append(s.A, addr)
				} else {
					s.AAAA = append(s.AAAA, addr)
				}
			}
			all, addresses = append(all, s), nil // once is enough
		}
	}
	if p := port(e.ports(), prefix); p != nil && len(all) == 0 {
		// A copy, lest a slice that goes anywhere takes the question's name along from wherever it lies.
		all = append(all, Service{Weight: 1, Port: p.Number, Target: strings.Clone(host), A: e.a(), AAAA: e.reachable(c)})
	}
	return all
}

// normal returns qname as names are stored. A name with an escape has a byte that no host name has: it
// is left to others.
func normal(qname string) (string, bool) {
	if qname == "" || strings.IndexByte(qname, '\\') >= 0 {
		return "", false
	}
	if qname[len(qname)-1] != '.' {
		qname += "."
	}
	return strings.ToLower(qname), true
}
