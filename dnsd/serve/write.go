package serve

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/names"
)

// shortcut answers the packet of a plainQuery from the table, or from what upstream remembers, without
// taking the long way through miekg/dns. It returns nil where that way is needed; nothing is counted then.
// The reply lies in buf if that is long enough.
//
// What is answered is decided where the long way has it decided, too: in the table, in upstream. Only the
// writing differs, and a fuzz test holds the two ways against each other.
func (k *socket) shortcut(packet, buf []byte) ([]byte, verdict) {
	var q plainQuery
	if !q.read(k.network, packet) || q.qtype == dns.TypeSRV || q.qtype == dns.TypePTR ||
		q.qtype == dns.TypeAXFR || q.qtype == dns.TypeIXFR {
		return nil, verdict{}
	}
	t := k.server.Table()
	a := t.Lookup(&k.client.Client, q.name(), q.qtype)
	var reply []byte
	v := verdict{source: cached, row: t.Row(&a)}
	switch a.Kind {
	case names.Ours:
		reply = k.write(&q, &a, buf)
		v.source = k.server.sourceOf(v.row)
		if reply != nil {
			k.teach(&q, t, &a, reply)
		}
	case names.NotOurs, names.Exists:
		reply = k.remembered(&q, a.Kind, buf)
		v.kind, v.open = a.Kind, reply == nil
	}
	if reply != nil {
		v.rcode = int(reply[3] & maskRcode)
	}
	return reply, v
}

// write is what query.answer and query.pack are for a plainQuery.
func (k *socket) write(q *plainQuery, a *names.Answer, buf []byte) []byte {
	if len(a.Services)+len(a.Mail)+len(a.Texts) > 0 || a.PTR != "" {
		return nil
	}
	p := packer{b: q.begin(buf)}
	owner := headerSize
	for _, target := range a.CNAMEs() {
		owner = p.cname(owner, target, a.TTL, q.name())
	}
	fit := p.addresses(owner, a.TTL, a.Addresses, q.size-len(p.b)-q.optSize())
	if a.Zone != "" {
		p.soa(a.Zone, q.name())
	}
	b := q.end(p.b)
	if p.unwritable || len(b) > q.size {
		return nil
	}
	b[2] |= bitAA
	if fit < len(a.Addresses) {
		b[2] |= bitTC
		k.gate.counts.truncated.Add(1)
	}
	if a.NoName {
		b[3] |= dns.RcodeNameError
	}
	binary.BigEndian.PutUint16(b[6:], uint16(len(a.CNAMEs())+fit))
	if a.Zone != "" {
		b[9] = 1
	}
	k.gate.counts.own(a)
	return b
}

// remembered is what query.ask is for a plainQuery, if upstream has a fresh answer that fits.
func (k *socket) remembered(q *plainQuery, kind names.Kind, buf []byte) []byte {
	if k.server.memory == nil {
		return nil
	}
	b := k.server.memory.Cached(k.client.Upstream, q.question(nil), buf, q.size-q.optSize())
	if b == nil {
		return nil
	}
	k.gate.counts.forwarded.Add(1)
	return q.relay(b, kind)
}

// relay is what query.relay is for a plainQuery: b, a reply of upstream's, becomes that to q, in place if that
// has room for an OPT record.
func (q *plainQuery) relay(b []byte, kind names.Kind) []byte {
	theirs := b[3]
	ours := rcode(kind, int(theirs&maskRcode), int(binary.BigEndian.Uint16(b[6:])))
	copy(b[headerSize:], q.section) // records point to the name: they get the client's spelling of it
	copy(b, q.packet[:2])
	b[2], b[3] = bitQR|q.packet[2]&bitRD, bitRA|q.packet[3]&bitCD|byte(ours)
	if q.ad() || q.do {
		b[3] |= theirs & bitAD
	}
	return q.end(b)
}

// begin writes a header that counts no records, and the question, to the beginning of buf.
func (q *plainQuery) begin(buf []byte) []byte {
	b := append(buf[:0], q.packet[:headerSize]...)
	b[2], b[3] = bitQR|b[2]&bitRD, bitRA|b[3]&bitCD
	b[11] = 0
	return append(b, q.section...)
}

