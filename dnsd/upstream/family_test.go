package upstream

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// A name that has an A record is not denied, nor its lookup failed, for a bad answer to AAAA.
func TestBadAnswerToAAAA(t *testing.T) {
	for what, bad := range map[string]func(*dns.Msg) *dns.Msg{
		"denied":  func(q *dns.Msg) *dns.Msg { return rcode(q, dns.RcodeNameError) },
		"failed":  serverFail,
		"refused": func(q *dns.Msg) *dns.Msg { return rcode(q, dns.RcodeRefused) },
		"unknown": func(q *dns.Msg) *dns.Msg { return rcode(q, dns.RcodeNotImplemented) },
		"silent":  silence,
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				exists := true
				p := &pipes{handle: func(_, _ string, q *dns.Msg) *dns.Msg {
					if q.Question[0].Qtype == dns.TypeA && exists {
						return reply(q, a1)
					}
					return bad(q)
				}}
				c := New(Options{})
				name := dns.CanonicalName(rr(a1).Header().Name)
				exchange(t, c, p) // A, which clients ask for before
				began := time.Now()
				q := query(name, dns.TypeAAAA).SetEdns0(1232, false)
				m, err := c.Exchange(t.Context(), p.at(1), q)
				if m = must(t, m, err); m.Rcode != dns.RcodeSuccess || len(m.Answer) > 0 || time.Since(began) >= 2500*time.Millisecond ||
					!slices.Equal(errorCodes(m), []uint16{dns.ExtendedErrorCodeOther}) {
					t.Errorf("after %v: %v", time.Since(began), m)
				}
				asked := p.asked.Load()
				if m, err = c.Exchange(t.Context(), p.at(1), q); must(t, m, err).Rcode != dns.RcodeSuccess || p.asked.Load() != asked {
					t.Errorf("asked again, %d times: %v", p.asked.Load()-asked, m)
				}
				// Who checks signatures wants to know what was said, and so does who asks for what is not there.
				m, err = c.Exchange(t.Context(), p.at(1), query(name, dns.TypeAAAA).SetEdns0(1232, true))
				if err == nil && m.Rcode == dns.RcodeSuccess {
					t.Errorf("with DO: %v", m)
				}
				exists = false
				m, err = c.Exchange(t.Context(), p.at(1), query("not."+name, dns.TypeAAAA))
				if err == nil && m.Rcode == dns.RcodeSuccess {
					t.Errorf("a name without A: %v", m)
				}
				time.Sleep(budget) // until whoever is still being asked is given up
			})
		})
	}
}
