package upstream

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// Who has as many questions under way as are left for others is turned away, and nobody else is.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hog, _ := switched(silence)
		second, _ := switched(silence)
		quiet, _ := switched(good)
		c := New(Options{})
		ask := func(p *pipes, n int) {
			for i := range n {
				go func() { _, _ = c.Exchange(t.Context(), p.at(1), query(fmt.Sprintf("w%d.example.com.", i), dns.TypeA)) }()
				synctest.Wait()
			}
		}
		ask(hog, maxFlights)
		if n := c.cache.share(hog).flights; n != maxFlights/2 || c.Stats().Busy != maxFlights/2 {
			t.Errorf("one alone has %d under way: %+v", n, c.Stats())
		}
		if _, err := c.Exchange(t.Context(), hog.at(1), query("one.too.many.", dns.TypeA)); !errors.Is(err, ErrBusy) {
			t.Errorf("error %v", err)
		}
		servers := second.at(1)
		servers.Scope = "another"
		for i := range maxFlights {
			go func() { _, _ = c.Exchange(t.Context(), servers, query(fmt.Sprintf("w%d.example.com.", i), dns.TypeA)) }()
		}
		synctest.Wait()
		if n := c.cache.share(second).flights; n != maxFlights/4 {
			t.Errorf("the second has %d under way", n)
		}
		expectA(t, exchange(t, c, quiet), "192.0.2.1")
		time.Sleep(budget)
		synctest.Wait()
		if n := len(c.cache.flights); n != 0 {
			t.Errorf("%d flights never landed", n)
		}
	})
}

// Names that are dead and popular, which nobody waits for since there is a stale answer, leave room for those
// that somebody does wait for.
func TestNobodyWaitsForTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, now := switched(func(q *dns.Msg) *dns.Msg { return reply(q, q.Question[0].Name+" 1 IN A 192.0.2.1") })
		c := New(Options{})
		ask := func(n int) {
			for i := range n {
				go func() { _, _ = c.Exchange(t.Context(), p.at(1), query(fmt.Sprintf("w%d.example.com.", i), dns.TypeA)) }()
				if i%100 == 0 {
					synctest.Wait()
				}
			}
			synctest.Wait()
		}
		const n = maxFlights
		ask(n)
		now.Store(silence)
		time.Sleep(10 * time.Second)
		for range 4 { // those that are refused at first fail too in the end
			ask(n)
			time.Sleep(budget + failureLast)
		}
		ask(n)
		most := len(c.cache.flights)
		if most > maxFlights/5+1 || most < maxFlights/6 {
			t.Errorf("%d questions under way that nobody waits for", most)
		}
		if c.Stats().Background == 0 {
			t.Errorf("%+v", c.Stats())
		}
		now.Store(good)
		expectA(t, exchange(t, c, p), "192.0.2.1")
		time.Sleep(budget)
	})
}

// A pod that asks for more names than there is room for forgets those, and not what others have asked for.
func TestCrowdingOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{CacheBytes: 60_000})
		ask := func(p *pipes, name string) {
			m, err := c.Exchange(t.Context(), p.at(1), query(name+".example.com.", dns.TypeA))
			must(t, m, err)
		}
		everything := func() *pipes {
			return &pipes{handle: func(_, _ string, q *dns.Msg) *dns.Msg { return reply(q, q.Question[0].Name+" 3600 IN A 192.0.2.1") }}
		}
		quiet, gone, hog := everything(), everything(), everything()
		for i := range 10 {
			ask(quiet, fmt.Sprintf("quiet%d", i))
			ask(gone, fmt.Sprintf("gone%d", i))
		}
		for i := range 4000 {
			time.Sleep(time.Second)
			ask(hog, fmt.Sprintf("hog%d", i))
			if i%300 == 0 {
				for i := range 10 {
					ask(quiet, fmt.Sprintf("quiet%d", i))
				}
			}
		}
		if n := quiet.asked.Load(); n > 20 { // once again when their time is over
			t.Errorf("asked for ten names %d times", n)
		}
		if n, left := c.Stats(), c.cache.share(gone).recent.Len(); n.Evicted < 3000 || left > 5 {
			t.Errorf("%d names are left of who is gone; %+v", left, n)
		}
	})
}

// Whatever the time of the answer that there must be room for, who loses an entry has one.
func TestLoserHasSomething(t *testing.T) {
	c, now := newCache(10_000), time.Now()
	full, empty := c.share(&pipes{}), c.share(&pipes{})
	empty.flights++
	c.put(entry{key: "used last"}, full, now.Add(time.Hour))
	for range 100 { // shares come in any order
		if c.loser(full, now) != full {
			t.Fatal("who has nothing is to lose it")
		}
	}
}

// What a NetworkPolicy does to one pod is no outage for the others, nor for who looks at the counts.
func TestDownForOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fine := func(_, _ string, q *dns.Msg) *dns.Msg { return reply(q, q.Question[0].Name+" 60 IN A 192.0.2.1") }
		blocked := &pipes{handle: func(_, address string, q *dns.Msg) *dns.Msg {
			if address == "192.0.2.1:53" {
				return nil
			}
			return fine("", "", q)
		}}
		other := &pipes{handle: fine}
		c, n := New(Options{}), 0
		ask := func(p *pipes) time.Duration {
			n++
			began := time.Now()
			m, err := c.Exchange(t.Context(), p.at(1, 2), query(fmt.Sprintf("w%d.example.com.", n), dns.TypeA))
			must(t, m, err)
			return time.Since(began)
		}
		for range 3 {
			ask(blocked)
		}
		if took := ask(blocked); took != 0 {
			t.Errorf("who is blocked waits for %v", took)
		}
		if !c.Stats().Servers[0].Down {
			t.Error("nobody was answered, and it does not count as down")
		}
		if !c.health.well(other.at(1, 2), time.Now()) {
			t.Error("down for another")
		}
		time.Sleep(time.Millisecond)
		ask(other)
		if s := c.Stats().Servers[0]; s.Down || s.RTT.Total() == 0 {
			t.Errorf("it has answered, and counts as down: %+v", s)
		}
		time.Sleep(time.Minute)
	})
}
