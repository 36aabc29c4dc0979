package upstream

import (
	"encoding/binary"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// plain is a reply of the shape that nearly all have, read where it lies: an address, perhaps behind
// aliases, or a denial with the SOA record of its zone. What it is good for follows without taking it apart.
//
// A message that is the least bit different is not plain, and judge's business. What is plain, judge takes
// for an answer and newOutcome has the same to say about; a fuzz test holds the two against each other.
type plain struct {
	// size is how much of the message answers the question: what follows is only counted, and dropped.
	size int
	// authority is where the SOA record's TTL stands, 0 if this is no denial; to is what it is lowered to.
	authority int
	to        uint32

	ttl            time.Duration // how long to believe it
	exists, denied bool          // the name asked for
	zone           string        // that the SOA record is of, an end of the name if it is the name's own
}

// recordBytes is what a record has besides its owner and its data: type, class, TTL, length.
const recordBytes = 10

// readPlain reads packet, a reply to the question section, of class IN, whose name as text is name, and
// reports whether it is plain.
func readPlain(packet, section []byte, name string) (p plain, ok bool) {
	rcode := packet[3] & 0xf
	if packet[2]&0x02 != 0 || rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
		return p, false
	}
	r := reader{packet: packet, at: headerBytes + len(section), owner: headerBytes, least: maxTTL}
	qtype := binary.BigEndian.Uint16(section[len(section)-4:])
	answers := int(binary.BigEndian.Uint16(packet[6:]))
	addresses, ok := r.answers(answers, qtype)
	if !ok || addresses > 0 && rcode != dns.RcodeSuccess {
		return p, false
	}
	p.size = r.at
	authorities := int(binary.BigEndian.Uint16(packet[8:]))
	if addresses > 0 {
		p.exists, ok = true, r.skip(authorities)
	} else {
		if authorities != 1 || !r.soa(&p, name) {
			return p, false
		}
		p.size = r.at
		r.least = min(r.least, time.Duration(p.to)*time.Second, maxNegative)
		p.denied = rcode == dns.RcodeNameError && answers == 0 && p.zone != name
		p.exists = answers > 0 || rcode == dns.RcodeSuccess
	}
	p.ttl = r.least
	return p, ok && r.skip(int(binary.BigEndian.Uint16(packet[10:]))) && r.at == len(packet)
}

// keep is the part of packet that answers, in memory of its own.
func (p *plain) keep(packet []byte) []byte {
	wire := append([]byte(nil), packet[:p.size]...)
	binary.BigEndian.PutUint16(wire[8:], 0)
	binary.BigEndian.PutUint16(wire[10:], 0)
	if p.authority > 0 {
		wire[9] = 1
		binary.BigEndian.PutUint32(wire[p.authority:], p.to)
	}
	return wire
}

// reader goes through the records of a message.
type reader struct {
	packet []byte
	at     int           // where the next one begins
	owner  int           // where the name is that answers must belong to
	least  time.Duration // the least TTL of the answers
}

// record reads a record up to its data, which lies at r.at then. Its owner is at the offset owner.
func (r *reader) record() (owner int, rrtype, class uint16, data []byte, ok bool) {
	owner = r.at
	rest := afterName(r.packet[r.at:])
	if len(rest) < recordBytes {
		return 0, 0, 0, nil, false
	}
	size := int(binary.BigEndian.Uint16(rest[8:]))
	if len(rest) < recordBytes+size {
		return 0, 0, 0, nil, false
	}
	r.at = len(r.packet) - len(rest) + recordBytes
	return owner, binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:]), r.packet[r.at : r.at+size], true
}

// ttl is that of the record whose data r is at.
func (r *reader) ttl() uint32 { return binary.BigEndian.Uint32(r.packet[r.at-6:]) }

// answers reads so many answers: aliases, each of the one before, and then addresses of the type asked for.
func (r *reader) answers(n int, qtype uint16) (addresses int, ok bool) {
	var size int
	switch qtype {
	case dns.TypeA:
		size = 4
	case dns.TypeAAAA:
		size = 16
	default:
		return 0, n == 0
	}
	for i := range n {
		owner, rrtype, class, data, ok := r.record()
		// Whoever remembers this puts the client's spelling of the name where the pointers point to.
		if !ok || class != dns.ClassINET || r.packet[owner] < 0xc0 || r.resolve(owner) != r.resolve(r.owner) {
			return 0, false
		}
		r.least = min(r.least, time.Duration(r.ttl())*time.Second)
		switch {
		case rrtype == qtype && len(data) == size:
			addresses++
		case rrtype == dns.TypeCNAME && i < maxChain && addresses == 0:
			if r.owner = r.at; r.nameEnd(r.at) != r.at+len(data) {
				return 0, false
			}
		default:
			return 0, false
		}
		r.at += len(data)
	}
	return addresses, true
}