// end adds the OPT record, where one was sent; there must be no other additional record.
func (q *plainQuery) end(b []byte) []byte {
	if !q.edns {
		return b
	}
	b[11] = 1
	flags := byte(0)
	if q.do {
		flags = bitDO
	}
	return append(b, 0, 0, byte(dns.TypeOPT), ednsSize>>8, ednsSize&0xff, 0, 0, flags, 0, 0, 0)
}

// optSize is how many bytes end adds.
func (q *plainQuery) optSize() int {
	if q.edns {
		return optSize
	}
	return 0
}

// packer appends records to a reply. The question's name is handed to those methods that point to it,
// rather than kept here: what is returned with the reply could not lie on the stack.
type packer struct {
	b []byte
	// unwritable says that some name could not be written.
	unwritable bool
}

// header begins a record whose owner is already there; size is that of its data.
func (p *packer) header(rrtype uint16, ttl uint32, size int) {
	p.b = binary.BigEndian.AppendUint16(p.b, rrtype)
	p.b = binary.BigEndian.AppendUint16(p.b, dns.ClassINET)
	p.b = binary.BigEndian.AppendUint32(p.b, ttl)
	p.b = binary.BigEndian.AppendUint16(p.b, uint16(size))
}

// pointer writes the name that is at offset at (RFC 1035 section 4.1.4).
func (p *packer) pointer(at int) { p.b = append(p.b, 0xc0|byte(at>>8), byte(at)) }

// name writes name, as far as it is not the end of qname, the question's, and returns the offset to point
// to for it.
func (p *packer) name(name, qname string) int {
	start := len(p.b)
	if len(name) >= nameSize {
		p.unwritable = true
	}
	for name != "" {
		if within(qname, name) {
			at := headerSize + len(qname) - len(name) // a label is as far from the end as text as it is on the wire
			if start == len(p.b) {
				start = at
			}
			p.pointer(at)
			return start
		}
		label, rest, _ := strings.Cut(name, ".")
		if label == "" || len(label) > maxLabel || strings.IndexByte(label, '\\') >= 0 {
			p.unwritable = true
			return start
		}
		p.b = append(append(p.b, byte(len(label))), label...)
		name = rest
	}
	p.b = append(p.b, 0)
	return start
}

// cname writes the record that makes the owner at that offset an alias of target, and returns the offset
// of target.
func (p *packer) cname(owner int, target string, ttl uint32, qname string) int {
	p.pointer(owner)
	p.header(dns.TypeCNAME, ttl, 0)
	data := len(p.b)
	owner = p.name(target, qname)
	binary.BigEndian.PutUint16(p.b[data-2:], uint16(len(p.b)-data))
	return owner
}

// addresses writes as many of addrs as fit into room bytes, and returns how many.
func (p *packer) addresses(owner int, ttl uint32, addrs []netip.Addr, room int) int {
	start := rotate(addrs)
	for i := range addrs {
		addr := addrs[(start+i)%len(addrs)]
		size := addr.BitLen() / 8
		if room -= 2 + recordSize + size; room < 0 {
			return i
		}
		p.pointer(owner)
		if addr.Is4() {
			p.header(dns.TypeA, ttl, size)
			data := addr.As4()
			p.b = append(p.b, data[:]...)
		} else {
			p.header(dns.TypeAAAA, ttl, size)
			data := addr.As16()
			p.b = append(p.b, data[:]...)
		}
	}
	return len(addrs)
}

// soa writes the record that soa describes.
func (p *packer) soa(zone, qname string) {
	at := p.name(zone, qname)
	p.header(dns.TypeSOA, names.NegativeTTL, 0)
	data := len(p.b)
	for _, front := range [...]string{soaServer, soaMailbox} {
		for front != "" {
			label, rest, _ := strings.Cut(front, ".")
			p.b = append(append(p.b, byte(len(label))), label...)
			front = rest
		}
		p.pointer(at)
	}
	for _, n := range soaNumbers {
		p.b = binary.BigEndian.AppendUint32(p.b, n)
	}
	binary.BigEndian.PutUint16(p.b[data-2:], uint16(len(p.b)-data))
}

// within reports whether name is domain or below it, both in lower case and with their final dots.
func within(name, domain string) bool {
	rest, ok := strings.CutSuffix(name, domain)
	return ok && (rest == "" || rest[len(rest)-1] == '.')
}
