package upstream

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// relays is a forwarder that hands every question on, changed, and every reply back.
func relays(t *testing.T, to netip.AddrPort, change func(*dns.Msg)) *testServer {
	return serve(t, func(_ string, q *dns.Msg) *dns.Msg {
		onward := q.Copy()
		onward.Id = dns.Id()
		change(onward)
		m, _, err := (&dns.Client{Timeout: 5 * time.Second}).Exchange(onward, to.String())
		if err != nil {
			return nil
		}
		m.Id = q.Id
		return m
	})
}

// answersFor is a listener as dnsd has them: what is asked there, c asks s.
func answersFor(t *testing.T, c *Client, s func() Servers) *testServer {
	return serve(t, func(_ string, q *dns.Msg) *dns.Msg {
		m, err := c.Exchange(t.Context(), s(), q)
		if err != nil {
			return rcode(q, dns.RcodeServerFailure)
		}
		return m
	})
}

// However a question comes back to us, it goes round once, ends in time, and is noticed unless the
// forwarder in between drops what it does not know.
func TestLoop(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(*dns.Msg) // nil: no forwarder in between
		noticed uint64
	}{
		"ourselves":                        {nil, 1},
		"a forwarder":                      {func(*dns.Msg) {}, 1},
		"a forwarder without EDNS":         {func(m *dns.Msg) { m.Extra = nil }, 0},
		"a forwarder with EDNS of its own": {func(m *dns.Msg) { m.SetEdns0(4096, true) }, 0},
		"a forwarder that sets CD":         {func(m *dns.Msg) { m.CheckingDisabled = true }, 2}, // with CD it is another question
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := New(Options{})
			var place atomic.Value // of the server we ask
			us := answersFor(t, c, func() Servers { return to(place.Load().(netip.AddrPort)) })
			first := us.addr
			if test.change != nil {
				first = relays(t, us.addr, test.change).addr
			}
			place.Store(first)
			q := query("www.example.com.", dns.TypeA)
			q.SetEdns0(1232, false)
			began := time.Now()
			m, err := c.Exchange(t.Context(), to(first), q)
			took := time.Since(began)
			if took > budget+500*time.Millisecond || err == nil && m.Rcode != dns.RcodeServerFailure {
				t.Errorf("%v, %v after %v", m, err, took)
			}
			s := c.Stats()
			if s.Loops != test.noticed || us.udp.Load() > 2*maxTries {
				t.Errorf("%d loops noticed, came back %d times", s.Loops, us.udp.Load())
			}
			if test.noticed > 0 && (err != nil || len(m.IsEdns0().Option) != 1) {
				t.Errorf("the client is not told why: %v, %v", m, err)
			}
			within(t, 500*time.Millisecond, "the same again", func() { _, _ = c.Exchange(t.Context(), to(first), q) })
		})
	}
}

// With another server the circle costs a first try, and then nothing.
func TestLoopBesideAServer(t *testing.T) {
	c := New(Options{})
	good := serve(t, answers(a1))
	var place atomic.Value
	us := answersFor(t, c, func() Servers { return to(place.Load().(netip.AddrPort), good.addr) })
	place.Store(us.addr)
	m, err := c.Exchange(t.Context(), to(us.addr, good.addr), query("www.example.com.", dns.TypeA))
	expectA(t, must(t, m, err), "192.0.2.1")
}

// A zone whose server is the pods' own nameserver here.
func TestZoneLoop(t *testing.T) {
	var client atomic.Pointer[Client]
	us := serve(t, func(_ string, q *dns.Msg) *dns.Msg {
		m, err := client.Load().Exchange(t.Context(), Servers{}, q)
		if err != nil {
			return rcode(q, dns.RcodeServerFailure)
		}
		return m
	})
	c := New(Options{Zones: []Zone{zone("corp.example", us.addr)}})
	client.Store(c)
	m, took, err := timed(t, c, Servers{}, "db.corp.example.")
	if must(t, m, err).Rcode != dns.RcodeServerFailure || took > budget+500*time.Millisecond || c.Stats().Loops != 1 || us.udp.Load() > maxTries {
		t.Errorf("%d loops noticed in %v:\n%v", c.Stats().Loops, took, m)
	}
}

// The mark is ours alone, and goes nowhere unless a server was silent.
func TestMark(t *testing.T) {
	c, other := New(Options{}), New(Options{})
	q := newQuestion(query("www.example.com.", dns.TypeA))
	plain := bytes.Clone(q.wire)
	m := parse(c.loops.mark(q.wire))
	if !c.loops.marked(m) || other.loops.marked(m) || c.loops.marked(parse(q.wire)) || c.loops.marked(parse(q.bare)) || !bytes.Equal(plain, q.wire) {
		t.Errorf("marked\n%v", m)
	}
	seen := make(chan []byte, maxTries)
	addr := raw(t, func(send func([]byte), _ net.Addr, packet []byte) {
		if seen <- packet; len(seen) == maxTries {
			send(pack(reply(parse(packet), a1)))
		}
	})
	m, err := c.Exchange(t.Context(), to(addr), query("www.example.com.", dns.TypeA))
	expectA(t, must(t, m, err), "192.0.2.1")
	for i := range maxTries {
		packet := <-seen
		if c.loops.marked(parse(packet)) != (i == 1) {
			t.Errorf("try %d:\n%v", i, parse(packet))
		}
	}
}

// A packet passed through untouched goes round a few times at most.
func TestForwardLoop(t *testing.T) {
	c := New(Options{})
	failed := make(chan error, 100)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pc.Close() }()
	self := must1(t, pc.LocalAddr().String())
	update := pack(new(dns.Msg).SetUpdate("example.com."))
	go func() {
		buf := make([]byte, maxMessage)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			packet := bytes.Clone(buf[:n])
			go func() {
				reply, err := c.Forward(t.Context(), to(self), "udp", packet)
				if err != nil {
					failed <- err
					reply = pack(rcode(parse(packet), dns.RcodeServerFailure))
				}
				_, _ = pc.WriteTo(reply, from)
			}()
		}
	}()
	within(t, time.Second, "a circle", func() {
		wire, err := c.Forward(t.Context(), to(self), "udp", update)
		if err != nil || parse(wire).Rcode != dns.RcodeServerFailure {
			t.Errorf("%v, %v", wire, err)
		}
	})
	if err := <-failed; !errors.Is(err, errLoop) || c.Stats().Loops != 1 || c.Stats().Forwarded != maxSame || len(c.loops.underway) != 0 {
		t.Errorf("%v, %+v", err, c.Stats())
	}
}
