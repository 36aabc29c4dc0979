package names

import (
	"bytes"
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// specVersion is the version of the Kubernetes DNS specification that the records follow.
var specVersion = []string{"1.1.0"}

// zone is the cluster's domain, once a source knows every name of it. What is not declared there does not
// exist, and neither does what a search list makes of a name from outside: nobody else need be asked.
type zone struct {
	name       string // with its final dot
	source     string
	namespaces map[string]bool
	hidden     map[string]bool // names that only some namespaces see: what others are told of them is not ours
	elsewhere  []string        // domains within that others answer for
	endpoint   func(row *Row, addr netip.Addr) bool
}

var dash = []byte("-")

// newZone is nil where no source knows every name of the cluster's domain.
func newZone(p *mesh.Plan, o *Options) *zone {
	for _, said := range p.Zones {
		if fqdn(said.Name) != fqdn(o.ClusterDomain) {
			continue
		}
		z := &zone{
			name: fqdn(said.Name), source: said.Source, endpoint: o.Endpoint,
			namespaces: make(map[string]bool, len(said.Namespaces)), hidden: map[string]bool{},
		}
		for _, ns := range said.Namespaces {
			z.namespaces[strings.ToLower(ns)] = true
		}
		for _, row := range p.Names {
			if row.View != "" {
				z.hidden[fqdn(row.Host)] = true
			}
		}
		for _, domain := range o.Elsewhere {
			z.elsewhere = append(z.elsewhere, fqdn(domain))
		}
		return z
	}
	return nil
}

// denies reports whether q, which nobody has declared, is a name that only the source of the zone could have
// declared. What kind of question it is makes no difference: A and AAAA take one way.
func (t *Table) denies(q string) bool {
	if t.zone == nil || !within(q, t.zone.name) || t.zone.hidden[q] {
		return false
	}
	for _, domain := range t.zone.elsewhere {
		if within(q, domain) {
			return false
		}
	}
	return true
}

// deny answers for an undeclared name of the zone: with the address that it spells, or that there is nothing,
// or no such name.
func (t *Table) deny(v views, q string, qtype uint16) Answer {
	a := Answer{Kind: Ours, TTL: t.ttl}
	rest, _ := strings.CutSuffix(q, t.zone.name)
	addr, spelt := t.zone.spelt(v, rest)
	label, _, _ := strings.Cut(rest, ".")
	_, a.Fleeting = dashed(label)
	switch {
	case spelt && addr.Is4() && (qtype == dns.TypeA || qtype == dns.TypeANY),
		spelt && addr.Is6() && qtype == dns.TypeAAAA:
		a.Addresses = []netip.Addr{addr}
	case rest == "dns-version." && qtype == dns.TypeTXT:
		a.Texts = specVersion
	case spelt, rest == "dns-version.":
		a.Zone = t.zone.name
	default:
		a.Zone, a.NoName = t.zone.name, !v.above(q) && !t.zone.exists(rest)
	}
	return a
}

// exists reports whether a name, what is left of it without the zone, is one that stands for a namespace or
// for all of them, or the zone's own.
func (z *zone) exists(rest string) bool {
	switch rest {
	case "", "svc.", "pod.":
		return true
	}
	namespace, kind, _ := strings.Cut(rest, ".")
	return (kind == "svc." || kind == "pod.") && z.namespaces[namespace]
}

// spelt returns the address that the first label of a name spells, where the rest gives it a meaning: below
// the pods of a namespace, whose addresses nobody checks, since the name tells nothing that the asker did not
// know; or below a service, one of those it is made of.
func (z *zone) spelt(v views, rest string) (netip.Addr, bool) {
	label, above, _ := strings.Cut(rest, ".")
	addr, ok := dashed(label)
	if !ok {
		return addr, false
	}
	if namespace, kind, _ := strings.Cut(above, "."); kind == "pod." {
		return addr, z.namespaces[namespace]
	}
	e := lookup(v, above+z.name)
	return addr, e != nil && e.record == nil && e.row.Kubernetes && z.endpoint != nil && z.endpoint(e.row, addr)
}

// dashed reads an address that is written with dashes: 10-0-0-1, 2001-db8--1.
func dashed(label string) (netip.Addr, bool) {
	separator := ":"
	if strings.Count(label, "-") == 3 && !strings.Contains(label, "--") {
		separator = "."
	}
	if strings.IndexByte(label, '-') < 0 || strings.Trim(label, "-0123456789abcdef") != "" {
		return netip.Addr{}, false
	}
	// Made of bytes, so that no error can keep the question's name.
	addr, err := netip.ParseAddr(string(bytes.ReplaceAll([]byte(label), dash, []byte(separator))))
	return addr, err == nil
}

// explain says in words why a name of the zone that nobody declared is answered as it is.
func (z *zone) explain(a Answer) string {
	switch {
	case len(a.Addresses) > 0:
		return "but it spells an address of the cluster"
	case a.NoName:
		return "and source " + z.source + " knows every name of " + z.name + ": there is none like this, and nobody else is asked"
	}
	return "and source " + z.source + " knows every name of " + z.name + ": this one has nothing of its own"
}
