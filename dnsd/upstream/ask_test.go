package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

const a1 = "www.example.com. 60 IN A 192.0.2.1"

func answers(rrs ...string) handler {
	return func(_ string, q *dns.Msg) *dns.Msg { return reply(q, rrs...) }
}

func TestExchange(t *testing.T) {
	queries := make(chan *dns.Msg, 1)
	s := serve(t, func(_ string, q *dns.Msg) *dns.Msg {
		queries <- q.Copy()
		return reply(q, a1)
	})
	q := query("WWW.Example.COM.", dns.TypeA)
	q.SetEdns0(4096, true)
	q.IsEdns0().Option = []dns.EDNS0{
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "24a5ac1234567890"},
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(10, 0, 0, 0)},
	}
	before := q.String()
	m, err := New(Options{}).Exchange(t.Context(), to(s.addr), q)
	expectA(t, must(t, m, err), "192.0.2.1")
	if m.Id != q.Id || m.Question[0] != q.Question[0] || m.Answer[0].Header().Name != "WWW.Example.COM." {
		t.Errorf("the reply is not spelled like the question:\n%v", m)
	}
	if q.String() != before {
		t.Error("the query was changed")
	}
	sent := <-queries
	opt := sent.IsEdns0()
	if opt == nil || opt.UDPSize() != 1232 || !opt.Do() || len(opt.Option) != 0 {
		t.Errorf("sent OPT %v, want size 1232, DO, and none of the client's options", opt)
	}
	if sent.Id == q.Id || sent.Question[0].Name != "www.example.com." {
		t.Errorf("sent the client's ID or spelling:\n%v", sent)
	}
	if opt := m.IsEdns0(); opt == nil || !opt.Do() || len(opt.Option) != 0 {
		t.Errorf("the client is told OPT %v", opt)
	}
}

func TestNoOPTUnlessAsked(t *testing.T) {
	s := serve(t, func(_ string, q *dns.Msg) *dns.Msg {
		m := reply(q, a1)
		if q.IsEdns0() == nil {
			t.Error("asked upstream without EDNS")
		}
		return m.SetEdns0(1232, false)
	})
	c := New(Options{})
	for range 2 { // from the server, then from memory
		m, err := c.Exchange(t.Context(), to(s.addr), query("www.example.com.", dns.TypeA))
		if must(t, m, err).IsEdns0() != nil {
			t.Errorf("OPT for a client that sent none:\n%v", m)
		}
	}
}

func TestFailOver(t *testing.T) {
	good := answers(a1)
	for name, bad := range map[string]handler{
		"SERVFAIL": func(_ string, q *dns.Msg) *dns.Msg { return rcode(q, dns.RcodeServerFailure) },
		"REFUSED":  func(_ string, q *dns.Msg) *dns.Msg { return rcode(q, dns.RcodeRefused) },
		"NOTIMP":   func(_ string, q *dns.Msg) *dns.Msg { return rcode(q, dns.RcodeNotImplemented) },
		"referral": func(_ string, q *dns.Msg) *dns.Msg {
			m := reply(q)
			m.Ns = []dns.RR{rr("com. 60 IN NS a.gtld-servers.net.")}
			return m
		},
		"answer to something else": answers("evil.example. 60 IN A 203.0.113.66"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &pipes{handle: func(network, address string, q *dns.Msg) *dns.Msg {
					if address == "192.0.2.1:53" {
						return bad(network, q)
					}
					return good(network, q)
				}}
				c := New(Options{})
				m, took, err := timed(t, c, p.at(1, 2), "www.example.com.")
				expectA(t, must(t, m, err), "192.0.2.1")
				if took != 0 {
					t.Errorf("the next server was asked only after %v", took)
				}
				if n := c.Stats().Servers; n[0].Refusals != 1 || n[1].Refusals != 0 {
					t.Errorf("refusals not counted: %+v", n)
				}
			})
		})
	}
}

func TestDeadServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{handle: func(_, address string, q *dns.Msg) *dns.Msg {
			if address == "192.0.2.1:53" {
				return nil
			}
			return echoing(q)
		}}
		c, servers := New(Options{}), p.at(1, 2)
		for i := range 20 {
			var want time.Duration
			if i < downAfter {
				want = firstTry // and then the next server
			}
			m, took, err := timed(t, c, servers, fmt.Sprintf("w%d.example.com.", i))
			expectA(t, must(t, m, err), "192.0.2.1")
			if took != want {
				t.Errorf("question %d took %v, want %v", i, took, want)
			}
		}
		for _, s := range c.Stats().Servers {
			if s.Down != (s.Addr == servers.Addrs[0]) {
				t.Errorf("%v down: %v", s.Addr, s.Down)
			}
		}
	})
}

// What the kernel says of a closed port is heard, not waited out.
func TestRefusingPort(t *testing.T) {
	pc, ln := listen(t)
	_, _ = pc.Close(), ln.Close()
	closed := must1(t, pc.LocalAddr().String())
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	q := newQuestion(query("www.example.com.", dns.TypeA))
	c := New(Options{})
	first := func(ctx context.Context) (*dns.Msg, error) {
		return c.send(ctx, to(closed), "udp", closed, q, q.wire)
	}
	if _, err := c.try(ctx, to(closed), closed, q, q.wire, first); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("error %v", err)
	}
}

// A server whose socket fails is given up at once.
func TestBrokenSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := answering(a1)
		s := p.at(1, 2)
		s.Dial = wrapDial(func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != "192.0.2.1:53" {
				return p.DialContext(ctx, network, address)
			}
			near, far := net.Pipe()
			return near, far.Close()
		})
		c := New(Options{})
		m, took, err := timed(t, c, s, "www.example.com.")
		expectA(t, must(t, m, err), "192.0.2.1")
		if n := c.Stats().Servers[0]; took != 0 || n.Failures != 1 || n.Error == "" || c.Stats().Servers[1].Error != "" {
			t.Errorf("after %v, %+v", took, n)
		}
	})
}

func TestAllDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := switched(silence)
		c, s := New(Options{}), p.at(1, 2)
		_, took, err := timed(t, c, s, "www.example.com.")
		if err == nil || took != budget {
			t.Fatalf("%v after %v", err, took)
		}
		for _, part := range []string{s.Addrs[0].String(), s.Addrs[1].String(), "www.example.com. A", "no answer in time"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("error %q does not say %q", err, part)
			}
		}
		if _, took, err := timed(t, c, s, "www.example.com."); err == nil || took != 0 {
			t.Errorf("not remembered: %v after %v", err, took)
		}
		time.Sleep(budget) // for a probe
	})
}

func TestRefusalIsHandedOn(t *testing.T) {
	s := serve(t, func(_ string, q *dns.Msg) *dns.Msg { return rcode(q, dns.RcodeRefused) })
	c := New(Options{})
	for range 2 {
		m, err := c.Exchange(t.Context(), to(s.addr), query("www.example.com.", dns.TypeA))
		if must(t, m, err).Rcode != dns.RcodeRefused {
			t.Fatalf("answered %v", m)
		}
	}
	if n := s.udp.Load(); n != 1 || c.Stats().Remembered != 1 {
		t.Errorf("asked %d times, %d remembered", n, c.Stats().Remembered)
	}
}

func TestTruncated(t *testing.T) {
	var all []string
	for i := range 60 {
		all = append(all, fmt.Sprintf("www.example.com. 60 IN A 192.0.2.%d", i+1))
	}
	s := serve(t, func(network string, q *dns.Msg) *dns.Msg {
		m := reply(q, all...)
		if network == "udp" {
			m.Truncate(512)
		}
		return m
	})
	c := New(Options{})
	for range 2 {
		m, err := c.Exchange(t.Context(), to(s.addr), query("www.example.com.", dns.TypeA))
		if got := len(must(t, m, err).Answer); got != 60 || m.Truncated {
			t.Fatalf("%d addresses, truncated %v", got, m.Truncated)
		}
	}
	if s.tcp.Load() != 1 {
		t.Errorf("asked %d times over TCP", s.tcp.Load())
	}
}

// A server that cuts answers short and has no TCP is still better than nothing.
func TestTruncatedWithoutTCP(t *testing.T) {
	addr := raw(t, func(send func([]byte), from net.Addr, packet []byte) {
		m := reply(parse(packet), a1)
		m.Truncated = true
		send(pack(m))
	})
	c := New(Options{})
	m, err := c.Exchange(t.Context(), to(addr), query("www.example.com.", dns.TypeA))
	expectA(t, must(t, m, err), "192.0.2.1")
	if !m.Truncated {
		t.Error("the client is not told that there is more")
	}
}

