package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// What came for one question is not held against the next, nor heard by it, and whoever floods a port with that
// gets no further one through it.
func TestPortIsLentEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlay(t)
		p.ask(4)
		p.await(1)
		a := p.queries[0]
		p.serve(0, there, false) // one too early, that one, and one too late
		for range 3 {
			_ = unix.Sendto(p.server, pack(there(query("n3.example.com.", dns.TypeA))), 0, a.from)
		}
		p.hear()
		used := p.used()
		p.ask(6)
		p.await(1)
		p.serve(0, there, true)
		p.hear()
		if n := p.c.Stats().Servers[0]; n.Mismatched != 1 || n.RTT.Total() != 2 || p.used() != used {
			t.Errorf("%+v, on port %d and %d", n, used, p.used())
		}

		p.ask(5)
		p.await(1)
		for range maxMismatched {
			_ = unix.Sendto(p.server, p.queries[0].packet, 0, p.queries[0].from)
		}
		p.serve(0, there, true)
		p.hear()
		p.rest()
	})
}

// used is the number of the only port.
func (p *play) used() (number int32) {
	if len(p.line.ports.all) != 1 {
		p.t.Fatalf("%d ports", len(p.line.ports.all))
	}
	for number = range p.line.ports.all {
	}
	return number
}

// An event that is on its way when its socket is closed is no other's.
func TestEventOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlay(t)
		p.ask(4)
		gone := p.used()
		p.line.Ready(gone, unix.EPOLLHUP)
		p.later.Wait()
		p.ask(6)
		p.line.Ready(gone, unix.EPOLLHUP)
		if w := p.waiters[1]; w.ends != 0 || p.used() == gone {
			t.Errorf("%d ends, on port %d after %d", w.ends, p.used(), gone)
		}
		p.await(2)
		p.serve(1, there, true)
		p.hear()
		time.Sleep(time.Millisecond)
		if w := p.waiters[1]; w.answers != 1 {
			t.Errorf("%d answers", w.answers)
		}
		p.rest()
	})
}
