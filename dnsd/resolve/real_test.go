package resolve

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/upstream"
)

// The whole way, over real sockets: a dead nameserver before a live one, an answer that only fits TCP,
// and a record that changes.
func TestRealServers(t *testing.T) {
	var size atomic.Int64
	size.Store(100)
	live := server(t, func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		for i := range size.Load() {
			m.Answer = append(m.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
				A:   net.IPv4(192, 0, 2, byte(i)),
			})
		}
		return m
	})
	dead, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dead.Close() }()

	inputs := make(chan mesh.Input, 16)
	r := New(Options{
		Exchange: upstream.New(upstream.Options{}).Ask,
		Servers: func() []netip.AddrPort {
			return []netip.AddrPort{netip.MustParseAddrPort(dead.LocalAddr().String()), live}
		},
		Emit: func(in mesh.Input) { inputs <- in },
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()
	r.Watch([]mesh.Watch{watch(v4("db.example"), mesh.Schedule{RefreshRate: 50 * time.Millisecond})})
	await := func(n int) {
		t.Helper()
		select {
		case in := <-inputs:
			got := in.Resolutions[0].Addresses
			if len(got) != n || !slices.IsSortedFunc(got, netip.Addr.Compare) {
				t.Fatalf("%d addresses, want %d in the server's order: %v", len(got), n, in)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("never learnt of %d addresses; %+v", n, r.Status())
		}
	}
	await(100)
	size.Store(3)
	await(3)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// server answers on a loopback port over UDP and TCP, cutting UDP answers to what the client takes.
func server(t *testing.T, answer func(q *dns.Msg) *dns.Msg) netip.AddrPort {
	t.Helper()
	pc, ln := listen(t)
	handle := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := answer(q)
		if opt := q.IsEdns0(); opt == nil || opt.UDPSize() != 1232 {
			t.Errorf("asked with %v, want EDNS and 1232 bytes", opt)
		}
		if w.RemoteAddr().Network() == "udp" {
			m.Truncate(int(q.IsEdns0().UDPSize()))
		}
		_ = w.WriteMsg(m)
	})
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: handle}, {Listener: ln, Handler: handle}} {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		go func() { _ = s.ActivateAndServe() }()
		<-up
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

func listen(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	var last error
	for range 50 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		pc, err := net.ListenPacket("udp", ln.Addr().String())
		if err == nil {
			return pc, ln
		}
		last = err
		_ = ln.Close()
	}
	t.Fatal(fmt.Errorf("no port free for both UDP and TCP: %w", last))
	return nil, nil
}
