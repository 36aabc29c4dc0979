package upstream

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// FuzzPlain holds what is read where it lies against what taking the message apart says: whatever is plain is an
// answer, is remembered for as long, says the same of the name, and is told in the same words.
func FuzzPlain(f *testing.F) {
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT} {
		asked := query("www.example.com.", qtype)
		for _, m := range []*dns.Msg{
			reply(asked, "www.example.com. 60 IN A 192.0.2.1", "www.example.com. 30 IN A 192.0.2.2"),
			reply(asked, "www.example.com. 60 IN CNAME a.example.net.", "a.example.net. 20 IN CNAME b.example.com.", "b.example.com. 90 IN A 192.0.2.1"),
			reply(asked, "www.example.com. 60 IN CNAME www.example.com.", "www.example.com. 60 IN AAAA 2001:db8::1"),
			reply(asked, "www.example.com. 60 IN CNAME a.example.com."),
			rcode(asked, dns.RcodeNameError),
			rcode(asked, dns.RcodeNameError).SetEdns0(1232, true),
			reply(asked, "www.example.com. 0 IN AAAA 2001:db8::1").SetEdns0(1232, false),
		} {
			m.Compress = true
			f.Add(qtype, pack(m))
			for _, zone := range []string{".", "com.", "example.com.", "www.example.com.", "example.net."} {
				host := "ns." + strings.TrimPrefix(zone, ".")
				m.Ns = []dns.RR{rr(zone + " 60 IN SOA " + host + " " + host + " 1 1 1 1 20")}
				f.Add(qtype, pack(m))
			}
		}
	}
	f.Fuzz(func(t *testing.T, qtype uint16, packet []byte) {
		if len(packet) < headerBytes || packet[2]&0xf8 != 0x80 {
			return
		}
		asked := query("www.example.com.", qtype)
		q := newQuestion(asked)
		section := q.bare[headerBytes:]
		if binary.BigEndian.Uint16(packet[4:]) != 1 || !sameQuestion(packet[headerBytes:], section) {
			return
		}
		p, ok := readPlain(packet, section, q.Name)
		if !ok {
			return
		}
		id, wire := binary.BigEndian.Uint16(packet), p.keep(packet)
		m, err := q.parse(packet, id)
		if err != nil { // for the sake of a record that is dropped, which nobody else reads
			if m, err = q.parse(wire, id); err != nil {
				t.Fatalf("plain, and yet %v", err)
			}
		}
		if why := judge(m, q.Question); why != "" {
			t.Fatalf("plain, and yet no answer: %s\n%v", why, m)
		}
		want := newOutcome(q.Question, m, nil)
		if want.err != nil || want.alien || want.ttl != p.ttl || want.exists != p.exists || want.denied != p.denied || want.zone != p.zone {
			t.Fatalf("plain says %+v, the message %+v", p, want)
		}
		if !countDown(append([]byte(nil), wire...), 1) {
			t.Fatal("cannot be counted down")
		}
		for _, age := range []time.Duration{0, 5 * time.Second} {
			a, err1 := found{wire: wire, age: age}.reply(asked)
			b, err2 := found{wire: want.wire, age: age}.reply(asked)
			if err1 != nil || err2 != nil || a.String() != b.String() {
				t.Fatalf("told as (%v)\n%v\ninstead of (%v)\n%v", err1, a, err2, b)
			}
		}
	})
}
