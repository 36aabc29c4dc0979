package serve

import (
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/miekg/dns"
)

// hot are the questions that make up nearly all of what pods ask, and that nothing may be allocated for.
var hot = []struct {
	name  string
	query *dns.Msg
}{
	{"exact", question("api.partner.test.", dns.TypeA)},
	{"case", question("aPi.pArTnEr.tEsT.", dns.TypeA)},
	{"many", question("many.partner.test.", dns.TypeA).SetEdns0(1232, false)},
	{"nodata", question("few.partner.test.", dns.TypeAAAA)},
	{"wildcard", question("foo.wild.test.", dns.TypeA)},
	{"search", question("api.partner.test.shop.svc.cluster.local.", dns.TypeA).SetEdns0(1232, false)},
	{"search-wildcard", question("foo.wild.test.shop.svc.cluster.local.", dns.TypeA)},
	{"alias", question("alias.shop.svc.cluster.local.", dns.TypeAAAA)},
	{"remembered", question("public.example.", dns.TypeA)},
	{"remembered-denial", question("denied.example.", dns.TypeA).SetEdns0(1232, false)},
}

func TestHotQuestionsAllocateNothing(t *testing.T) {
	s, c := rememberingServer(t)
	k := s.enter(c, "udp")
	buf := make([]byte, replySize)
	for _, q := range hot {
		packed, _ := q.query.Pack()
		if n := testing.AllocsPerRun(1000, func() {
			if reply, _, _ := k.begin(packed, buf); reply == nil {
				t.Fatal("no reply")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", q.name, n)
		}
	}
}

// Nor does the loop around it. The client's own calls do not allocate either.
func TestServeUDPAllocatesNothing(t *testing.T) {
	s, c := rememberingServer(t)
	conn, err := net.Dial("udp", start(t, s, c))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	buf := make([]byte, maxQuery)
	for _, q := range hot {
		packed, _ := q.query.Pack()
		if n := testing.AllocsPerRun(200, func() { converse(t, conn, packed, buf) }); n != 0 {
			t.Errorf("%s: %v allocations", q.name, n)
		}
	}
}

// Nor does a connection, once it stands.
func TestServeTCPAllocatesNothing(t *testing.T) {
	s, c := rememberingServer(t)
	conn := dial(t, start(t, s, c))
	buf := make([]byte, maxQuery)
	for _, q := range hot {
		message := framed(t, q.query)
		if n := testing.AllocsPerRun(200, func() { discuss(t, conn, message, buf) }); n != 0 {
			t.Errorf("%s: %v allocations", q.name, n)
		}
	}
}

// discuss is converse on a connection.
func discuss(t testing.TB, conn *stream, message, buf []byte) {
	if _, err := conn.Write(message); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn.r, buf[:lengthSize]); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn.r, buf[:binary.BigEndian.Uint16(buf)]); err != nil {
		t.Fatal(err)
	}
}

func converse(t testing.TB, conn net.Conn, packed, buf []byte) {
	if _, err := conn.Write(packed); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(buf); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkBegin is the message path without the socket.
func BenchmarkBegin(b *testing.B) {
	s, c := rememberingServer(b)
	k := s.enter(c, "udp")
	buf := make([]byte, replySize)
	for _, q := range hot {
		packed, _ := q.query.Pack()
		b.Run(q.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if reply, _, _ := k.begin(packed, buf); reply == nil {
					b.Fatal("no reply")
				}
			}
		})
	}
}

// BenchmarkServeUDP is one client that waits for each answer, over loopback; half of the time is its own.
func BenchmarkServeUDP(b *testing.B) {
	s, c := rememberingServer(b)
	addr := start(b, s, c)
	for _, q := range hot {
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
				converse(b, conn, packed, buf)
			}
		})
	}
}

// BenchmarkServeTCP is the same on one connection.
func BenchmarkServeTCP(b *testing.B) {
	s, c := rememberingServer(b)
	addr := start(b, s, c)
	for _, q := range hot {
		message := framed(b, q.query)
		b.Run(q.name, func(b *testing.B) {
			conn := dial(b, addr)
			buf := make([]byte, maxQuery)
			b.ReportAllocs()
			for b.Loop() {
				discuss(b, conn, message, buf)
			}
		})
	}
}
