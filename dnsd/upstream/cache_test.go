package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// exchange asks p's server 1 for www.example.com A.
func exchange(t *testing.T, c *Client, p *pipes) *dns.Msg {
	t.Helper()
	m, err := c.Exchange(t.Context(), p.at(1), query("www.example.com.", dns.TypeA))
	return must(t, m, err)
}

func expectAsked(t *testing.T, p *pipes, n int64) {
	t.Helper()
	synctest.Wait()
	if got := p.asked.Load(); got != n {
		t.Fatalf("the servers were asked %d times, want %d", got, n)
	}
}

func answering(rrs ...string) *pipes {
	return &pipes{handle: func(_, _ string, q *dns.Msg) *dns.Msg { return reply(q, rrs...) }}
}

// switched is a server whose handler can change.
func switched(h func(q *dns.Msg) *dns.Msg) (*pipes, *atomic.Value) {
	var v atomic.Value
	v.Store(h)
	return &pipes{handle: func(_, _ string, q *dns.Msg) *dns.Msg { return v.Load().(func(*dns.Msg) *dns.Msg)(q) }}, &v
}

func silence(*dns.Msg) *dns.Msg      { return nil }
func good(q *dns.Msg) *dns.Msg       { return reply(q, a1) }
func serverFail(q *dns.Msg) *dns.Msg { return rcode(q, dns.RcodeServerFailure) }

func denied(soa string) *pipes {
	return &pipes{handle: func(_, _ string, q *dns.Msg) *dns.Msg {
		m := rcode(q, dns.RcodeNameError)
		if soa != "" {
			m.Ns = []dns.RR{rr(soa)}
		}
		return m
	}}
}

func TestCacheCountsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := answering("www.example.com. 300 IN CNAME web.example.com.", "web.example.com. 60 IN A 192.0.2.1"), New(Options{})
		first := exchange(t, c, p)
		first.Answer[1].Header().Ttl = 7 // ours to do with as we like
		time.Sleep(59*time.Second + 900*time.Millisecond)
		m := exchange(t, c, p)
		if m.Answer[0].Header().Ttl != 241 || m.Answer[1].Header().Ttl != 1 || m.Authoritative {
			t.Errorf("after 59 s:\n%v", m)
		}
		expectAsked(t, p, 1)
		time.Sleep(100 * time.Millisecond)
		exchange(t, c, p)
		expectAsked(t, p, 2)
	})
}

func TestCacheNegative(t *testing.T) {
	for _, test := range []struct {
		soa  string
		kept time.Duration
	}{
		{"example.com. 3600 IN SOA ns. h. 1 1 1 1 20", 20 * time.Second},
		{"example.com. 15 IN SOA ns. h. 1 1 1 1 3600", 15 * time.Second},
		{"example.com. 3600 IN SOA ns. h. 1 1 1 1 3600", maxNegative},
		{"example.net. 3600 IN SOA ns. h. 1 1 1 1 20", 0}, // not its zone
		{"", 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			p, c := denied(test.soa), New(Options{})
			if m := exchange(t, c, p); m.Rcode != dns.RcodeNameError {
				t.Fatalf("answered %v", m)
			}
			if test.kept > 0 {
				time.Sleep(test.kept - time.Millisecond)
				exchange(t, c, p)
				expectAsked(t, p, 1)
			}
			time.Sleep(time.Millisecond)
			exchange(t, c, p)
			expectAsked(t, p, 2)
		})
	}
}

func TestZeroTTLIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := answering("www.example.com. 0 IN A 192.0.2.1"), New(Options{})
		for range 3 {
			exchange(t, c, p)
		}
		expectAsked(t, p, 3)
	})
}

