package serve

import (
	"net"
	"testing"

	"github.com/miekg/dns"
)

var benchQueries = []struct {
	name  string
	query *dns.Msg
}{
	{"exact", question("api.partner.test.", dns.TypeA)},
	{"nodata", question("few.partner.test.", dns.TypeAAAA)},
	{"search", question("api.partner.test.shop.svc.cluster.local.", dns.TypeA).SetEdns0(1232, false)},
}

// BenchmarkBegin is the message path without the socket.
func BenchmarkBegin(b *testing.B) {
	s, c, buf := newServer(table()), client(), make([]byte, replySize)
	for _, q := range benchQueries {
		packed, _ := q.query.Pack()
		b.Run(q.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if reply, _ := s.begin(c, "udp", packed, buf); reply == nil {
					b.Fatal("no reply")
				}
			}
		})
	}
}

// BenchmarkServeUDP is one client that waits for each answer, over loopback; half of the time and one
// allocation or none are its own.
func BenchmarkServeUDP(b *testing.B) {
	addr := start(b, newServer(table()), client())
	for _, q := range benchQueries {
		packed, _ := q.query.Pack()
		b.Run(q.name, func(b *testing.B) {
			conn, err := net.Dial("udp", addr)
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			buf := make([]byte, maxQuery)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := conn.Write(packed); err != nil {
					b.Fatal(err)
				}
				if _, err := conn.Read(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
