package upstream

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// A tree is a server for zone, in which exist the names given and nothing else. It is asked over pipes.
func tree(zone string, exist ...string) *pipes {
	return &pipes{handle: func(_, _ string, q *dns.Msg) *dns.Msg {
		name := q.Question[0].Name
		for _, e := range exist {
			if strings.EqualFold(e, name) {
				return reply(q, name+" 60 IN A 192.0.2.1")
			}
		}
		m := rcode(q, dns.RcodeNameError)
		m.Ns = []dns.RR{rr(zone + " 3600 IN SOA ns. h. 1 1 1 1 20")}
		return m
	}}
}

// askFor asks p's server 1 for the A records of each name, or the AAAA records if that is behind it, and
// returns the rcodes.
func askFor(t *testing.T, c *Client, p *pipes, names ...string) (rcodes []int) {
	t.Helper()
	for _, name := range names {
		qtype := dns.TypeA
		if before, ok := strings.CutSuffix(name, " AAAA"); ok {
			name, qtype = before, dns.TypeAAAA
		}
		m, err := c.Exchange(t.Context(), p.at(1), query(name, qtype))
		rcodes = append(rcodes, must(t, m, err).Rcode)
	}
	return rcodes
}

func TestNothingBelowNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := tree("example.com."), New(Options{})
		askFor(t, c, p, "gone.example.com.", "a.gone.example.com.", "b.gone.example.com.")
		expectAsked(t, p, 3)
		time.Sleep(5 * time.Second)
		for _, name := range []string{"c.gone.example.com.", "D.E.Gone.Example.COM.", `f\.g.gone.example.com.`} {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeTXT} {
				q := query(name, qtype)
				m, err := c.Exchange(t.Context(), p.at(1), q)
				must(t, m, err)
				if m.Rcode != dns.RcodeNameError || m.Question[0] != q.Question[0] || len(m.Ns) != 1 || m.Ns[0].Header().Ttl != 15 || m.Id != q.Id {
					t.Errorf("answered\n%v", m)
				}
			}
		}
		expectAsked(t, p, 3)
		if n := c.Stats().Cut; n != 6 {
			t.Errorf("counted %d", n)
		}
		askFor(t, c, p, "gone.example.com.evil.", "xgone.example.com.", "y.example.com.", `x\.gone.example.com.`)
		expectAsked(t, p, 7)
		time.Sleep(15 * time.Second) // it was true for 20 s
		askFor(t, c, p, "h.gone.example.com.")
		expectAsked(t, p, 8)
	})
}

// A cut has to be found again when its time is over, or what exists could stay denied for good.
func TestCutIsNotDrawnOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := tree("example.com.", "db.ent.example.com."), New(Options{})
		askFor(t, c, p, "ent.example.com.", "a.ent.example.com.", "b.ent.example.com.")
		if got := askFor(t, c, p, "db.ent.example.com."); got[0] != dns.RcodeNameError {
			t.Fatal("no cut")
		}
		time.Sleep(15 * time.Second)
		q := query("ent.example.com.", dns.TypeAAAA) // denies it once more
		if _, err := c.Exchange(t.Context(), p.at(1), q); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		askFor(t, c, p, "ent.example.com.", "ent.example.com")
		if got := askFor(t, c, p, "db.ent.example.com."); got[0] != dns.RcodeSuccess {
			t.Error("still denied when the time of the cut was over")
		}
	})
}

// What may make an answer another one keeps the subtrees apart, too.
func TestCutIsTheServersOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := tree("example.com."), New(Options{})
		askFor(t, c, p, "gone.example.com.", "a.gone.example.com.", "b.gone.example.com.")
		expectAsked(t, p, 3)
		scoped := p.at(1)
		scoped.Scope = "other"
		for i, ask := range []struct {
			s      Servers
			change func(*dns.Msg)
		}{
			{p.at(2), func(*dns.Msg) {}},
			{p.at(1, 2), func(*dns.Msg) {}},
			{scoped, func(*dns.Msg) {}},
			{p.at(1), func(q *dns.Msg) { q.SetEdns0(1232, true) }},
			{p.at(1), func(q *dns.Msg) { q.CheckingDisabled = true }},
			{p.at(1), func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }},
		} {
			q := query("c.gone.example.com.", dns.TypeA)
			ask.change(q)
			if _, err := c.Exchange(t.Context(), ask.s, q); err != nil {
				t.Error(err)
			}
			expectAsked(t, p, int64(i)+4)
		}
	})
}

