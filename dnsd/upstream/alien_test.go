package upstream

import (
	"testing"

	"github.com/miekg/dns"
)

// An answer that is all about another name is handed on if there is no better one, as it came, each time
// anew, and nobody who asks for that other name ever hears of it.
func TestAnswerToSomethingElseIsNotKept(t *testing.T) {
	s := serve(t, func(_ string, q *dns.Msg) *dns.Msg {
		if q.Question[0].Name == "evil.example." {
			return reply(q, "evil.example. 60 IN A 192.0.2.1")
		}
		return reply(q, "evil.example. 60 IN A 203.0.113.66", "evil.example. 60 IN A 203.0.113.67")
	})
	c := New(Options{})
	for range 2 {
		asked := s.udp.Load()
		m, err := c.Exchange(t.Context(), to(s.addr), query("www.example.com.", dns.TypeA))
		if len(must(t, m, err).Answer) != 2 || s.udp.Load() == asked {
			t.Errorf("asked %d times: %v", s.udp.Load()-asked, m)
		}
	}
	if n := c.Stats().Entries; n != 0 {
		t.Errorf("%d entries are kept", n)
	}
	m, err := c.Exchange(t.Context(), to(s.addr), query("evil.example.", dns.TypeA))
	expectA(t, must(t, m, err), "192.0.2.1")
}
