package upstream

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// counted is a Waiter that counts how often it was told of an end.
type counted struct {
	*waiting
	ends atomic.Int64
}

func (w *counted) Answer(reply []byte, server netip.AddrPort) bool {
	w.ends.Add(1)
	if w.ends.Load() > 1 {
		return true
	}
	return w.waiting.Answer(reply, server)
}

func (w *counted) Later(ask func(context.Context, Servers, *dns.Msg) (*dns.Msg, error)) {
	if w.ends.Add(1) == 1 {
		w.waiting.Later(ask)
	}
}

func soaDenial(q *dns.Msg, code int) *dns.Msg {
	m := rcode(q, code)
	m.Ns = []dns.RR{rr("example.com. 60 IN SOA ns.example.com. h.example.com. 1 2 3 4 20")}
	return compressed(m)
}

// A guess for AAAA that has waited long enough for the same for A is a question like any other from there on,
// whatever becomes of either, and in whichever order.
func TestGuessLosesPatience(t *testing.T) {
	answers := map[string]func(*dns.Msg) *dns.Msg{
		"there": func(q *dns.Msg) *dns.Msg {
			return compressed(reply(q, map[uint16]string{dns.TypeA: a1, dns.TypeAAAA: "www.example.com. 60 IN AAAA 2001:db8::1"}[q.Question[0].Qtype]))
		},
		"empty":  func(q *dns.Msg) *dns.Msg { return soaDenial(q, dns.RcodeSuccess) },
		"denied": func(q *dns.Msg) *dns.Msg { return soaDenial(q, dns.RcodeNameError) },
		"silent": func(*dns.Msg) *dns.Msg { return nil },
	}
	for a, answerA := range answers {
		for aaaa, answerAAAA := range answers {
			for _, first := range []uint16{dns.TypeA, dns.TypeAAAA} {
				t.Run("A "+a+" AAAA "+aaaa+" first "+dns.TypeToString[first], func(t *testing.T) {
					t.Parallel()
					losePatience(t, answerA, answerAAAA, first)
				})
			}
		}
	}
}

func losePatience(t *testing.T, answerA, answerAAAA func(*dns.Msg) *dns.Msg, first uint16) {
	ended, sent := make(chan struct{}), make(chan struct{})
	s := serve(t, func(_ string, q *dns.Msg) *dns.Msg {
		answer := answerA
		if q.Question[0].Qtype == dns.TypeAAAA {
			answer = answerAAAA
			select {
			case <-sent:
			default:
				close(sent)
			}
		} else {
			<-sent
		}
		if q.Question[0].Qtype != first {
			<-ended
		}
		return answer(q)
	})
	f := newFleeting()
	servers := to(s.addr)
	servers.Dial = f
	l := newLineLoop(t, New(Options{}))
	questions := [2]*dns.Msg{query("www.example.com.", dns.TypeA), query("www.example.com.", dns.TypeAAAA)}
	var waiters [2]*counted
	for i, q := range questions {
		waiters[i] = &counted{waiting: newWaiting()}
		asked := plainQuestion(q)
		asked.Guess = true
		if !l.askFor(servers, asked, waiters[i]) {
			t.Fatal("the line does not ask")
		}
	}
	order := [2]int{0, 1}
	if first == dns.TypeAAAA {
		order = [2]int{1, 0}
	}
	go func() {
		// What is first may be waiting for the other.
		select {
		case <-time.After(firstTry / 4):
		case <-t.Context().Done():
		}
		close(ended)
	}()
	for _, i := range order {
		_, _, _ = waiters[i].end(t, questions[i])
	}
	done := make(chan struct{})
	l.post(func() {
		l.Tick(time.Now().Add(2 * firstTry))
		close(done)
	})
	<-done
	l.stop()
	for i, w := range waiters {
		if n := w.ends.Load(); n != 1 {
			t.Errorf("%s ended %d times", dns.TypeToString[questions[i].Question[0].Qtype], n)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.open) != 0 || l.sent.first != nil || l.held.first != nil {
		t.Errorf("%d sockets are open; sent %v, held %v", len(f.open), l.sent, l.held)
	}
}
