package upstream

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// timed asks for name, with EDNS, and says how long that took.
func timed(t *testing.T, c *Client, s Servers, name string) (m *dns.Msg, took time.Duration, err error) {
	t.Helper()
	q := query(name, dns.TypeA)
	q.SetEdns0(1232, false)
	began := time.Now()
	m, err = c.Exchange(t.Context(), s, q)
	return m, time.Since(began), err
}

// errorCodes are the codes of m's extended errors.
func errorCodes(m *dns.Msg) (codes []uint16) {
	for _, e := range extendedErrors(m) {
		codes = append(codes, e.(*dns.EDNS0_EDE).InfoCode)
	}
	return codes
}

// The only server stops, for a minute, and goes on, as seen by whoever asks all the time.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stopped atomic.Bool
		p := &pipes{handle: func(_, _ string, q *dns.Msg) *dns.Msg {
			if stopped.Load() {
				return nil
			}
			return reply(q, q.Question[0].Name+" 5 IN A 192.0.2.1")
		}}
		c := New(Options{})
		m, _, err := timed(t, c, p.at(1), "old.example.com.")
		expectA(t, must(t, m, err), "192.0.2.1")
		stopped.Store(true)
		if m, took, err := timed(t, c, p.at(1), "old.example.com."); took != 0 || len(errorCodes(must(t, m, err))) != 0 {
			t.Errorf("fresh, after %v:\n%v", took, m)
		}
		time.Sleep(5 * time.Second)
		if m, took, err := timed(t, c, p.at(1), "old.example.com."); took > staleAfter || must(t, m, err).Answer[0].Header().Ttl != staleTTL ||
			len(errorCodes(m)) != 1 || errorCodes(m)[0] != dns.ExtendedErrorCodeStaleAnswer {
			t.Errorf("expired, after %v:\n%v", took, m)
		}
		time.Sleep(time.Second)
		if _, took, err := timed(t, c, p.at(1), "new.example.com."); err == nil || took > budget {
			t.Errorf("a new name: %v after %v", err, took)
		}
		asked := p.asked.Load()
		for range 600 { // a minute
			time.Sleep(100 * time.Millisecond)
			if m, took, err := timed(t, c, p.at(1), "old.example.com."); took != 0 || err != nil {
				t.Fatalf("%v, %v after %v", m, err, took)
			}
		}
		if n := p.asked.Load() - asked; n > 120 {
			t.Errorf("the silent server was sent %d packets in a minute", n)
		}
		stopped.Store(false)
		began := time.Now()
		for {
			if m, _, err := timed(t, c, p.at(1), "old.example.com."); len(errorCodes(must(t, m, err))) == 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took > probeFirst+50*time.Millisecond {
			t.Errorf("still stale %v later", took)
		}
		time.Sleep(budget) // for the last of the tries
	})
}

// Whenever a server comes back, the names that failed do so within a second or so.
func TestRecoveryIsNoticed(t *testing.T) {
	for after := range 20 {
		synctest.Test(t, func(t *testing.T) {
			p, now := switched(silence)
			c := New(Options{})
			ask := func() error {
				_, err := c.Exchange(t.Context(), p.at(1), query("www.example.com.", dns.TypeA))
				return err
			}
			for began := time.Now(); time.Since(began) < 20*time.Second+time.Duration(after)*500*time.Millisecond; {
				if ask() == nil {
					t.Fatal("no error")
				}
				time.Sleep(10 * time.Millisecond)
			}
			now.Store(good)
			began := time.Now()
			for ask() != nil {
				time.Sleep(10 * time.Millisecond)
			}
			if took := time.Since(began); took > probeFirst+50*time.Millisecond {
				t.Errorf("after %d half seconds it took %v", after, took)
			}
			time.Sleep(budget)
		})
	}
}

// A client that speaks EDNS is told who said no, once in the server's own words if it has any.
func TestFailuresAreExplained(t *testing.T) {
	for name, test := range map[string]struct {
		fail  func(q *dns.Msg) *dns.Msg
		rcode int
		codes []uint16
		text  string
	}{
		"without a word": {serverFail, dns.RcodeServerFailure, []uint16{dns.ExtendedErrorCodeNetworkError}, "127.0.0.1:"},
		"refused":        {func(q *dns.Msg) *dns.Msg { return rcode(q, dns.RcodeRefused) }, dns.RcodeRefused, []uint16{dns.ExtendedErrorCodeNetworkError}, "REFUSED"},
		"in its own words": {func(q *dns.Msg) *dns.Msg {
			m := serverFail(q).SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeDNSBogus, ExtraText: "signed by nobody"}}
			return m
		}, dns.RcodeServerFailure, []uint16{dns.ExtendedErrorCodeDNSBogus}, "signed by nobody"},
		"an extended rcode": {func(q *dns.Msg) *dns.Msg {
			m := rcode(q, dns.RcodeBadCookie)
			return m.SetEdns0(1232, false)
		}, dns.RcodeBadCookie, []uint16{dns.ExtendedErrorCodeNetworkError}, "BADCOOKIE"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(_ string, q *dns.Msg) *dns.Msg { return test.fail(q) })
			c := New(Options{})
			for i := range 2 { // from the server, and from memory
				m, _, err := timed(t, c, to(s.addr), "www.example.com.")
				codes := errorCodes(must(t, m, err))
				want := test.codes
				if i == 1 {
					want = append(want[:1:1], dns.ExtendedErrorCodeCachedError)
				}
				if m.Rcode != test.rcode || len(codes) != len(want) || codes[0] != want[0] || codes[len(codes)-1] != want[len(want)-1] ||
					!strings.Contains(extendedErrors(m)[0].(*dns.EDNS0_EDE).ExtraText, test.text) {
					t.Errorf("answered\n%v", m)
				}
				if _, err := m.Pack(); err != nil {
					t.Error(err)
				}
			}
			m, err := c.Exchange(t.Context(), to(s.addr), query("www.example.com.", dns.TypeA))
			if must(t, m, err).IsEdns0() != nil {
				t.Errorf("told to a client without EDNS:\n%v", m)
			}
		})
	}
}
