package names

import (
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// Check says why name cannot stand in a query, or nil if it can (RFC 1035 section 2.3.4).
func Check(name string) error {
	whole := strings.TrimSuffix(name, ".")
	if whole == "" {
		return nil // the root
	}
	for label := range strings.SplitSeq(whole, ".") {
		switch {
		case label == "":
			return fmt.Errorf("%q is no name that DNS can carry: it has an empty label", name)
		case len(label) > 63:
			return fmt.Errorf("%q is no name that DNS can carry: its label %s has %d bytes, and 63 are allowed", name, label, len(label))
		}
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
		return fmt.Errorf("%q is not asked for as it stands: programs send names with other letters than ASCII in the form that begins with xn-- (RFC 5891), and none with blanks", name)
	}
	if n := len(whole) + 2; n > 255 {
		return fmt.Errorf("%q is no name that DNS can carry: it takes %d bytes, and 255 are allowed", name, n)
	}
	return nil
}

// Explain tells how qname is answered to c, a line for each step that Lookup takes and for each type
// that takes a road of its own.
func (t *Table) Explain(c *Client, qname string) []string {
	q, ok := normal(qname)
	switch {
	case t == nil:
		return []string{"no table yet: every name goes to the client's own nameserver"}
	case !ok:
		return []string{fmt.Sprintf("%q has an escaped byte, so no host is called that: it goes to the client's own nameserver", qname)}
	}
	lines := []string{fmt.Sprintf("%s asked from %s, search list [%s], IPv6 %s", q,
		namespaceOf(c), strings.Join(c.Search, " "), map[bool]string{true: "yes", false: "no"}[c.IPv6])}
	v := t.seenBy(c)
	if addr, ok := reverseAddr(q); ok {
		if e := v.reverse(addr); e != nil {
			lines = append(lines, fmt.Sprintf("address of %s (%s)", e.name, e.origin()))
		} else if t.virtualBits(addr) > 0 {
			lines = append(lines, "a virtual address that belongs to nobody this client sees")
		}
	}
	m := t.find(c, v, q)
	lines = append(lines, t.steps(c, v, q, &m)...)
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeSRV, dns.TypePTR, dns.TypeTXT, dns.TypeMX, dns.TypeNAPTR} {
		a := t.Lookup(c, q, qtype)
		label := dns.TypeToString[qtype]
		switch {
		case qtype == dns.TypeNAPTR: // stands for all that nobody declares
			label = "other types"
		case qtype == dns.TypeTXT && a.Texts == nil, qtype == dns.TypeMX && a.Mail == nil:
			continue
		}
		lines = append(lines, label+": "+a.describe(q))
	}
	return lines
}

// steps tells which rules were tried up to the one that m is by.
func (t *Table) steps(c *Client, v views, q string, m *match) []string {
	if m.entry == nil {
		lines := []string{"not declared, no pod's name, below no wildcard, no short Kubernetes name"}
		for _, domain := range c.Search {
			if rest, ok := cutDomain(q, domain); ok {
				lines = append(lines, fmt.Sprintf("without search domain %s: %s is unknown too", domain, rest))
			}
		}
		switch {
		case t.denies(q):
			return append(lines, t.zone.explain(t.deny(v, q, dns.TypeA)))
		case t.special(q, dns.TypeA).Kind == Ours:
			return append(lines, "but it is a special name, which nobody is asked for (RFC 6761, RFC 7686)")
		case v.above(q):
			return append(lines, "but declared names are below it, so that it exists; it goes to the client's own nameserver")
		}
		return append(lines, "so it is not ours: it goes to the client's own nameserver")
	}
	var lines []string
	if m.domain != "" {
		lines = append(lines, fmt.Sprintf("unknown as it stands; known without search domain %s", m.domain))
	}
	how := map[rule]string{
		exact:     "is declared",
		podRecord: "is the record of an endpoint of " + m.entry.row.Host,
		service:   "is a port of " + m.entry.name,
		wildcard:  "is below the wildcard " + m.entry.name,
		short:     "is the Kubernetes service that the name is short for",
	}[m.rule]
	lines = append(lines, fmt.Sprintf("%s %s (%s)", m.full, how, m.entry.origin()))
	for _, other := range m.entry.row.Also {
		lines = append(lines, fmt.Sprintf("%s of source %s declares it, too, and counts for less", other.Object, other.Source))
	}
	if m.entry.virtual {
		lines = append(lines, "its addresses are virtual: connections to them are balanced, and no record is answered that leads past them")
	}
	if m.entry.gone {
		lines = append(lines, "it is headless and none of its endpoints is ready, so that there is no such name for now")
	}
	if m.entry.alias {
		lines = append(lines, "it stands for "+v.target(m.entry))
	}
	return lines
}

// origin says who declared e and who sees it.
func (e *entry) origin() string {
	who := strings.TrimSpace(e.row.Object + " of source " + e.row.Source)
	if e.row.View == "" {
		return who + ", seen by every namespace that has none of its own"
	}
	return who + ", seen by namespace " + e.row.View
}

// describe puts a in words, for a question about q.
func (a *Answer) describe(q string) string {
	var said []string
	for _, target := range a.CNAMEs() {
		said = append(said, "CNAME "+target)
	}
	for _, addr := range a.Addresses {
		said = append(said, addr.String())
	}
	for _, s := range a.Services {
		said = append(said, fmt.Sprintf("%s port %d", s.Target, s.Port))
	}
	for _, m := range a.Mail {
		said = append(said, fmt.Sprintf("%s preference %d", m.Target, m.Preference))
	}
	for _, text := range a.Texts {
		said = append(said, fmt.Sprintf("%q", text))
	}
	if a.PTR != "" {
		said = append(said, a.PTR)
	}
	switch a.Kind {
	case NotOurs:
		return "upstream's answer"
	case Exists:
		return "upstream's answer, NODATA if it knows no such name"
	case Ask:
		said = append(said, "upstream's answer for "+a.Owner(q)+", NODATA if it has none")
	case Chase:
		said = append(said, "then upstream's answer for "+a.Owner(q))
	case Ours:
		if a.NoName {
			said = append(said, fmt.Sprintf("no such name for %d s", NegativeTTL))
		} else if a.Zone != "" {
			said = append(said, fmt.Sprintf("NODATA for %d s", NegativeTTL))
		} else {
			said = append(said, fmt.Sprintf("for %d s", a.TTL))
		}
	}
	return strings.Join(said, ", ")
}

func namespaceOf(c *Client) string {
	if c.Namespace == "" {
		return "no namespace"
	}
	return "namespace " + c.Namespace
}
