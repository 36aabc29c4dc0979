package upstream

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// circle is a network in which server 1 hands what it is asked, changed, to server 2, which is a listener
// as dnsd has them: c asks server 1 for whoever asks it.
func circle(t *testing.T, c *Client, change func(*dns.Msg)) (p *pipes, back *atomic.Int64) {
	p, back = new(pipes), new(atomic.Int64)
	p.handle = func(_, _ string, q *dns.Msg) *dns.Msg {
		onward := q.Copy()
		change(onward)
		back.Add(1)
		m, err := c.Exchange(t.Context(), p.at(1), onward)
		if err != nil {
			m = rcode(onward, dns.RcodeServerFailure)
		}
		return m
	}
	return p, back
}

// However a question comes back to us, it goes round once, ends in time, and is noticed unless the
// forwarder in between drops what it does not know.
func TestLoop(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(*dns.Msg)
		noticed uint64
	}{
		"ourselves, or a forwarder":        {func(*dns.Msg) {}, 1},
		"a forwarder without EDNS":         {func(m *dns.Msg) { m.Extra = nil }, 0},
		"a forwarder with EDNS of its own": {func(m *dns.Msg) { m.Extra = nil; m.SetEdns0(4096, true) }, 0},
		"a forwarder that sets CD":         {func(m *dns.Msg) { m.CheckingDisabled = true }, 2}, // with CD it is another question
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := New(Options{})
				p, back := circle(t, c, test.change)
				m, took, err := timed(t, c, p.at(1), "www.example.com.")
				if took > budget || err == nil && m.Rcode != dns.RcodeServerFailure {
					t.Errorf("%v, %v after %v", m, err, took)
				}
				s := c.Stats()
				if s.Loops != test.noticed || back.Load() > 2*maxTries {
					t.Errorf("%d loops noticed, came back %d times", s.Loops, back.Load())
				}
				if test.noticed > 0 && (err != nil || len(m.IsEdns0().Option) != 1) {
					t.Errorf("the client is not told why: %v, %v", m, err)
				}
				synctest.Wait() // for what the end of the question led to
				if _, took, _ := timed(t, c, p.at(1), "www.example.com."); took != 0 {
					t.Errorf("the same again took %v", took)
				}
				time.Sleep(2 * budget)
			})
		})
	}
}

// A failure of our own that comes back is no sign of life: what failed stays so for its time, and who asks
// in the meantime does not wait.
func TestLoopForgivesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{})
		p, _ := circle(t, c, func(m *dns.Msg) { m.Extra = nil })
		waited := 0
		for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(100 * time.Millisecond) {
			if _, took, _ := timed(t, c, p.at(1), "www.example.com."); took > 0 {
				waited++
			}
		}
		const remembered = 3 // times it is for less than failureLast
		if most := int(time.Minute/(failureLast+budget)) + 1 + remembered; waited > most {
			t.Errorf("%d questions were waited for in a minute, want %d", waited, most)
		}
		time.Sleep(2 * budget)
	})
}

// The same with sockets: a server that is our own listener.
func TestLoopOverSockets(t *testing.T) {
	c := New(Options{})
	var place atomic.Value // of the server we ask
	us := serve(t, func(_ string, q *dns.Msg) *dns.Msg {
		m, err := c.Exchange(t.Context(), to(place.Load().(netip.AddrPort)), q)
		if err != nil {
			return rcode(q, dns.RcodeServerFailure)
		}
		return m
	})
	place.Store(us.addr)
	if m, _, err := timed(t, c, to(us.addr), "www.example.com."); err == nil && m.Rcode != dns.RcodeServerFailure || us.udp.Load() > maxTries {
		t.Errorf("came back %d times: %v, %v", us.udp.Load(), m, err)
	}
}

// With another server the circle costs a first try, and then nothing.
func TestLoopBesideAServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := New(Options{}), new(pipes)
		p.handle = func(_, address string, q *dns.Msg) *dns.Msg {
			if address == "192.0.2.2:53" {
				return good(q)
			}
			m, err := c.Exchange(t.Context(), p.at(1, 2), q)
			if err != nil {
				return serverFail(q)
			}
			return m
		}
		for _, want := range []time.Duration{firstTry, 0} {
			m, took, err := timed(t, c, p.at(1, 2), "www.example.com.")
			expectA(t, must(t, m, err), "192.0.2.1")
			if took != want {
				t.Errorf("took %v, want %v", took, want)
			}
		}
	})
}

// A zone whose server is the pods' own nameserver here.
func TestZoneLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(pipes)
		c := New(Options{Zones: []Zone{zone("corp.example", p.at(1).Addrs[0])}})
		corp := c.zones["corp.example."]
		corp.Dial = p
		c.zones["corp.example."] = corp
		p.handle = func(_, _ string, q *dns.Msg) *dns.Msg {
			m, err := c.Exchange(t.Context(), Servers{}, q)
			if err != nil {
				return serverFail(q)
			}
			return m
		}
		m, took, err := timed(t, c, Servers{}, "db.corp.example.")
		if must(t, m, err).Rcode != dns.RcodeServerFailure || took > budget || c.Stats().Loops != 1 || p.asked.Load() > maxTries {
			t.Errorf("%d loops noticed in %v:\n%v", c.Stats().Loops, took, m)
		}
	})
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
	synctest.Test(t, func(t *testing.T) {
		c, p := New(Options{}), new(pipes)
		failed := make(chan error, 100)
		forward := func(packet []byte) *dns.Msg {
			reply, err := c.Forward(t.Context(), p.at(1), "udp", packet)
			if err != nil {
				failed <- err
				return serverFail(parse(packet))
			}
			return parse(reply)
		}
		p.handle = func(_, _ string, q *dns.Msg) *dns.Msg { return forward(pack(q)) }
		began := time.Now()
		if m := forward(pack(new(dns.Msg).SetUpdate("example.com."))); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("answered\n%v", m)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("a circle took %v", took)
		}
		if err := <-failed; !errors.Is(err, errLoop) || c.Stats().Loops != 1 || c.Stats().Forwarded != maxSame || len(c.loops.underway) != 0 {
			t.Errorf("%v, %+v", err, c.Stats())
		}
	})
}
