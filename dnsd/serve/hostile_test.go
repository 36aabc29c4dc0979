package serve

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// hostile are n packets that began as queries and had bytes flipped, cut off, put in or copied, the same
// ones each time.
func hostile(t *testing.T, n int) (packets [][]byte) {
	var seeds [][]byte
	for _, m := range append(variants("api.partner.test.", dns.TypeA),
		question("_mongodb._tcp.api.partner.test.", dns.TypeSRV), new(dns.Msg).SetUpdate("example."),
		new(dns.Msg).SetAxfr("example."), new(dns.Msg).SetNotify("example."), question(".", dns.TypeNS)) {
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		seeds = append(seeds, packed)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range n {
		p := bytes.Clone(seeds[r.IntN(len(seeds))])
		for range 1 + r.IntN(6) {
			at := r.IntN(len(p) + 1)
			switch r.IntN(6) {
			case 0:
				p = p[:at]
			case 1:
				p = append(p[:at:at], append([]byte{byte(r.Uint32())}, p[at:]...)...)
			case 2:
				p = append(p, p[at:]...)
			default:
				if at < len(p) {
					p[at] = [...]byte{0, 0xff, 0xc0, 0x0c, byte(r.Uint32())}[r.IntN(5)]
				}
			}
			if len(p) == 0 {
				p = []byte{0}
			}
		}
		packets = append(packets, p)
	}
	return packets
}

// Ten thousand hostile packets over UDP and TCP each: every reply is one, to its query, and of a size the
// client takes; and the server answers on.
func TestHostilePackets(t *testing.T) {
	s := newServer(table())
	s.upstream = slowly(nil, new(atomic.Int64))
	addr := start(t, s, client())
	packets := hostile(t, 10_000)
	conn, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	replied := 0
	for i, p := range packets {
		if _, err := conn.Write(p); err != nil {
			t.Fatal(err)
		}
		k := s.enter(client(), networks[i%2])
		reply, v, later := k.begin(p, make([]byte, replySize))
		if later != nil {
			reply, v = later(t.Context())
		}
		s.leave(k)
		if reply == nil {
			if v.rcode >= 0 {
				t.Fatalf("%x: no reply, of rcode %d", p, v.rcode)
			}
			continue
		}
		replied++
		m := unpacked(t, reply)
		if !m.Response || m.Id != binary.BigEndian.Uint16(p) || m.Rcode != v.rcode ||
			k.network == "udp" && len(reply) > maxUDPReply {
			t.Fatalf("%x was answered %x", p, reply)
		}
	}
	if replied < len(packets)/10 {
		t.Errorf("only %d of %d were answered: they are no good", replied, len(packets))
	}
	for _, p := range packets[:200] { // each on a connection of its own, as it may be ended for it
		c := dial(t, addr)
		_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...))
		_ = c.Close()
	}
	eventually(t, "the server answers on", func() bool {
		c := &dns.Client{Timeout: time.Second}
		r, _, err := c.Exchange(question("api.partner.test.", dns.TypeA), addr)
		return err == nil && len(r.Answer) == 1
	})
}
