package serve

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/upstream"
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

// BenchmarkForward is a question that nobody has asked before, from the client's socket to the nameserver's and
// back. The nameserver and the client allocate nothing, and have more than half of the time.
func BenchmarkForward(b *testing.B) {
	for name, rcode := range map[string]byte{"address": dns.RcodeSuccess, "denial": dns.RcodeNameError} {
		b.Run(name, func(b *testing.B) {
			s := newServer(table())
			conn, err := net.Dial("udp", start(b, s, client(&nameserver{addr: tersely(b, rcode)})))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			packed, _ := question("00000000.forward.example.", dns.TypeA).Pack()
			buf, n := make([]byte, maxQuery), 0
			b.ReportAllocs()
			for b.Loop() {
				n++
				for i, rest := headerSize+8, n; i > headerSize; i, rest = i-1, rest/10 {
					packed[i] = '0' + byte(rest%10)
				}
				converse(b, conn, packed, buf)
			}
			b.StopTimer()
			if asked := s.upstream.(*upstream.Client).Stats().Misses; asked < uint64(n) {
				b.Fatalf("asked for %d of %d", asked, n)
			}
		})
	}
}

// tersely is a nameserver that answers every question with one address, or denies it, the record being all it
// knows to write.
func tersely(t testing.TB, rcode byte) netip.AddrPort {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	record := []byte{0xc0, headerSize, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1}
	if rcode != dns.RcodeSuccess { // a SOA record of the name's parent
		record = append([]byte{0xc0, headerSize + 9, 0, 6, 0, 1, 0, 0, 0, 60, 0, 24, 0xc0, headerSize + 9, 0xc0, headerSize + 9}, make([]byte, 20)...)
		record[len(record)-1] = 60
	}
	go func() {
		buf := make([]byte, maxQuery)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			b := buf[:n-optSize]
			b[2], b[3], b[11] = bitQR|b[2], bitRA|rcode, 0
			b[7+2*min(1, rcode)] = 1
			_, _ = conn.WriteToUDPAddrPort(append(b, record...), from)
		}
	}()
	return netip.MustParseAddrPort(conn.LocalAddr().String())
}
