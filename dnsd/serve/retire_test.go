package serve

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// generations are servers that serve one client's sockets one after the other.
type generations struct {
	t        *testing.T
	upstream stub
	file     *os.File // of the UDP socket
	listener *os.File
	now      *Server
	tcp      atomic.Pointer[TCPListener] // of now
	over     atomic.Bool
	serving  sync.WaitGroup // all of them
}

func newGenerations(t *testing.T, upstream stub) (g *generations, addr string) {
	g = &generations{t: t, upstream: upstream}
	conn, ln := listen(t)
	var err error
	if g.file, err = conn.File(); err == nil {
		g.listener, err = ln.(*net.TCPListener).File()
	}
	if err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Close(), ln.Close()
	t.Cleanup(func() { _, _ = g.file.Close(), g.listener.Close() })
	addr = conn.LocalAddr().String()
	g.start()
	t.Cleanup(func() {
		g.over.Store(true)
		g.now.Retire(func(_ *Client, conn *net.TCPConn, _ []byte) { _ = conn.Close() })
		g.serving.Wait()
	})
	return g, addr
}

// start serves the sockets by one more server.
func (g *generations) start() {
	g.t.Helper()
	s := newServer(table())
	s.upstream = g.upstream
	ln, err := net.FileListener(g.listener)
	if err != nil {
		g.t.Fatal(err)
	}
	conn, err := net.FilePacketConn(g.file)
	if err != nil {
		g.t.Fatal(err)
	}
	udp, err := TakeUDP(conn.(*net.UDPConn))
	if err != nil {
		g.t.Fatal(err)
	}
	tcp := takeTCP(g.t, ln)
	g.now = s
	c := client(&nameserver{addr: netip.MustParseAddrPort("192.0.2.53:53")})
	g.serving.Add(2)
	s.ServeUDP(udp, c, func(err error) {
		if err != nil {
			g.t.Error(err)
		}
		_ = udp.Close()
		g.serving.Done()
	})
	s.ServeTCP(tcp, c, func(err error) {
		if err != nil {
			g.t.Error(err)
		}
		g.serving.Done()
	})
	g.tcp.Store(tcp)
}

// relieve starts the next server and retires the one before; connections go from it to the next.
func (g *generations) relieve() {
	g.t.Helper()
	old := g.now
	g.start()
	old.Retire(func(_ *Client, conn *net.TCPConn, early []byte) {
		conn = again(g.t, conn) // as another process would have it
		for !g.tcp.Load().Add(conn, early) {
			if g.over.Load() {
				_ = conn.Close()
				return
			}
			runtime.Gosched() // that one is retiring, too: the next one takes it
		}
	})
}

// again is the same connection by another descriptor. It closes conn.
func again(t *testing.T, conn *net.TCPConn) *net.TCPConn {
	defer func() { _ = conn.Close() }()
	file, err := conn.File()
	if err != nil {
		t.Error(err)
		return conn
	}
	defer func() { _ = file.Close() }()
	next, err := net.FileConn(file)
	if err != nil {
		t.Error(err)
		return conn
	}
	return next.(*net.TCPConn)
}

// TestRetireLosesNothing relieves servers of their sockets, while clients ask and wait in every way.
func TestRetireLosesNothing(t *testing.T) {
	released := make(chan struct{})
	var asked atomic.Int64
	g, addr := newGenerations(t, slowly(released, &asked))

	// In flight at the first change: over UDP, and over TCP with half of the next query sent.
	udp := make(chan *dns.Msg, 1)
	go func() {
		r, _, err := (&dns.Client{Timeout: patience}).Exchange(question("slow.example.", dns.TypeA), addr)
		if err != nil {
			t.Error(err)
		}
		udp <- r
	}()
	waits, quiet, halfway := dial(t, addr), dial(t, addr), dial(t, addr)
	waits.send(t, question("slow.example.", dns.TypeA))
	next := framed(t, question("few.partner.test.", dns.TypeA))
	if _, err := waits.Write(next[:7]); err != nil {
		t.Fatal(err)
	}
	// A message longer than the buffer, of which a part is there.
	long := question("few.partner.test.", dns.TypeA)
	long.SetEdns0(dns.MaxMsgSize, false)
	long.IsEdns0().Option = append(long.IsEdns0().Option, &dns.EDNS0_PADDING{Padding: make([]byte, 20000)})
	large := framed(t, long)
	if _, err := halfway.Write(large[:9000]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are being asked", func() bool { return asked.Load() == 2 })
	eventually(t, "all are accepted", func() bool { return g.now.Stats().Connections == 3 })

	for range 3 {
		g.relieve()
		for range 100 {
			if r := exchange(t, "udp", addr, question("few.partner.test.", dns.TypeA)); len(r.Answer) != 4 {
				t.Fatalf("over UDP after a change: %s", r)
			}
		}
		quiet.send(t, question("few.partner.test.", dns.TypeA))
		if r := quiet.receive(t); len(r.Answer) != 4 {
			t.Fatalf("over a connection kept: %s", r)
		}
		if r := exchange(t, "tcp", addr, question("few.partner.test.", dns.TypeA)); len(r.Answer) != 4 {
			t.Fatalf("over a new connection: %s", r)
		}
	}
	close(released)
	if r := <-udp; r == nil || len(r.Answer) != 1 {
		t.Errorf("what was asked before the change, over UDP: %s", r)
	}
	if r := waits.receive(t); len(r.Answer) != 1 {
		t.Errorf("what was asked before the change, over TCP: %s", r)
	}
	for conn, rest := range map[*stream][]byte{waits: next[7:], halfway: large[9000:]} {
		if _, err := conn.Write(rest); err != nil {
			t.Fatal(err)
		}
		if r := conn.receive(t); len(r.Answer) != 4 {
			t.Errorf("what was sent in parts: %s", r)
		}
	}
}

// TestRetireUnderLoad changes servers as fast as they start while connections send one query after the other,
// several at a time: each is answered once.
func TestRetireUnderLoad(t *testing.T) {
	released := make(chan struct{})
	close(released)
	var asked atomic.Int64
	g, addr := newGenerations(t, slowly(released, &asked))
	var clients sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		conn := dial(t, addr)
		clients.Go(func() {
			names := []string{"few.partner.test.", "slow.example.", "many.partner.test."}
			for n := uint16(0); ; n++ {
				select {
				case <-done:
					return
				default:
				}
				m := question(names[int(n)%len(names)], dns.TypeA)
				m.Id = n
				_ = conn.SetDeadline(time.Now().Add(patience))
				// In two pieces, so that some are interrupted in the middle.
				packet := framed(t, m)
				if _, err := conn.Write(packet[:5]); err != nil {
					t.Error(err)
					return
				}
				if _, err := conn.Write(packet[5:]); err != nil {
					t.Error(err)
					return
				}
				reply, err := readMessage(conn, conn.r)
				if err != nil || binary.BigEndian.Uint16(reply) != n {
					t.Errorf("query %d: %x, %v", n, reply, err)
					return
				}
			}
		})
	}
	for range 50 {
		g.relieve()
		exchange(t, "udp", addr, question("few.partner.test.", dns.TypeA))
	}
	close(done)
	clients.Wait()
}
