package upstream

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// What is no answer for the cache, or for how long one is (RFC 2308).
func TestCacheNegativeEdges(t *testing.T) {
	const soa = "example.com. 3600 IN SOA ns. h. 1 1 1 1 20"
	with := func(m *dns.Msg, authority ...string) *dns.Msg {
		for _, s := range authority {
			m.Ns = append(m.Ns, rr(s))
		}
		return m
	}
	for name, test := range map[string]struct {
		craft func(q *dns.Msg) *dns.Msg
		kept  time.Duration // 0: not as an answer
	}{
		"no data":                    {func(q *dns.Msg) *dns.Msg { return with(reply(q), soa) }, 20 * time.Second},
		"no data without SOA":        {func(q *dns.Msg) *dns.Msg { return reply(q) }, 0},
		"a SOA with TTL 0":           {func(q *dns.Msg) *dns.Msg { return with(reply(q), "example.com. 0 IN SOA ns. h. 1 1 1 1 20") }, 0},
		"a SOA below the name":       {func(q *dns.Msg) *dns.Msg { return with(reply(q), "x.www.example.com. 60 IN SOA ns. h. 1 1 1 1 20") }, 0},
		"the end of an alias":        {func(q *dns.Msg) *dns.Msg { return with(reply(q, "www.example.com. 7 IN CNAME b.example.com."), soa) }, 7 * time.Second},
		"the end of an alias abroad": {func(q *dns.Msg) *dns.Msg { return with(reply(q, "www.example.com. 60 IN CNAME b.example.net."), soa) }, 0},
		"denied behind an alias": {func(q *dns.Msg) *dns.Msg {
			return with(func() *dns.Msg {
				m := reply(q, "www.example.com. 60 IN CNAME b.example.com.")
				m.Rcode = dns.RcodeNameError
				return m
			}(), soa)
		}, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &pipes{handle: func(_, _ string, q *dns.Msg) *dns.Msg { return test.craft(q) }}
				c, s := New(Options{}), p.at(1)
				ask := func() {
					if _, err := c.Exchange(t.Context(), s, query("www.example.com.", dns.TypeA)); err != nil {
						t.Fatal(err)
					}
				}
				ask()
				expectAsked(t, p, 1)
				if test.kept > 0 {
					time.Sleep(test.kept - time.Millisecond)
					ask()
					expectAsked(t, p, 1)
					time.Sleep(time.Millisecond)
				}
				ask()
				expectAsked(t, p, 2)
			})
		})
	}
}

// However many names are asked for, memory stays what it was set to.
func TestMemoryIsBounded(t *testing.T) {
	const limit = 1 << 20
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	c := newCache(limit)
	var d Dialer
	for i := range 30_000 {
		q := query(fmt.Sprintf("w%d.n%d.example.com.", i, i%1000), dns.TypeA)
		m := reply(q, q.Question[0].Name+" 60 IN A 192.0.2.1")
		if i%2 == 0 {
			m = rcode(q, dns.RcodeNameError)
			m.Ns = []dns.RR{rr("example.com. 3600 IN SOA ns. h. 1 1 1 1 20")}
		}
		servers := to(netip.MustParseAddrPort("192.0.2.1:53"))
		if i%1000 == 0 {
			d = new(pipes)
		}
		servers.Dial = d
		f := c.find(appendKey(nil, servers, q), servers, time.Now()).flight
		f.outcome = newOutcome(q.Question[0], m, nil)
		c.land(f, time.Now())
	}
	if took := int64(heap()) - int64(before); took > limit*12/10 {
		t.Errorf("a cache of %d bytes takes %d, counting %d in %d entries", limit, took, c.bytes, len(c.entries))
	}
	inOrder := 0
	for _, s := range c.shares {
		inOrder += s.recent.Len()
	}
	if n := len(c.entries); n != inOrder || n < limit/1000 {
		t.Errorf("%d entries, %d in order of use", n, inOrder)
	}
}
