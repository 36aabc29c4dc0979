package serve

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/dnsd/upstream"
)

// patience is how long a test waits for what must happen; nothing is expected to take it.
const patience = 10 * time.Second

// nameserver is a real server on loopback, UDP and TCP on one port, that answers by handler and counts
// the messages that reach it.
type nameserver struct {
	addr netip.AddrPort

	mu   sync.Mutex
	seen []*dns.Msg
}

func (n *nameserver) asked() []*dns.Msg {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]*dns.Msg(nil), n.seen...)
}

func startNameserver(t testing.TB, handler dns.HandlerFunc) *nameserver {
	t.Helper()
	conn, ln := listen(t)
	n := &nameserver{addr: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
	counting := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		n.mu.Lock()
		n.seen = append(n.seen, m)
		n.mu.Unlock()
		handler(w, m)
	})
	acceptAll := func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }
	for _, server := range []*dns.Server{{PacketConn: conn}, {Listener: ln}} {
		server.Handler, server.MsgAcceptFunc = counting, acceptAll
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() { _ = server.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return n
}

// listen opens UDP and TCP on one free port of loopback.
func listen(t testing.TB) (*net.UDPConn, net.Listener) {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(ln.Addr().(*net.TCPAddr).AddrPort()))
		if err == nil {
			return conn, ln
		}
		_ = ln.Close()
	}
	t.Fatal("no port of 127.0.0.1 is free for both UDP and TCP")
	return nil, nil
}

// serveUDP blocks until it has ended.
func serveUDP(s *Server, u *UDPSocket, c *Client) error {
	done := make(chan error)
	s.ServeUDP(u, c, func(err error) { done <- err })
	return <-done
}

// takeTCP makes a TCPListener of ln.
func takeTCP(t testing.TB, ln net.Listener) *TCPListener {
	t.Helper()
	l, err := TakeTCP(ln.(*net.TCPListener))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// start serves c on loopback, over UDP and TCP, until the test ends, and checks that serving ends well.
func start(t testing.TB, s *Server, c *Client) string {
	t.Helper()
	conn, ln := listen(t)
	udp, err := TakeUDP(conn)
	if err != nil {
		t.Fatal(err)
	}
	tcp := takeTCP(t, ln)
	done := make(chan error, 2)
	s.ServeUDP(udp, c, func(err error) { done <- err })
	s.ServeTCP(tcp, c, func(err error) { done <- err })
	t.Cleanup(func() {
		_, _ = udp.Close(), tcp.Close()
		for range 2 {
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("serving a closed socket ended with %v", err)
				}
			case <-time.After(patience):
				t.Fatal("serving did not end when the socket was closed")
			}
		}
	})
	return udp.Addr().String()
}

// client is a pod that has the given nameservers.
func client(nameservers ...*nameserver) *Client {
	c := &Client{Client: names.Client{Namespace: "shop", IPv6: true,
		Search: []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}}, Pod: "shop/pod"}
	for _, n := range nameservers {
		c.Upstream.Addrs = append(c.Upstream.Addrs, n.addr)
	}
	if len(nameservers) > 0 {
		c.Nameserver = nameservers[0].addr
	}
	return c
}

// table is a plan with the names the tests ask for.
func table() *names.Table {
	var many []netip.Addr
	for i := range byte(100) {
		many = append(many, netip.AddrFrom4([4]byte{10, 244, 0, i}))
	}
	return names.Build(&mesh.Plan{Names: []*mesh.Name{
		{Host: "api.partner.test", Virtual: true, Addr4: many[:1], Addr6: []netip.Addr{netip.MustParseAddr("2001:2::1")},
			Ports: []mesh.Port{{Name: "mongodb", Number: 27017, Protocol: mesh.TCP}}},
		{Host: "few.partner.test", Addr4: many[:4]},
		{Host: "many.partner.test", Addr4: many},
		{Host: "bad.partner.test", CNAME: "no..name"},
		{Host: "*.wild.test", Virtual: true, Addr4: many[:2]},
		{Host: "cart.shop.svc.cluster.local", Kubernetes: true, Addr4: many, Addr6: []netip.Addr{netip.MustParseAddr("fd00::1")}},
		{Host: "alias.shop.svc.cluster.local", Kubernetes: true, CNAME: "cart.shop.svc.cluster.local"},
		{Host: "out.shop.svc.cluster.local", Kubernetes: true, CNAME: "slow.example"},
		{Host: "gone.shop.svc.cluster.local", Kubernetes: true, CNAME: "nowhere.example"},
	}}, names.Options{})
}

func newServer(t *names.Table) *Server {
	s := New(Options{Upstream: upstream.New(upstream.Options{})})
	if t != nil {
		s.Store(t)
	}
	return s
}

// zone answers the test's upstream names, each with one address, and NXDOMAIN for the rest.
func zone(known ...string) dns.HandlerFunc {
	return func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m)
		r.Rcode = dns.RcodeNameError
		for _, name := range known {
			if len(m.Question) == 1 && m.Question[0].Name == name {
				r.Rcode = dns.RcodeSuccess
				if m.Question[0].Qtype == dns.TypeA {
					r.Answer = []dns.RR{&dns.A{Hdr: header(name, dns.TypeA, 60), A: net.IPv4(203, 0, 113, 5)}}
				}
			}
		}
		_ = w.WriteMsg(r)
	}
}

// exchange asks once over network, without any retry, truncated or not.
func exchange(t testing.TB, network, addr string, m *dns.Msg) *dns.Msg {
	t.Helper()
	c := &dns.Client{Net: network, Timeout: patience, UDPSize: dns.MaxMsgSize}
	r, _, err := c.Exchange(m, addr)
	if err != nil {
		t.Fatalf("%s %s: %v", network, m.Question[0].String(), err)
	}
	return r
}

func question(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

// raw sends packet over UDP and returns what comes back, nil for nothing within wait.
func raw(t testing.TB, addr string, packet []byte, wait time.Duration) []byte {
	t.Helper()
	conn, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write(packet); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(wait))
	buf := make([]byte, dns.MaxMsgSize)
	n, err := conn.Read(buf)
	if err != nil {
		return nil
	}
	return buf[:n]
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// stub is an upstream that does what a test says.
type stub func(context.Context, *dns.Msg) (*dns.Msg, error)

func (f stub) Exchange(ctx context.Context, _ upstream.Servers, m *dns.Msg) (*dns.Msg, error) {
	return f(ctx, m)
}

func (f stub) Forward(context.Context, upstream.Servers, string, []byte) ([]byte, error) {
	return nil, errors.New("nobody there")
}
