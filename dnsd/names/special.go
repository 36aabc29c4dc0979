package names

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

var (
	loopback4 = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	loopback6 = []netip.Addr{netip.IPv6Loopback()}
)

// special answers the names that nobody is to be asked for: localhost is the client itself (RFC 6761
// section 6.3), and below invalid (section 6.4) and onion (RFC 7686) there is nothing, while asking would
// tell others what was looked for. The rest of those lists is left to upstream, which is no root server:
// a company may well have names below test, and every cluster has some below local.
func (t *Table) special(q string, qtype uint16) Answer {
	a := Answer{Kind: Ours, TTL: t.ttl}
	switch {
	case isLocalhost(q):
		switch qtype {
		case dns.TypeA, dns.TypeANY:
			a.Addresses = loopback4
		case dns.TypeAAAA:
			a.Addresses = loopback6
		default:
			a.Zone = "localhost."
		}
	case within(q, "invalid."):
		a.NoName, a.Zone = true, "invalid."
	case within(q, "onion."):
		a.NoName, a.Zone = true, "onion."
	default:
		return Answer{}
	}
	return a
}

func isLocalhost(q string) bool { return within(q, "localhost.") }

// within reports whether name is domain or below it.
func within(name, domain string) bool {
	rest, ok := strings.CutSuffix(name, domain)
	return ok && (rest == "" || rest[len(rest)-1] == '.')
}

// pointer answers for q, the reverse name of addr: that of an address which the client can have learnt
// here, of a loopback address (RFC 6303), or of one in a range of virtual addresses. What nobody has of
// those is nobody's: upstream could only say so later, and would learn what is asked.
func (t *Table) pointer(v views, addr netip.Addr, q string, qtype uint16) Answer {
	a := Answer{Kind: Ours, TTL: t.ttl}
	bits := t.virtualBits(addr)
	e := v.reverse(addr)
	wanted := qtype == dns.TypePTR || qtype == dns.TypeANY
	switch {
	case e != nil && wanted:
		a.PTR, a.Row = e.name, int(e.number)
	case e != nil && bits == 0:
		return Answer{Kind: Exists}
	case addr.IsLoopback() && wanted:
		a.PTR = "localhost."
	case addr.IsLoopback():
		a.Zone = q
	case bits > 0:
		a.NoName, a.Zone = e == nil, reverseZone(q, addr, bits)
	default:
		return Answer{}
	}
	return a
}

// virtualBits is the length of the range of virtual addresses that addr is in, 0 if it is in none.
func (t *Table) virtualBits(addr netip.Addr) int {
	for _, p := range t.vips {
		if p.Contains(addr) {
			return p.Bits()
		}
	}
	return 0
}

// reverseZone is what is left of q, the reverse name of addr, when only the labels of its first bits are
// kept. A zone cannot begin within a label: it is then the bigger one.
func reverseZone(q string, addr netip.Addr, bits int) string {
	step := 4
	if addr.Is4() {
		step = 8
	}
	for range addr.BitLen()/step - bits/step {
		_, q, _ = strings.Cut(q, ".")
	}
	return q
}

// reverseAddr parses the owner name of a PTR record of an address (RFC 1035 section 3.5, RFC 3596
// section 2.5). Nothing of q outlives the call, not even in an error.
func reverseAddr(q string) (netip.Addr, bool) {
	if labels, ok := strings.CutSuffix(q, ".in-addr.arpa."); ok {
		return reverse4(labels)
	}
	if labels, ok := strings.CutSuffix(q, ".ip6.arpa."); ok {
		return reverse6(labels)
	}
	return netip.Addr{}, false
}

// reverse4 reads four decimal labels, the last byte first.
func reverse4(labels string) (netip.Addr, bool) {
	var a [4]byte
	for i := 3; i >= 0; i-- {
		label, rest, more := strings.Cut(labels, ".")
		if more != (i > 0) || len(label) == 0 || len(label) > 3 || label[0] == '0' && label != "0" {
			return netip.Addr{}, false
		}
		n := 0
		for _, c := range []byte(label) {
			if c < '0' || c > '9' {
				return netip.Addr{}, false
			}
			n = 10*n + int(c-'0')
		}
		if n > 255 {
			return netip.Addr{}, false
		}
		a[i], labels = byte(n), rest
	}
	return netip.AddrFrom4(a), true
}

// reverse6 reads 32 labels of one nibble each, the last nibble first.
func reverse6(labels string) (netip.Addr, bool) {
	var a [16]byte
	if len(labels) != 2*32-1 {
		return netip.Addr{}, false
	}
	for i := range 32 {
		nibble := strings.IndexByte("0123456789abcdef", labels[2*i])
		if nibble < 0 || i < 31 && labels[2*i+1] != '.' {
			return netip.Addr{}, false
		}
		a[15-i/2] |= byte(nibble) << (4 * (i % 2))
	}
	return netip.AddrFrom16(a), true
}
