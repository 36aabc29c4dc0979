package serve

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

const (
	etherSize, udpSize = 14, 8
	dnsPort            = 53
)

// datagram is a packet that a pod sends, or is sent.
type datagram struct {
	from, to netip.AddrPort
	payload  []byte
	// ipSum and udpSum say whether the checksums are right; a missing one is.
	ipSum, udpSum bool
}

func ipSize(v4 bool) int {
	if v4 {
		return 20
	}
	return 40
}

// pack is d with its Ethernet header and its checksums.
func (d *datagram) pack() []byte {
	v4 := d.from.Addr().Is4()
	size := udpSize + len(d.payload)
	b := make([]byte, etherSize+ipSize(v4), etherSize+ipSize(v4)+size)
	copy(b, "to-mac"+"my-mac")
	ip := b[etherSize:]
	if v4 {
		copy(b[12:], "\x08\x00")
		copy(ip, "\x45\x00\x00\x00\xab\xcd\x40\x00\x40\x11\x00\x00")
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+size))
		copy(ip[12:], d.from.Addr().AsSlice())
		copy(ip[16:], d.to.Addr().AsSlice())
		binary.BigEndian.PutUint16(ip[10:], ^sum(0, ip))
	} else {
		copy(b[12:], "\x86\xdd\x60\x0a\xbc\xde\x00\x00\x11\x40")
		binary.BigEndian.PutUint16(ip[4:], uint16(size))
		copy(ip[8:], d.from.Addr().AsSlice())
		copy(ip[24:], d.to.Addr().AsSlice())
	}
	b = binary.BigEndian.AppendUint16(b, d.from.Port())
	b = binary.BigEndian.AppendUint16(b, d.to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	b = append(append(b, 0, 0), d.payload...)
	udp := b[len(b)-size:]
	binary.BigEndian.PutUint16(udp[6:], max(^d.sum(udp), 1)) // nobody notices that one in 65535 is wrong
	if !v4 && ^d.sum(udp) != 0 {
		udp[6], udp[7] = 0, 0
		check := ^d.sum(udp)
		if check == 0 {
			check = 0xffff
		}
		binary.BigEndian.PutUint16(udp[6:], check)
	}
	return b
}

// sum is the ones' complement sum (RFC 1071) over addresses, protocol and length, and the datagram.
func (d *datagram) sum(udp []byte) uint16 {
	head := uint32(17 + len(udp))
	for _, a := range []netip.Addr{d.from.Addr(), d.to.Addr()} {
		head += uint32(sum(0, a.AsSlice()))
	}
	return sum(head, udp)
}

func sum(s uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) > 0 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// unpack reads a packet as the receiving host would, but for the checksums, which it only compares.
func unpack(b []byte) (d datagram, err error) {
	if len(b) < etherSize+ipSize(false)+udpSize && (len(b) < etherSize+ipSize(true)+udpSize || b[13] != 0) {
		return d, errors.New("too short")
	}
	ip := b[etherSize:]
	var udp []byte
	var from, to netip.Addr
	switch ethertype := string(b[12:14]); ethertype {
	case "\x08\x00":
		udp = ip[20:]
		from, to = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
		if ip[0] != 0x45 || ip[9] != 17 || int(binary.BigEndian.Uint16(ip[2:])) != len(ip) || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
			return d, fmt.Errorf("no whole UDP packet in IPv4 header %x", ip[:20])
		}
		d.ipSum = sum(0, ip[:20]) == 0xffff
	case "\x86\xdd":
		udp = ip[40:]
		from, to = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
		if ip[0]>>4 != 6 || ip[6] != 17 || int(binary.BigEndian.Uint16(ip[4:])) != len(udp) {
			return d, fmt.Errorf("no UDP packet in IPv6 header %x", ip[:40])
		}
		d.ipSum = true
	default:
		return d, fmt.Errorf("no IP in Ethernet header %x", b[:14])
	}
	if int(binary.BigEndian.Uint16(udp[4:])) != len(udp) {
		return d, fmt.Errorf("UDP header %x before %d bytes", udp[:8], len(udp)-8)
	}
	d.from = netip.AddrPortFrom(from, binary.BigEndian.Uint16(udp))
	d.to = netip.AddrPortFrom(to, binary.BigEndian.Uint16(udp[2:]))
	d.payload = udp[8:]
	d.udpSum = d.sum(udp) == 0xffff || from.Is4() && udp[6] == 0 && udp[7] == 0
	return d, nil
}

// headers are the headers of a packet without what a reply has otherwise than its query.
func headers(b []byte, v4 bool) []byte {
	h := bytes.Clone(b[:etherSize+ipSize(v4)])
	clear(h[:12])
	ip := h[etherSize:]
	if v4 {
		clear(ip[2:4]) // length
		clear(ip[10:20])
	} else {
		clear(ip[4:6])
		clear(ip[8:40])
	}
	return h
}
