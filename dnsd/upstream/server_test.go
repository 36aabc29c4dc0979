package upstream

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A handler answers a query for the server under test; nil means silence.
type handler func(network string, q *dns.Msg) *dns.Msg

// server is a real DNS server on a loopback port, UDP and TCP.
type testServer struct {
	addr     netip.AddrPort
	udp, tcp atomic.Int64 // queries seen
}

func serve(t *testing.T, h handler) *testServer {
	t.Helper()
	s := new(testServer)
	pc, ln := listen(t)
	s.addr = netip.MustParseAddrPort(pc.LocalAddr().String())
	answer := func(w dns.ResponseWriter, q *dns.Msg) {
		network := w.RemoteAddr().Network()
		if network == "udp" {
			s.udp.Add(1)
		} else {
			s.tcp.Add(1)
		}
		if m := h(network, q); m != nil {
			_ = w.WriteMsg(m)
		}
	}
	for _, d := range []*dns.Server{{PacketConn: pc}, {Listener: ln}} {
		d.Handler = dns.HandlerFunc(answer)
		d.MsgAcceptFunc = func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }
		up := make(chan struct{})
		d.NotifyStartedFunc = func() { close(up) }
		go func() { _ = d.ActivateAndServe() }()
		<-up
		t.Cleanup(func() { _ = d.Shutdown() })
	}
	return s
}

// listen takes one port for both protocols.
func listen(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 50 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		pc, err := net.ListenPacket("udp", ln.Addr().String())
		if err == nil {
			return pc, ln
		}
		_ = ln.Close()
	}
	t.Fatal("no port free for both UDP and TCP")
	return nil, nil
}

// raw is a UDP socket that hands every packet to h, with a way to send something back.
func raw(t *testing.T, h func(send func([]byte), from net.Addr, packet []byte)) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, maxMessage)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			send := func(b []byte) { _, _ = pc.WriteTo(b, from) }
			h(send, from, append([]byte(nil), buf[:n]...))
		}
	}()
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

// dead is the address of a server that never answers.
func dead(t *testing.T) netip.AddrPort {
	return raw(t, func(func([]byte), net.Addr, []byte) {})
}

func to(addrs ...netip.AddrPort) Servers { return Servers{Addrs: addrs} }

func query(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

func reply(q *dns.Msg, rrs ...string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	for _, s := range rrs {
		m.Answer = append(m.Answer, rr(s))
	}
	return m
}

func rcode(q *dns.Msg, code int) *dns.Msg { return new(dns.Msg).SetRcode(q, code) }

func pack(m *dns.Msg) []byte {
	wire, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return wire
}

func parse(packet []byte) *dns.Msg {
	m := new(dns.Msg)
	if err := m.Unpack(packet); err != nil {
		panic(err)
	}
	return m
}

func rr(s string) dns.RR {
	rr, err := dns.NewRR(s)
	if err != nil {
		panic(err)
	}
	return rr
}

func must(t *testing.T, m *dns.Msg, err error) *dns.Msg {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// addresses are the addresses m answers with, in order.
func addresses(m *dns.Msg) (all []string) {
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			all = append(all, a.A.String())
		}
	}
	return all
}

func expectA(t *testing.T, m *dns.Msg, want string) {
	t.Helper()
	if got := addresses(m); len(got) != 1 || got[0] != want {
		t.Fatalf("answered %v, want %s in\n%v", got, want, m)
	}
}

// pipes is a network without sockets, for tests whose time is not real: every connection leads to a
// handler. It may sleep.
type pipes struct {
	handle func(network, address string, q *dns.Msg) *dns.Msg
	asked  atomic.Int64
	fail   error
}

func (p *pipes) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if p.fail != nil {
		return nil, p.fail
	}
	near, far := net.Pipe()
	go func() {
		defer func() { _ = far.Close() }()
		buf := make([]byte, maxMessage)
		for {
			n, err := far.Read(buf)
			if err != nil {
				return
			}
			p.asked.Add(1)
			packet, frame := buf[:n], []byte(nil)
			if network == "tcp" {
				packet, frame = packet[2:], make([]byte, 2)
			}
			if m := p.handle(network, address, parse(packet)); m != nil {
				wire := pack(m)
				if frame != nil {
					binary.BigEndian.PutUint16(frame, uint16(len(wire)))
				}
				_, _ = far.Write(append(frame, wire...))
			}
		}
	}()
	return near, nil
}

// at is p's server n.
func (p *pipes) at(n ...byte) Servers {
	s := Servers{Dial: p}
	for _, n := range n {
		s.Addrs = append(s.Addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, n}), 53))
	}
	return s
}

// hang is how long a test waits for what must happen, where time is real. Nothing is expected to take it.
const hang = 10 * time.Second

// dialFunc is a Dialer that only ever fails.
type dialFunc func() error

func (f dialFunc) DialContext(context.Context, string, string) (net.Conn, error) { return nil, f() }

type wrapDial func(context.Context, string, string) (net.Conn, error)

func (f wrapDial) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}