// What may change an answer keeps two questions apart; what may not, does not.
func TestCacheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := answering(a1), New(Options{})
		p.handle = func(_, _ string, q *dns.Msg) *dns.Msg { return reply(q, q.Question[0].Name+" 60 IN A 192.0.2.1") }
		ask := func(s Servers, change func(*dns.Msg)) {
			q := query("www.example.com.", dns.TypeA)
			change(q)
			m, err := c.Exchange(t.Context(), s, q)
			must(t, m, err)
		}
		same := func(*dns.Msg) {}
		ask(p.at(1), same)
		expectAsked(t, p, 1)
		ask(p.at(1), func(q *dns.Msg) { q.Question[0].Name = "WWW.example.com." })
		ask(p.at(1), func(q *dns.Msg) { q.SetEdns0(512, false) })
		expectAsked(t, p, 1)
		scoped, tcp := p.at(1), p.at(1, 2)
		scoped.Scope = "ns1"
		tcp.Dial, tcp.Scope = p, "x"
		for i, f := range []func(){
			func() { ask(p.at(2), same) },
			func() { ask(p.at(1, 2), same) },
			func() { ask(p.at(2, 1), same) },
			func() { ask(scoped, same) },
			func() { ask(p.at(1), func(q *dns.Msg) { q.SetEdns0(4096, true) }) },
			func() { ask(p.at(1), func(q *dns.Msg) { q.CheckingDisabled = true }) },
			func() { ask(p.at(1), func(q *dns.Msg) { q.AuthenticatedData = true }) },
			func() { ask(p.at(1), func(q *dns.Msg) { q.RecursionDesired = false }) },
			func() { ask(p.at(1), func(q *dns.Msg) { q.Question[0].Name = "www.example.org." }) },
		} {
			f()
			expectAsked(t, p, int64(i)+2)
		}
	})
}

func TestMerge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := answering(), New(Options{})
		p.handle = func(_, _ string, q *dns.Msg) *dns.Msg {
			time.Sleep(500 * time.Millisecond)
			return good(q)
		}
		leader, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Exchange(leader, p.at(1), query("www.example.com.", dns.TypeA)); !errors.Is(err, context.Canceled) {
				t.Errorf("the leader gave up with %v", err)
			}
		})
		synctest.Wait()
		replies := make([]*dns.Msg, 200)
		for i := range replies {
			wg.Go(func() { replies[i] = exchange(t, c, p) })
		}
		hasty, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer stop()
		if _, err := c.Exchange(hasty, p.at(1), query("www.example.com.", dns.TypeA)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a waiter with no patience got %v", err)
		}
		cancel()
		wg.Wait()
		for _, m := range replies {
			expectA(t, m, "192.0.2.1")
			m.Answer[0].Header().Name = "mine." // shared with nobody
		}
		expectAsked(t, p, 1)
		expectA(t, exchange(t, c, p), "192.0.2.1")
		if s := c.Stats(); s.Merged != 201 || s.Misses != 1 || s.Hits != 1 {
			t.Errorf("counted %+v", s)
		}
	})
}

// A leader without a socket takes nobody with him.
func TestMergeWithABrokenDialer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := answering(a1), New(Options{})
		s := p.at(1)
		broken := s
		gate := make(chan struct{})
		broken.Dial = dialFunc(func() error { <-gate; return errors.New("no such namespace") })
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Exchange(t.Context(), broken, query("www.example.com.", dns.TypeA)); !errors.Is(err, errUnsent) {
				t.Errorf("the leader failed with %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() { expectA(t, exchange(t, c, p), "192.0.2.1") })
		synctest.Wait()
		close(gate)
		wg.Wait()
	})
}

// One pod that may not ask, by policy, does not fail another one's questions.
func TestFailureIsTheDialersOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, blocked := answering(a1), &pipes{handle: func(string, string, *dns.Msg) *dns.Msg { return nil }}
		c := New(Options{})
		s := p.at(1)
		s.Dial = blocked
		ask := func() error {
			_, err := c.Exchange(t.Context(), s, query("www.example.com.", dns.TypeA))
			return err
		}
		if ask() == nil {
			t.Fatal("no error")
		}
		if took := time.Now(); ask() == nil || time.Since(took) != 0 {
			t.Error("not remembered for the one it failed for")
		}
		expectA(t, exchange(t, c, p), "192.0.2.1")
	})
}

