package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

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
	t.Run("source address", func(t *testing.T) {
		pc, ln := listen(t)
		_ = ln.Close()
		defer func() { _ = pc.Close() }()
		port := pc.LocalAddr().(*net.UDPAddr).Port
		other, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2), Port: port})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.Close() }()
		go func() {
			buf := make([]byte, maxMessage)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = other.WriteTo(forge(buf[:n], func(*dns.Msg) {}), from)
				_, _ = pc.WriteTo(forge(buf[:n], func(m *dns.Msg) { m.Answer = []dns.RR{rr(a1)} }), from)
			}
		}()
		m, err := New(Options{}).Exchange(t.Context(), to(must1(t, pc.LocalAddr().String())), query("www.example.com.", dns.TypeA))
		expectA(t, must(t, m, err), "192.0.2.1")
	})
}

// Somebody who floods guesses, the right one among all there are, drives the question to TCP.
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
			wire := pack(m)
			for i := range 1 << 16 {
				binary.BigEndian.PutUint16(wire, m.Id+1+uint16(i))
				_, _ = pc.WriteTo(wire, from)
			}
		}
	}()
	d := &dns.Server{Listener: ln, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(reply(q, a1)) })}
	go func() { _ = d.ActivateAndServe() }()
	defer func() { _ = d.Shutdown() }()
	c := New(Options{})
	m, err := c.Exchange(t.Context(), to(must1(t, pc.LocalAddr().String())), query("www.example.com.", dns.TypeA))
	expectA(t, must(t, m, err), "192.0.2.1")
	if n := c.Stats().Servers[0].Mismatched; n != maxMismatched {
		t.Errorf("looked at %d guesses", n)
	}
}

// Nothing that comes beside an answer, wherever it stands, is believed of another name.
func TestOutOfBailiwick(t *testing.T) {
	poison := func(q *dns.Msg, m *dns.Msg) *dns.Msg {
		m.Answer = append(m.Answer, rr("bank.example. 60 IN A 203.0.113.66"), rr("www.example.com. 60 IN TXT poison"))
		m.Ns = append(m.Ns, rr("example. 60 IN NS evil.example."), rr("example. 60 IN SOA evil. h. 1 1 1 1 60"), rr(". 60 IN NS evil.example."))
		m.Extra = append(m.Extra, rr("evil.example. 60 IN A 203.0.113.66"), rr("bank.example. 60 IN A 203.0.113.66"))
		return m
	}
	for name, craft := range map[string]func(q *dns.Msg) *dns.Msg{
		"an answer": func(q *dns.Msg) *dns.Msg { return poison(q, reply(q, a1)) },
		"an alias": func(q *dns.Msg) *dns.Msg {
			return poison(q, reply(q, "www.example.com. 60 IN CNAME bank.example.net."))
		},
		"a denial":  func(q *dns.Msg) *dns.Msg { return poison(q, rcode(q, dns.RcodeNameError)) },
		"no data":   func(q *dns.Msg) *dns.Msg { return poison(q, reply(q)) },
		"a failure": func(q *dns.Msg) *dns.Msg { return poison(q, serverFail(q)) },
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(_ string, q *dns.Msg) *dns.Msg {
				if q.Question[0].Name == "www.example.com." {
					return craft(q)
				}
				return reply(q, q.Question[0].Name+" 60 IN A 192.0.2.1")
			})
			c := New(Options{})
			m, err := c.Exchange(t.Context(), to(s.addr), query("www.example.com.", dns.TypeA))
			for _, rr := range append(must(t, m, err).Answer, append(m.Ns, m.Extra...)...) {
				if strings.Contains(rr.String(), "203.0.113.66") && len(chain(m.Answer, m.Question[0])) == 1 && m.Rcode != dns.RcodeServerFailure {
					t.Errorf("handed on %v", rr)
				}
			}
			for _, other := range []string{"bank.example.", "evil.example.", "x.bank.example.", "bank.example.net."} {
				m, err := c.Exchange(t.Context(), to(s.addr), query(other, dns.TypeA))
				expectA(t, must(t, m, err), "192.0.2.1")
			}
		})
	}
}

// Aliases in a circle are an answer like another: who asked may make of it what he likes.
func TestAliasesInACircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := answering("www.example.com. 60 IN CNAME b.example.com.", "b.example.com. 60 IN CNAME www.example.com.")
		c := New(Options{})
		for range 2 {
			m, took, err := timed(t, c, p.at(1), "www.example.com.")
			if must(t, m, err).Rcode != dns.RcodeSuccess || took != 0 {
				t.Errorf("answered after %v\n%v", took, m)
			}
		}
	})
}

// The longest message there can be comes through whole, and is kept.
func TestLongestMessage(t *testing.T) {
	text := strings.Repeat("x", 250)
	s := serve(t, func(network string, q *dns.Msg) *dns.Msg {
		m := reply(q)
		for m.Len() < maxMessage-300 {
			m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60}, Txt: []string{text}})
		}
		if network == "udp" {
			m.Truncate(1232)
		}
		return m
	})
	c := New(Options{})
	for range 2 {
		m, err := c.Exchange(t.Context(), to(s.addr), query("www.example.com.", dns.TypeTXT))
		if n := len(must(t, m, err).Answer); n < 230 || m.Truncated {
			t.Errorf("%d records", n)
		}
	}
	if s.tcp.Load() != 1 {
		t.Errorf("asked %d times", s.tcp.Load())
	}
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
	if !errors.Is(err, errUnsent) || c.health.servers[place{"", nil, s.Addrs[0]}].silent != 0 || c.Stats().Entries != 0 {
		t.Errorf("blamed the server: %v", err)
	}
}
