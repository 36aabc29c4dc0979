package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// An attacker who sees the query, or guesses, gets nothing in: RFC 5452.
func TestWrongRepliesAreWaitedOut(t *testing.T) {
	forge := func(packet []byte, change func(m *dns.Msg)) []byte {
		m := reply(parse(packet), "www.example.com. 60 IN A 203.0.113.66")
		change(m)
		return pack(m)
	}
	wrong := map[string]func(packet []byte) []byte{
		"ID":           func(p []byte) []byte { return forge(p, func(m *dns.Msg) { m.Id++ }) },
		"name":         func(p []byte) []byte { return forge(p, func(m *dns.Msg) { m.Question[0].Name = "evil.example.com." }) },
		"type":         func(p []byte) []byte { return forge(p, func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }) },
		"class":        func(p []byte) []byte { return forge(p, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }) },
		"no question":  func(p []byte) []byte { return forge(p, func(m *dns.Msg) { m.Question = nil }) },
		"a query":      func(p []byte) []byte { return forge(p, func(m *dns.Msg) { m.Response = false }) },
		"opcode":       func(p []byte) []byte { return forge(p, func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }) },
		"cut mid-word": func(p []byte) []byte { w := forge(p, func(*dns.Msg) {}); return w[:len(w)-3] },
		"three bytes":  func(p []byte) []byte { return p[:3] },
		"empty":        func(p []byte) []byte { return nil },
		"echo":         func(p []byte) []byte { return p },
		"noise":        func(p []byte) []byte { return append(p[:2:2], "\x80\x00\xff\xff\xff\xff\xff\xff\xff\xff\xc0\x0c"...) },
	}
	for name, craft := range wrong {
		t.Run(name, func(t *testing.T) {
			addr := raw(t, func(send func([]byte), from net.Addr, packet []byte) {
				send(craft(packet))
				send(forge(packet, func(m *dns.Msg) { m.Answer = []dns.RR{rr(a1)} }))
			})
			c := New(Options{})
			m, err := c.Exchange(t.Context(), to(addr), query("www.example.com.", dns.TypeA))
			expectA(t, must(t, m, err), "192.0.2.1")
			if n := c.Stats().Servers[0].Mismatched; n != 1 {
				t.Errorf("%d mismatched", n)
			}
		})
	}
	t.Run("source", func(t *testing.T) {
		other, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.Close() }()
		addr := raw(t, func(send func([]byte), from net.Addr, packet []byte) {
			_, _ = other.WriteTo(forge(packet, func(*dns.Msg) {}), from)
			send(forge(packet, func(m *dns.Msg) { m.Answer = []dns.RR{rr(a1)} }))
		})
		m, err := New(Options{}).Exchange(t.Context(), to(addr), query("www.example.com.", dns.TypeA))
		expectA(t, must(t, m, err), "192.0.2.1")
	})
}

// Somebody who floods guesses drives the question to TCP.
func TestGuessing(t *testing.T) {
	pc, ln := listen(t)
	defer func() { _ = pc.Close() }()
	go func() {
		buf := make([]byte, maxMessage)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			m := reply(parse(buf[:n]), "www.example.com. 60 IN A 203.0.113.66")
			for range 2000 {
				m.Id++
				_, _ = pc.WriteTo(pack(m), from)
			}
		}
	}()
	d := &dns.Server{Listener: ln, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(reply(q, a1)) })}
	go func() { _ = d.ActivateAndServe() }()
	defer func() { _ = d.Shutdown() }()
	m, err := New(Options{}).Exchange(t.Context(), to(must1(t, pc.LocalAddr().String())), query("www.example.com.", dns.TypeA))
	expectA(t, must(t, m, err), "192.0.2.1")
}

func TestOnlyTheAnswerIsKept(t *testing.T) {
	s := serve(t, func(_ string, q *dns.Msg) *dns.Msg {
		m := reply(q, "www.example.com. 60 IN CNAME Web.Example.net.", "evil.example. 60 IN A 203.0.113.66",
			"web.example.net. 60 IN A 192.0.2.1", "web.example.net. 60 IN AAAA 2001:db8::66")
		m.Ns = []dns.RR{rr("example.com. 60 IN NS evil.example.")}
		m.Extra = []dns.RR{rr("evil.example. 60 IN A 203.0.113.66")}
		return m
	})
	m, err := New(Options{}).Exchange(t.Context(), to(s.addr), query("www.example.com.", dns.TypeA))
	expectA(t, must(t, m, err), "192.0.2.1")
	if len(m.Answer) != 2 || len(m.Ns) != 0 || len(m.Extra) != 0 {
		t.Errorf("kept more than the answer:\n%v", m)
	}
}

func TestFreshPortAndID(t *testing.T) {
	var mu sync.Mutex
	ports, ids := make(map[string]bool), make(map[uint16]bool)
	addr := raw(t, func(send func([]byte), from net.Addr, packet []byte) {
		mu.Lock()
		defer mu.Unlock()
		ports[from.String()] = true
		ids[binary.BigEndian.Uint16(packet)] = true
		q := parse(packet)
		send(pack(reply(q, q.Question[0].Name+" 60 IN A 192.0.2.1")))
	})
	c := New(Options{})
	const n = 50
	for i := range n {
		q := query(fmt.Sprintf("w%d.example.com.", i), dns.TypeA)
		q.Id = 7
		m, err := c.Exchange(t.Context(), to(addr), q)
		must(t, m, err)
	}
	mu.Lock()
	defer mu.Unlock()
	// The kernel may give a port again after it was closed, and IDs may repeat; not often.
	if len(ports) < n/2 || len(ids) < n*9/10 {
		t.Errorf("%d questions used %d ports and %d IDs", n, len(ports), len(ids))
	}
}

// A pod that goes takes its sockets with it, which is no server's fault.
func TestSocketClosedUnderneath(t *testing.T) {
	conns := make(chan net.Conn, 1)
	s := to(raw(t, func(func([]byte), net.Addr, []byte) { _ = (<-conns).Close() }))
	s.Dial = wrapDial(func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		conns <- conn
		return conn, err
	})
	c := New(Options{})
	_, err := c.Exchange(t.Context(), s, query("www.example.com.", dns.TypeA))
	if !errors.Is(err, errUnsent) || c.health.servers[place{"", s.Addrs[0]}].silent != 0 || c.Stats().Entries != 0 {
		t.Errorf("blamed the server: %v", err)
	}
}
