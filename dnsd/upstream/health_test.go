package upstream

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// When a server that was down answers anything, what failed meanwhile is asked again at once.
func TestRecoveryForgives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, now := switched(silence)
		c := New(Options{})
		for range 3 {
			if _, err := c.Exchange(t.Context(), p.at(1), query("www.example.com.", dns.TypeA)); err == nil {
				t.Fatal("no error")
			}
			time.Sleep(6 * time.Second)
		}
		if _, err := c.Exchange(t.Context(), p.at(1), query("www.example.com.", dns.TypeA)); err == nil {
			t.Fatal("no error")
		}
		now.Store(good)
		if _, err := c.Exchange(t.Context(), p.at(1), query("www.example.com.", dns.TypeA)); err == nil {
			t.Fatal("not remembered")
		}
		m, err := c.Exchange(t.Context(), p.at(1), query("other.example.com.", dns.TypeA))
		must(t, m, err)
		expectA(t, exchange(t, c, p), "192.0.2.1")
	})
}

func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		var first atomic.Int64
		down.Store(true)
		p := &pipes{handle: func(_, address string, q *dns.Msg) *dns.Msg {
			if address == "192.0.2.1:53" {
				first.Add(1)
				if down.Load() {
					return nil
				}
			}
			return reply(q, q.Question[0].Name+" 60 IN A 192.0.2.1")
		}}
		c := New(Options{})
		n := 0
		ask := func() time.Duration {
			n++
			began := time.Now()
			m, err := c.Exchange(t.Context(), p.at(1, 2), query(fmt.Sprintf("w%d.example.com.", n), dns.TypeA))
			must(t, m, err)
			return time.Since(began)
		}
		if took := []time.Duration{ask(), ask(), ask()}; !slices.Equal(took, []time.Duration{firstTry, firstTry, 0}) {
			t.Errorf("questions took %v", took)
		}
		first.Store(0)
		for range 100 { // 100 s: probes after 1 s, then 2, 4, 8, 16, 30, 30
			time.Sleep(time.Second)
			if took := ask(); took != 0 {
				t.Fatalf("a probe cost %v", took)
			}
		}
		if got := first.Load(); got < 5 || got > 8 {
			t.Errorf("probed %d times in 100 s", got)
		}
		down.Store(false)
		time.Sleep(31 * time.Second)
		ask()
		synctest.Wait()
		first.Store(0)
		ask()
		if first.Load() != 1 || c.Stats().Servers[0].Down {
			t.Error("not the first choice again")
		}
		time.Sleep(time.Minute) // probes end by themselves
	})
}

// A slow name is not the server's fault as long as it answers others.
func TestSlowNameIsNotADownServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{handle: func(_, address string, q *dns.Msg) *dns.Msg {
			if q.Question[0].Name == "slow.example.com." {
				return nil
			}
			return reply(q, q.Question[0].Name+" 60 IN A 192.0.2.1")
		}}
		c := New(Options{})
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				if _, err := c.Exchange(t.Context(), p.at(1), query("slow.example.com.", dns.TypeA)); err == nil {
					t.Error("no error")
				}
			})
			for j := range 30 {
				time.Sleep(100 * time.Millisecond)
				m, err := c.Exchange(t.Context(), p.at(1), query(fmt.Sprintf("w%d-%d.example.com.", i, j), dns.TypeA))
				must(t, m, err)
			}
		}
		wg.Wait()
		if c.Stats().Servers[0].Down {
			t.Error("the server counts as down")
		}
	})
}

// A reply that is noted after later ones, for it was held, hides none of them.
func TestHeldAnswerHidesNone(t *testing.T) {
	h, s, began := newHealth(), (&pipes{}).at(1), time.Now()
	for _, came := range []time.Duration{40 * time.Millisecond, 50 * time.Millisecond, 0} {
		h.answered(s, s.Addrs[0], began, began.Add(came), dns.RcodeNameError)
	}
	for range downAfter {
		h.silent(s, s.Addrs[0], began.Add(20*time.Millisecond))
	}
	if !h.well(s, time.Now()) {
		t.Error("the server counts as down, and has answered since")
	}
}

// An answer after the first try's time still counts.
func TestSlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{handle: func(_, _ string, q *dns.Msg) *dns.Msg {
			time.Sleep(1500 * time.Millisecond)
			return good(q)
		}}
		began := time.Now()
		expectA(t, exchange(t, New(Options{}), p), "192.0.2.1")
		if took := time.Since(began); took != 1500*time.Millisecond {
			t.Errorf("took %v", took)
		}
		time.Sleep(2 * time.Second) // the second try's answer, which nobody waits for
	})
}

func TestLostPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		p := &pipes{handle: func(_, _ string, q *dns.Msg) *dns.Msg {
			if n.Add(1) == 1 {
				return nil
			}
			return good(q)
		}}
		expectA(t, exchange(t, New(Options{}), p), "192.0.2.1")
	})
}
