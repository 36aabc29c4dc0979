package names

import (
	"net/netip"
	"strings"
	"unsafe"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// rule is by which rule a name was found.
type rule uint8

// The rules, in the order they are tried.
const (
	unknown   rule = iota
	exact          // the name is declared
	podRecord      // the name is that of a record below a declared name
	service        // "_port._proto." in front of a known name
	wildcard       // the name is below a declared wildcard
	short          // the name and the rest of a Kubernetes name of the client's cluster
)

// match is what a name was found to be.
type match struct {
	entry *entry
	rule  rule
	// full is the name found: the one asked, what the search list leaves of it, or the Kubernetes name
	// it is short for. A wildcard's is concrete.
	full string
	// prefix is the "_port._proto." in front of the entry's name, if any.
	prefix string
	// domain is the search domain that was stripped, if any.
	domain string
}

// find looks for q, in lower case: as it stands, then as a short name, then without each of the client's
// search domains. The order makes a declared name win over whatever else a name might stand for.
func (t *Table) find(c *Client, v views, q string) match {
	if m := v.findWhole(q); m.entry != nil {
		return m
	}
	if m := t.findShort(c, v, q); m.entry != nil {
		return m
	}
	for _, domain := range c.Search {
		rest, ok := cutDomain(q, domain)
		if !ok {
			continue
		}
		m := v.findWhole(rest)
		if m.entry == nil {
			m = t.findShort(c, v, rest)
		}
		if m.entry != nil {
			m.domain = domain
			return m
		}
	}
	return match{}
}

// findWhole looks for q as a full name.
func (v views) findWhole(q string) match {
	if e := lookup(v, q); e != nil {
		return match{entry: e, rule: ruleOf(e), full: q}
	}
	if prefix, host := cutService(q); prefix != "" {
		e := lookup(v, host)
		if e == nil {
			e = v.wildcard(host)
		}
		if e != nil && e.serves(prefix) {
			return match{entry: e, rule: service, full: q, prefix: prefix}
		}
	}
	if e := v.wildcard(q); e != nil {
		return match{entry: e, rule: wildcard, full: q}
	}
	return match{}
}

// findShort looks for the Kubernetes name that q is short for, as a pod with kubelet's own search list
// would: in the client's namespace, then as service and namespace, then as all but the cluster's domain.
// But localhost is no service, whatever one is called.
func (t *Table) findShort(c *Client, v views, q string) match {
	if t.inDomain(q) || isLocalhost(q) {
		return match{}
	}
	prefix, host := cutService(q)
	var buf [256]byte
	// An empty namespace makes the first form a name with an empty label, which nobody has.
	for _, form := range [...]struct{ namespace, rest string }{{c.Namespace, ".svc."}, {"", "svc."}, {}} {
		name := append(buf[:0], host...)
		name = append(name, form.namespace...)
		name = append(name, form.rest...)
		name = append(name, t.domain...)
		e := lookup(v, unsafe.String(&name[0], len(name))) // which keeps nothing of it
		if e == nil || !e.row.Kubernetes || (prefix != "" && !e.serves(prefix)) {
			continue
		}
		m := match{entry: e, rule: short, full: e.name, prefix: prefix}
		if prefix != "" {
			m.full = prefix + e.name
		}
		return m
	}
	return match{}
}

// lookup returns the entry of that very name in v: a row before a record below another row, and then one
// of the client's namespace before everybody's. Nothing of name is kept.
func lookup(v views, name string) *entry {
	own, all := v.own.find(name), v.all.find(name)
	if own == nil || (own.record != nil && all != nil && all.record == nil) {
		return all
	}
	return own
}

// find returns the entry of that very name in v, which may be nil.
func (v *view) find(name string) *entry {
	if v == nil {
		return nil
	}
	return v.at(v.exact[v.named(v.name, name)])
}

// wildcard returns the most specific wildcard above name, however deep name is below it.
func (v views) wildcard(name string) *entry {
	for {
		_, suffix, ok := strings.Cut(name, ".")
		if !ok || suffix == "" {
			return nil
		}
		for _, view := range [...]*view{v.own, v.all} {
			if view != nil && view.wild[suffix] != nil {
				return view.wild[suffix]
			}
		}
		name = suffix
	}
}

// above reports whether a name in v is below name.
func (v views) above(name string) bool {
	return v.own != nil && v.own.above[name] || v.all != nil && v.all.above[name]
}

// reverse returns the entry that addr belongs to.
func (v views) reverse(addr netip.Addr) *entry {
	for _, view := range [...]*view{v.own, v.all} {
		if view == nil {
			continue
		}
		if e := view.at(view.index.reverse[view.addressed(view.name, addr)].entry); e != nil {
			return e
		}
	}
	return nil
}

// target is the name that e is an alias of; empty if it is none.
func (v views) target(e *entry) string {
	for _, view := range [...]*view{v.own, v.all} {
		if e.alias && view != nil && view.name == e.row.View {
			return view.targets[e]
		}
	}
	return ""
}

// serves reports whether e has the port that prefix, "_port._proto.", names.
func (e *entry) serves(prefix string) bool {
	if e.alias {
		return false
	}
	// Where clients of a port other than 443 look for HTTPS records (RFC 9460 section 9.1): those of the
	// real host would bypass a virtual address.
	if e.virtual && strings.HasSuffix(prefix, "._https.") {
		return true
	}
	if port(e.ports(), prefix) != nil {
		return true
	}
	for i := range e.below() {
		if port(e.row.Records[i].Ports, prefix) != nil {
			return true
		}
	}
	return false
}

func (e *entry) ports() []mesh.Port {
	if e.record != nil {
		return e.record.Ports
	}
	return e.row.Ports
}

// below returns the records below e.
func (e *entry) below() []mesh.Record {
	if e.record != nil {
		return nil
	}
	return e.row.Records
}

// port returns the first of ports that prefix, "_port._proto.", names.
func port(ports []mesh.Port, prefix string) *mesh.Port {
	for i := range ports {
		if called(&ports[i], prefix) {
			return &ports[i]
		}
	}
	return nil
}

func called(p *mesh.Port, prefix string) bool {
	protocol := map[mesh.Protocol]string{mesh.TCP: "._tcp.", mesh.UDP: "._udp."}[p.Protocol]
	return p.Name != "" && protocol != "" && prefix == "_"+strings.ToLower(p.Name)+protocol
}

func ruleOf(e *entry) rule {
	if e.record != nil {
		return podRecord
	}
	return exact
}

// cutService splits "_port._proto.host." before the host; prefix is empty where there is no such thing.
func cutService(q string) (prefix, host string) {
	if q[0] != '_' {
		return "", q
	}
	_, rest, _ := strings.Cut(q, "._")
	_, host, _ = strings.Cut(rest, ".")
	if host == "" {
		return "", q
	}
	return q[:len(q)-len(host)], host
}

// Guesses says whether q, in lower case, is a name of several labels with one of c's search domains behind it:
// a resolver tries such names, one after the other, before it tries what it was asked for (resolv.conf(5),
// ndots), and nearly none of them exists.
func (c *Client) Guesses(q string) bool {
	for _, domain := range c.Search {
		if rest, ok := cutDomain(q, domain); ok && strings.IndexByte(rest, '.') < len(rest)-1 {
			return true
		}
	}
	return false
}

// cutDomain strips a search domain, written with or without its final dot and in any case, from q.
func cutDomain(q, domain string) (rest string, ok bool) {
	domain = strings.TrimSuffix(domain, ".")
	at := len(q) - len(domain) - 1
	if domain == "" || at < 2 || q[at-1] != '.' || !strings.EqualFold(q[at:len(q)-1], domain) {
		return "", false
	}
	return q[:at], true
}
