package upstream

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

func soaDenial(q *dns.Msg, code int) *dns.Msg {
	m := rcode(q, code)
	m.Ns = []dns.RR{rr("example.com. 60 IN SOA ns.example.com. h.example.com. 1 2 3 4 20")}
	return compressed(m)
}

// A guess for AAAA is not sent when the same for A finds that there is no such name, and is when there is.
func TestGuessWaits(t *testing.T) {
	for name, denied := range map[string]bool{"denied": true, "there": false} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			release := make(chan struct{})
			s := serve(t, func(_ string, q *dns.Msg) *dns.Msg {
				asked.Add(1)
				<-release
				if !denied {
					return compressed(reply(q, map[uint16]string{dns.TypeA: a1, dns.TypeAAAA: "www.example.com. 60 IN AAAA 2001:db8::1"}[q.Question[0].Qtype]))
				}
				m := rcode(q, dns.RcodeNameError)
				m.Ns = []dns.RR{rr("example.com. 60 IN SOA ns.example.com. h.example.com. 1 2 3 4 20")}
				return compressed(m)
			})
			l := newLineLoop(t, New(Options{}))
			a, aaaa := query("www.example.com.", dns.TypeA), query("www.example.com.", dns.TypeAAAA)
			first, second := plainQuestion(a), plainQuestion(aaaa)
			first.Guess, second.Guess = true, true
			w1, w2 := l.ask(to(s.addr), first), l.ask(to(s.addr), second)
			close(release)
			m1, _, err1 := w1.end(t, a)
			m2, _, err2 := w2.end(t, aaaa)
			if must(t, m1, err1).Rcode != must(t, m2, err2).Rcode || m2.Question[0].Qtype != dns.TypeAAAA || len(m1.Answer) != len(m2.Answer) {
				t.Errorf("%v\n%v", m1, m2)
			}
			if !denied && asked.Load() != 2 {
				t.Errorf("asked %d times", asked.Load())
			}
		})
	}
}

// A guess for AAAA that was held for long enough is a question like any other from there on, whatever becomes of
// it and of the same for A, and in whichever order.
func TestGuessIsReleased(t *testing.T) {
	kinds := map[string]func(*dns.Msg) *dns.Msg{
		"there": says[0], "denied": says[1], "empty": says[2], "silent": nil,
	}
	for a, answerA := range kinds {
		for aaaa, answerAAAA := range kinds {
			for _, first := range []uint16{dns.TypeA, dns.TypeAAAA} {
				want := [2]int{dns.RcodeSuccess, dns.RcodeSuccess} // who is silent is asked again
				if a == "denied" {
					want[0] = dns.RcodeNameError
				}
				if aaaa == "denied" && (a == "denied" || a == "empty") {
					want[1] = dns.RcodeNameError
				}
				t.Run("A "+a+" AAAA "+aaaa+" first "+dns.TypeToString[first], func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { released(t, answerA, answerAAAA, first, want) })
				})
			}
		}
	}
}

func released(t *testing.T, answerA, answerAAAA func(*dns.Msg) *dns.Msg, first uint16, rcodes [2]int) {
	p := newPlay(t)
	p.ask(6)
	p.ask(7)
	if p.await(1); len(p.queries) != 1 {
		t.Fatalf("%d queries while the guess is held", len(p.queries))
	}
	time.Sleep(patience)
	p.line.Tick(time.Now())
	if p.await(2); len(p.queries) != 2 {
		t.Fatalf("%d queries after that", len(p.queries))
	}
	if first == dns.TypeAAAA {
		p.queries[0], p.queries[1] = p.queries[1], p.queries[0]
	}
	for range 2 {
		answer := answerA
		if parse(p.queries[0].packet).Question[0].Qtype == dns.TypeAAAA {
			answer = answerAAAA
		}
		if answer == nil {
			p.queries = p.queries[1:]
			continue
		}
		p.serve(0, answer, true)
		p.hear()
		time.Sleep(time.Millisecond)
	}
	p.rest()
	for i, w := range p.waiters {
		if w.rcode != rcodes[i] {
			t.Errorf("%s: rcode %d, want %d", dns.TypeToString[w.q.Question[0].Qtype], w.rcode, rcodes[i])
		}
	}
}