// soa reads the SOA record of the zone that the name asked for, or the last of its aliases, lies in.
func (r *reader) soa(p *plain, name string) bool {
	owner, rrtype, class, data, ok := r.record()
	if !ok || rrtype != dns.TypeSOA || class != dns.ClassINET {
		return false
	}
	const numbers = 20
	end := r.nameEnd(r.at)
	if end > 0 {
		end = r.nameEnd(end)
	}
	if end <= 0 || end+numbers != r.at+len(data) {
		return false
	}
	var zone, last [maxName]byte
	z, ok1 := r.text(owner, &zone)
	l, ok2 := r.text(r.owner, &last)
	if !ok1 || !ok2 || !below(string(last[:l]), string(zone[:z])) {
		return false
	}
	if below(name, string(zone[:z])) {
		p.zone = name[len(name)-z:]
	} else {
		p.zone = string(zone[:z])
	}
	p.authority = r.at - 6
	p.to = min(r.ttl(), binary.BigEndian.Uint32(r.packet[end+numbers-4:]))
	r.at += len(data)
	return true
}

// below says whether name is zone or lies in it, both in lower case.
func below(name, zone string) bool {
	rest, ok := strings.CutSuffix(name, zone)
	return zone == "." || ok && (rest == "" || rest[len(rest)-1] == '.')
}

// skip reads so many records that do not matter, and fails if one might.
func (r *reader) skip(n int) bool {
	for range n {
		owner, rrtype, _, data, ok := r.record()
		if !ok {
			return false
		}
		switch rrtype {
		case dns.TypeSOA, dns.TypeNSEC, dns.TypeNSEC3, dns.TypeRRSIG, dns.TypeTSIG, dns.TypeSIG:
			return false
		case dns.TypeOPT:
			if r.packet[owner] != 0 || r.packet[r.at-6] != 0 || !unexplained(data) { // the rcode's upper bits
				return false
			}
		}
		r.at += len(data)
	}
	return true
}

// unexplained says whether the options of an OPT record have nothing to say of the answer (RFC 8914).
func unexplained(options []byte) bool {
	for len(options) >= 4 {
		size := 4 + int(binary.BigEndian.Uint16(options[2:]))
		if binary.BigEndian.Uint16(options) == dns.EDNS0EDE || size > len(options) {
			return false
		}
		options = options[size:]
	}
	return len(options) == 0
}

// resolve is where the name at an offset really begins, after the pointers in front of it; -1 if they lead
// nowhere. Pointers may only lead back.
func (r *reader) resolve(at int) int {
	for at+1 < len(r.packet) && r.packet[at] >= 0xc0 {
		to := int(binary.BigEndian.Uint16(r.packet[at:]) & 0x3fff)
		if to >= at || to < headerBytes {
			return -1
		}
		at = to
	}
	return at
}

// maxName is the longest name as text, with its final dot (RFC 1035, section 2.3.4).
const maxName = 255

// nameEnd is where the name at an offset ends, 0 if it is none.
func (r *reader) nameEnd(at int) int {
	var text [maxName]byte
	if _, ok := r.text(at, &text); !ok {
		return 0
	}
	return len(r.packet) - len(afterName(r.packet[at:]))
}

// text writes the name at an offset to b, in lower case and with its final dot, and returns how long it is.
// A name that needs escapes as text is not plain.
func (r *reader) text(at int, b *[maxName]byte) (n int, ok bool) {
	for {
		if at = r.resolve(at); at < 0 || at >= len(r.packet) {
			return 0, false
		}
		size := int(r.packet[at])
		if size == 0 {
			if n == 0 {
				b[0], n = '.', 1
			}
			return n, true
		}
		if size > 63 || at+1+size >= len(r.packet) || n+size+1 >= len(b) {
			return 0, false
		}
		for _, c := range r.packet[at+1 : at+1+size] {
			switch {
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '*':
			case 'A' <= c && c <= 'Z':
				c += 'a' - 'A'
			default:
				return 0, false
			}
			b[n] = c
			n++
		}
		b[n] = '.'
		n++
		at += 1 + size
	}
}
