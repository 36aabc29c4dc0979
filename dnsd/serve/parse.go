package serve

import (
	"encoding/binary"
	"unsafe"

	"github.com/miekg/dns"
)

const (
	// nameSize is the longest name, on the wire and therefore as text too (RFC 1035 section 2.3.4).
	nameSize = 255
	maxLabel = 63
	// recordSize is that of a record besides its owner and its data.
	recordSize = 10
	// optSize is that of an OPT record without options.
	optSize = 1 + recordSize
)

// Bits of the third and the fourth byte of a header, and of the flags in an OPT record.
const (
	bitQR, bitAA, bitTC, bitRD = 0x80, 0x04, 0x02, 0x01
	maskOpcode                 = 0x78
	bitRA, bitAD, bitCD        = 0x80, 0x20, 0x10
	maskRcode                  = 0x0f
	bitDO                      = 0x80
)

// plainQuery is a plain question (see plain) read straight from its packet. It is for the stack: reading
// one and answering it allocates nothing.
type plainQuery struct {
	packet   []byte // as it came
	section  []byte // the question section in packet: name, type, class
	qtype    uint16
	edns, do bool
	options  bool // beside the EDNS record's own fields
	size     int  // what the client takes, in bytes

	text    [nameSize]byte // the name, in lower case
	textLen int
}

func (q *plainQuery) rd() bool { return q.packet[2]&bitRD != 0 }
func (q *plainQuery) ad() bool { return q.packet[3]&bitAD != 0 }
func (q *plainQuery) cd() bool { return q.packet[3]&bitCD != 0 }

// name is the question's name in lower case with its final dot. It lies in q, so it must not be kept; the
// compiler moves q to the heap if it is, and a test notices.
func (q *plainQuery) name() string { return unsafe.String(&q.text[0], q.textLen) }

// read takes packet apart and reports whether it is a plain question of the sort that is asked all the
// time. It is stricter than plain: whatever is the least bit odd, wrong, or has a name that needs escapes
// as text is not this function's business. What it takes, plain takes with the same result.
func (q *plainQuery) read(network string, packet []byte) bool {
	if len(packet) < headerSize || packet[2]&(bitQR|maskOpcode) != 0 ||
		string(packet[4:11]) != "\x00\x01\x00\x00\x00\x00\x00" || packet[11] > 1 {
		return false
	}
	rest, ok := q.readName(packet[headerSize:])
	if !ok || len(rest) < 4 || binary.BigEndian.Uint16(rest[2:]) != dns.ClassINET {
		return false
	}
	q.packet = packet
	q.qtype, rest = binary.BigEndian.Uint16(rest), rest[4:]
	q.section = packet[headerSize : len(packet)-len(rest)]
	if packet[11] == 0 {
		q.size = maxReply(network, 0)
		return len(rest) == 0
	}
	return q.readOPT(network, rest)
}

// readName reads the name that packet begins with into q.text and returns what follows.
func (q *plainQuery) readName(packet []byte) (rest []byte, ok bool) {
	n := 0
	for len(packet) > 0 {
		size := int(packet[0])
		if size == 0 {
			q.textLen = n
			return packet[1:], n > 0
		}
		// Compression shows as a length that is too long: nobody compresses a lone name.
		if size > maxLabel || len(packet) <= size || n+size+1 >= nameSize {
			return nil, false
		}
		for _, c := range packet[1 : size+1] {
			switch {
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			case 'A' <= c && c <= 'Z':
				c += 'a' - 'A'
			default:
				return nil, false
			}
			q.text[n] = c
			n++
		}
		q.text[n] = '.'
		n++
		packet = packet[size+1:]
	}
	return nil, false
}

// readOPT reads an OPT record that is all of record (RFC 6891 section 6.1.2), of version 0 and with no
// options but those that can hold anything.
func (q *plainQuery) readOPT(network string, record []byte) bool {
	if len(record) < optSize || record[0] != 0 || binary.BigEndian.Uint16(record[1:]) != dns.TypeOPT || record[6] != 0 {
		return false
	}
	options := record[optSize:]
	if int(binary.BigEndian.Uint16(record[9:])) != len(options) {
		return false
	}
	for len(options) > 0 {
		if len(options) < 4 {
			return false
		}
		switch binary.BigEndian.Uint16(options) {
		case dns.EDNS0NSID, dns.EDNS0COOKIE, dns.EDNS0PADDING:
		default:
			return false
		}
		size := 4 + int(binary.BigEndian.Uint16(options[2:]))
		if size > len(options) {
			return false
		}
		options = options[size:]
	}
	q.edns, q.do, q.options = true, record[7]&bitDO != 0, len(record) > optSize
	q.size = maxReply(network, binary.BigEndian.Uint16(record[3:]))
	return true
}