func TestServeStale(t *testing.T) {
	for name, failing := range map[string]struct {
		handle func(*dns.Msg) *dns.Msg
		after  time.Duration
	}{
		"silent":   {silence, staleAfter},
		"SERVFAIL": {serverFail, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, now := switched(good)
				c := New(Options{})
				exchange(t, c, p)
				now.Store(failing.handle)
				time.Sleep(time.Hour)
				ask := func() (*dns.Msg, time.Duration) {
					began := time.Now()
					q := query("www.example.com.", dns.TypeA)
					q.SetEdns0(1232, false)
					m, err := c.Exchange(t.Context(), p.at(1), q)
					return must(t, m, err), time.Since(began)
				}
				m, took := ask()
				expectA(t, m, "192.0.2.1")
				ede, _ := m.IsEdns0().Option[0].(*dns.EDNS0_EDE)
				if m.Answer[0].Header().Ttl != 30 || took != failing.after || ede == nil || ede.InfoCode != dns.ExtendedErrorCodeStaleAnswer {
					t.Errorf("after %v:\n%v", took, m)
				}
				for range 10 { // from then on nobody waits
					if _, took := ask(); took > 0 {
						t.Errorf("stale answer took %v", took)
					}
					time.Sleep(3 * time.Second)
					if _, took := ask(); took > 0 {
						t.Errorf("stale answer took %v", took)
					}
				}
				time.Sleep(10 * time.Second)
				now.Store(good)
				time.Sleep(10 * time.Second)
				ask() // finds out
				synctest.Wait()
				if m, _ := ask(); m.Answer[0].Header().Ttl != 60 {
					t.Errorf("not fresh again:\n%v", m)
				}
			})
		})
	}
}

func TestStaleEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, now := switched(good)
		c := New(Options{})
		exchange(t, c, p)
		now.Store(serverFail)
		time.Sleep(maxStale + time.Hour)
		if m := exchange(t, c, p); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("after a day:\n%v", m)
		}
	})
}

func TestFailuresAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := switched(serverFail)
		c := New(Options{})
		want := int64(0)
		for _, kept := range []time.Duration{1, 2, 4, 5, 5} {
			exchange(t, c, p)
			want++
			time.Sleep(kept*time.Second - time.Millisecond)
			exchange(t, c, p)
			expectAsked(t, p, want)
			time.Sleep(time.Millisecond)
		}
	})
}

func TestPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := answering(a1), New(Options{})
		exchange(t, c, p)
		time.Sleep(55 * time.Second)
		exchange(t, c, p)
		expectAsked(t, p, 1) // not popular
		exchange(t, c, p)
		if m := exchange(t, c, p); m.Answer[0].Header().Ttl != 5 {
			t.Errorf("waited for the prefetch:\n%v", m)
		}
		expectAsked(t, p, 2)
		if m := exchange(t, c, p); m.Answer[0].Header().Ttl != 60 {
			t.Errorf("not renewed:\n%v", m)
		}
		expectAsked(t, p, 2)
	})
}

func TestCacheIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{handle: func(_, _ string, q *dns.Msg) *dns.Msg { return reply(q, q.Question[0].Name+" 60 IN A 192.0.2.1") }}
		const limit = 100_000
		c := New(Options{CacheBytes: limit})
		ask := func(i int) {
			m, err := c.Exchange(t.Context(), p.at(1), query(fmt.Sprintf("w%d.example.com.", i), dns.TypeA))
			must(t, m, err)
		}
		for i := range 1000 {
			ask(i)
			ask(0) // used again and again, so never the one to go
		}
		s := c.Stats()
		if s.Bytes > limit || s.Bytes < limit*9/10 || s.Evicted != uint64(1000-s.Entries) {
			t.Errorf("%+v", s)
		}
		expectAsked(t, p, 1000)
	})
}

// A shared client under everything at once; for the race detector.
func TestConcurrency(t *testing.T) {
	var n atomic.Int64
	flaky := serve(t, func(_ string, q *dns.Msg) *dns.Msg {
		if n.Add(1)%3 == 0 {
			return serverFail(q)
		}
		return reply(q, q.Question[0].Name+" 1 IN A 192.0.2.1")
	})
	c := New(Options{CacheBytes: 20_000})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 100 {
				q := query(fmt.Sprintf("w%d.example.com.", (i+j)%60), dns.TypeA)
				if _, err := c.Exchange(t.Context(), to(flaky.addr), q); err != nil {
					t.Error(err)
				}
				c.Stats()
			}
		})
	}
	wg.Wait()
}