// Where a denial does not mean that there is nothing below, all that exists is found.
func TestCutSparesWhatExists(t *testing.T) {
	soa := func(zone string) []dns.RR { return []dns.RR{rr(zone + " 60 IN SOA ns. h. 1 1 1 1 20")} }
	for name, test := range map[string]struct {
		p     *pipes
		first []string // asked before
		then  string
	}{
		"a server that denies empty non-terminals": {
			p:     tree("example.com.", "a.ent.example.com.", "b.ent.example.com."),
			first: []string{"ent.example.com.", "a.ent.example.com.", "x.ent.example.com.", "y.ent.example.com.", "z.ent.example.com."},
			then:  "b.ent.example.com.",
		},
		"seen after it was denied": {
			p:     tree("example.com.", "a.ent.example.com.", "b.ent.example.com."),
			first: []string{"ent.example.com.", "x.ent.example.com.", "a.ent.example.com.", "y.ent.example.com.", "ent.example.com."},
			then:  "b.ent.example.com.",
		},
		"the root's denial": {
			p:     tree(".", "db.svc.cluster.local."),
			first: []string{"local.", "x.local.", "y.local.", "z.local."},
			then:  "db.svc.cluster.local.",
		},
		"another zone below": {
			p: &pipes{handle: func(_, _ string, q *dns.Msg) *dns.Msg {
				m := rcode(q, dns.RcodeNameError)
				switch {
				case q.Question[0].Name == "db.in.corp.example.com.":
					return reply(q, q.Question[0].Name+" 60 IN A 192.0.2.1")
				case dns.IsSubDomain("in.corp.example.com.", q.Question[0].Name):
					m.Ns = soa("in.corp.example.com.")
				default:
					m.Ns = soa("example.com.")
				}
				return m
			}},
			first: []string{"corp.example.com.", "x.corp.example.com.", "x.in.corp.example.com.", "y.corp.example.com.", "z.corp.example.com."},
			then:  "db.in.corp.example.com.",
		},
		"no SOA": {
			p: &pipes{handle: func(_, _ string, q *dns.Msg) *dns.Msg {
				if q.Question[0].Name == "db.gone.example.com." {
					return reply(q, q.Question[0].Name+" 60 IN A 192.0.2.1")
				}
				return rcode(q, dns.RcodeNameError)
			}},
			first: []string{"gone.example.com.", "x.gone.example.com.", "y.gone.example.com."},
			then:  "db.gone.example.com.",
		},
		"two types of one name": {
			p:     tree("example.com.", "db.ent.example.com."),
			first: []string{"ent.example.com.", "x.ent.example.com. AAAA", "x.ent.example.com."},
			then:  "db.ent.example.com.",
		},
		"the end of an alias": {
			p: &pipes{handle: func(_, _ string, q *dns.Msg) *dns.Msg {
				if q.Question[0].Name == "db.www.example.com." {
					return reply(q, q.Question[0].Name+" 60 IN A 192.0.2.1")
				}
				m := rcode(q, dns.RcodeNameError)
				m.Ns = soa("example.com.")
				if q.Question[0].Name == "www.example.com." {
					m.Answer = []dns.RR{rr("www.example.com. 60 IN CNAME gone.example.com.")}
				}
				return m
			}},
			first: []string{"www.example.com.", "x.www.example.com.", "y.www.example.com."},
			then:  "db.www.example.com.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := New(Options{})
				askFor(t, c, test.p, test.first...)
				if got := askFor(t, c, test.p, test.then); got[0] != dns.RcodeSuccess {
					t.Errorf("denied, %d cuts", c.Stats().Cut)
				}
			})
		})
	}
}

// A flood of random names takes one place in the cache and no questions.
func TestCutBoundsAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := tree("example.com."), New(Options{})
		askFor(t, c, p, "gone.example.com.")
		for i := range 1000 {
			askFor(t, c, p, strings.Repeat("x", i%60+1)+"."+strings.Repeat("y", i/60+1)+".gone.example.com.")
		}
		expectAsked(t, p, 3)
		if n := c.Stats().Entries; n != 3+3 {
			t.Errorf("%d entries", n)
		}
	})
}
