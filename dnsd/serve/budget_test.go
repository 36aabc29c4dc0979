package serve

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Whoever asks without end gets the burst and then the rate, in however many pieces.
func TestBudget(t *testing.T) {
	const seconds = 10
	rate := int(time.Second / price())
	for _, batch := range []int{1, batchSize, 100} {
		b := budget{price: price()}
		start := time.Now()
		got := 0
		for now := start; now.Before(start.Add(seconds * time.Second)); {
			if wait := b.wait(now); wait > 0 {
				if wait < breather {
					t.Fatalf("a pause of %v", wait)
				}
				now = now.Add(wait)
				continue
			}
			b.spend(now, batch, 0)
			got += batch
		}
		if want := rate * (seconds + 1); got < want-rate/10 || got > want+rate/10 {
			t.Errorf("in batches of %d: %d queries in %d s, want about %d", batch, got, seconds, want)
		}
	}
	b := budget{price: price()}
	now := time.Now()
	b.spend(now, 0, rate)
	if b.wait(now) == 0 {
		t.Error("questions upstream cost no more than answers")
	}
}

func TestCompany(t *testing.T) {
	var c company
	greedy, modest := &gate{}, &gate{}
	now := time.Now()
	for range 3 {
		if c.note(greedy, now) {
			t.Error("a pod is company for itself")
		}
	}
	if !c.note(modest, now) || !c.note(greedy, now.Add(othersCount-1)) {
		t.Error("two pods are no company")
	}
	now = now.Add(2 * othersCount)
	if c.note(greedy, now) {
		t.Error("a pod counts that has long stopped asking")
	}
}

// A pod alone may ask as it likes, and has no debt when others come.
func TestAloneNobodyIsHeld(t *testing.T) {
	s := newServer(nil)
	k := s.enter(client(), "udp")
	now := time.Now()
	k.gate.budget.spend(now, 1_000_000, 0)
	if k.held(now) != 0 || k.gate.budget.wait(now) != 0 {
		t.Error("a pod that is alone must wait")
	}
}

// inDebt opens a socket of a pod that must wait, in the company of another's.
func inDebt(t *testing.T, s *Server, d time.Duration) (addr string, u *UDPSocket) {
	t.Helper()
	greedy := client()
	greedy.Pod = "shop/greedy"
	k := s.enter(greedy, "test") // keeps the gate
	t.Cleanup(func() { s.leave(k) })
	k.gate.budget.spend(time.Now(), 0, 0)
	k.gate.budget.paidUntil.Add(int64(burst + d))
	s.company.note(&gate{}, time.Now())
	s.company.until.Store(time.Now().Add(time.Hour).UnixNano())
	u = take(t)
	done := make(chan error)
	s.ServeUDP(u, greedy, func(err error) { done <- err })
	t.Cleanup(func() {
		_ = u.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return u.Addr().String(), u
}

// While a pod is not read its queue overflows, which is counted for it, and others are answered.
func TestFloodIsLeftToTheKernel(t *testing.T) {
	s := newServer(table())
	addr, _ := inDebt(t, s, time.Hour)
	packed, _ := question("api.partner.test.", dns.TypeA).Pack()
	conn, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	modest := start(t, s, client())
	eventually(t, "the queue overflows", func() bool {
		for range 1000 {
			if _, err := conn.Write(packed); err != nil {
				t.Fatal(err)
			}
		}
		exchange(t, "udp", modest, question("api.partner.test.", dns.TypeA))
		return s.Dropped("shop/greedy") > 0
	})
	if n := s.Dropped("shop/pod"); n != 0 {
		t.Errorf("%d of the other pod are dropped", n)
	}
	if read := s.gates["shop/greedy"].counts.udp.Load(); read != 0 {
		t.Errorf("%d queries were read of a pod that must wait", read)
	}
}

// A pod that has waited long enough is read again, without having to ask anew.
func TestHeldPodIsReadAgain(t *testing.T) {
	s := newServer(table())
	addr, _ := inDebt(t, s, 50*time.Millisecond)
	packed, _ := question("api.partner.test.", dns.TypeA).Pack()
	if raw(t, addr, packed, patience) == nil {
		t.Error("a pod is not read any more")
	}
}

// Over TCP the client waits for its answer.
func TestAfford(t *testing.T) {
	s := newServer(nil)
	k := s.enter(client(), "tcp")
	s.company.note(&gate{}, time.Now())
	ctx, cancel := context.WithCancel(t.Context())
	if !k.afford(ctx) {
		t.Error("the first query is not paid for")
	}
	k.gate.budget.paidUntil.Store(time.Now().Add(time.Hour).UnixNano())
	s.company.until.Store(time.Now().Add(time.Hour).UnixNano())
	cancel()
	if k.afford(ctx) {
		t.Error("a query of a pod in debt does not wait")
	}
}