func TestBigUDP(t *testing.T) {
	text := strings.Repeat("x", 250)
	s := serve(t, func(_ string, q *dns.Msg) *dns.Msg {
		m := reply(q)
		for i := range 100 {
			m.Answer = append(m.Answer, rr(fmt.Sprintf("www.example.com. 60 IN TXT \"%d%s\"", i, text)))
		}
		return m
	})
	m, err := New(Options{}).Exchange(t.Context(), to(s.addr), query("www.example.com.", dns.TypeTXT))
	if got := len(must(t, m, err).Answer); got != 100 || s.tcp.Load() != 0 {
		t.Errorf("%d records, %d times over TCP", got, s.tcp.Load())
	}
}

func TestServerWithoutEDNS(t *testing.T) {
	for name, refusal := range map[string]func(q *dns.Msg) *dns.Msg{
		"FORMERR":       func(q *dns.Msg) *dns.Msg { return rcode(q, dns.RcodeFormatError) },
		"bare header":   func(q *dns.Msg) *dns.Msg { m := rcode(q, dns.RcodeFormatError); m.Question = nil; return m },
		"NOTIMP":        func(q *dns.Msg) *dns.Msg { return rcode(q, dns.RcodeNotImplemented) },
		"answer anyway": func(q *dns.Msg) *dns.Msg { return reply(q, a1) },
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(_ string, q *dns.Msg) *dns.Msg {
				if q.IsEdns0() != nil {
					return refusal(q)
				}
				return reply(q, a1)
			})
			m, err := New(Options{}).Exchange(t.Context(), to(s.addr), query("www.example.com.", dns.TypeA))
			expectA(t, must(t, m, err), "192.0.2.1")
		})
	}
}

func TestOverTCP(t *testing.T) {
	s := serve(t, answers(a1))
	servers := to(s.addr)
	servers.TCP = true
	m, err := New(Options{}).Exchange(t.Context(), servers, query("www.example.com.", dns.TypeA))
	expectA(t, must(t, m, err), "192.0.2.1")
	if s.udp.Load() != 0 || s.tcp.Load() != 1 {
		t.Errorf("asked %d times over UDP and %d over TCP", s.udp.Load(), s.tcp.Load())
	}
}

func TestAskEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := &pipes{handle: func(string, string, *dns.Msg) *dns.Msg { cancel(); return nil }}
		began := time.Now()
		_, err := New(Options{}).Ask(ctx, p.at(1), query("www.example.com.", dns.TypeA))
		if took := time.Since(began); !errors.Is(err, context.Canceled) || took != 0 {
			t.Errorf("%v after %v", err, took)
		}
	})
}

func TestAskRemembersNothing(t *testing.T) {
	s := serve(t, answers(a1))
	c := New(Options{})
	for range 3 {
		m, err := c.Ask(t.Context(), to(s.addr), query("www.example.com.", dns.TypeA))
		expectA(t, must(t, m, err), "192.0.2.1")
	}
	if s.udp.Load() != 3 || c.Stats().Entries != 0 {
		t.Errorf("asked %d times, %d entries", s.udp.Load(), c.Stats().Entries)
	}
}

func TestNotAQuery(t *testing.T) {
	c := New(Options{})
	s := to(dead(t))
	two := query("a.example.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	notify := query("a.example.", dns.TypeA)
	notify.Opcode = dns.OpcodeNotify
	for what, try := range map[string]struct {
		s Servers
		q *dns.Msg
	}{
		"no server":     {Servers{}, query("a.example.", dns.TypeA)},
		"no question":   {s, new(dns.Msg)},
		"two questions": {s, two},
		"NOTIFY":        {s, notify},
		"bad name":      {s, query("a..example.", dns.TypeA)},
	} {
		if _, err := c.Exchange(t.Context(), try.s, try.q); err == nil {
			t.Errorf("%s: no error", what)
		}
		if _, err := c.Ask(t.Context(), try.s, try.q); err == nil {
			t.Errorf("%s: no error from Ask", what)
		}
	}
}
