package ebpf

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// twoPods are two that use the same services.
func twoPods(t *testing.T) (w, other *world, s *Services) {
	w, s = lbWorld(t)
	cookie, err := w.net.Cookie()
	must(t, err)
	must(t, w.PutPod(cookie, Pod{Ifindex: 1, Addr4: other4, LB: true, View: ViewOf("shop")}))
	return w, &world{Datapath: w.Datapath, pod: w.net, cookie: cookie}, s
}

// What several pods could not reach they try by turns: one that is always first, and never comes through, does not
// keep it from the others. Nobody is waited for who does not come.
func TestProbesByTurns(t *testing.T) {
	w, other, s := twoPods(t)
	vip := netip.AddrPortFrom(vip4, 80)
	f := map[Frontend]string{}
	both(f, vip4, 80, "web")
	apply(t, s, f, map[string]Service{"web": {Policy: RoundRobin, Backends: backends(8080, back4[:2]...),
		Outlier: Outlier{Consecutive: 1, Ejection: time.Hour, MaxEjection: time.Hour, MaxPercent: 100}}})
	serve(t, w.net, "up", netip.AddrPortFrom(back4[1], 8080))
	for range 2 {
		_, _ = w.tcpConnect(t, vip), other.tcpConnect(t, vip)
	}
	for range 2 {
		_, _ = other.tcpConnect(t, vip), w.tcpConnect(t, vip)
	}
	if b := state(t, s, "web").Backends; !b[0].Ejected || b[0].Failures != 2 {
		t.Fatalf("after a failure of each: %+v", b[0])
	}
	set := s.tables.sets.rows[s.setOf(s.names["web"])]
	row := &s.tables.states.rows[s.tables.slots.rows[set.Members].Backend]
	for i, step := range []struct {
		who    *world
		rested time.Duration
		probes uint64
	}{
		{w, 59 * time.Minute, 0}, {w, 61 * time.Minute, 1}, {w, 61 * time.Minute, 0},
		{other, 61 * time.Minute, 1}, {other, 119 * time.Minute, 0}, {w, 61 * time.Minute, 1}, {w, 121 * time.Minute, 1},
	} {
		atomic.StoreUint64(&row.FailedAt, uint64(monotonic()-step.rested))
		before := w.counter(t, "lb_probes")
		for range 4 {
			_ = step.who.tcpConnect(t, vip)
		}
		if got := w.counter(t, "lb_probes") - before; got != step.probes {
			t.Errorf("step %d: after %s %d probes of a pod, want %d", i, step.rested, got, step.probes)
		}
	}
}

// What one pod alone cannot reach, it alone is kept from; others when one of them has failed there, too. What
// that pod says does not keep the others from saying it of another backend.
func TestAccuser(t *testing.T) {
	w, other, s := twoPods(t)
	vip := netip.AddrPortFrom(vip4, 80)
	f := map[Frontend]string{}
	both(f, vip4, 80, "web")
	apply(t, s, f, map[string]Service{"web": {Policy: RoundRobin, Backends: backends(8080, back4[:2]...),
		Outlier: Outlier{Consecutive: 1, Ejection: time.Hour, MaxEjection: time.Hour, MaxPercent: 10}}})
	up := func(i int) (down func()) {
		udp, tcp := serve(t, w.net, "back", netip.AddrPortFrom(back4[i], 8080))
		return func() { _, _ = udp.Close(), tcp.Close() }
	}
	connects := func(who *world, failed, first, second uint64) {
		t.Helper()
		before := state(t, s, "web").Backends
		var failures uint64
		for range 8 {
			if who.tcpConnect(t, vip) != nil {
				failures++
			}
		}
		after := state(t, s, "web").Backends
		a, b := after[0].Connections-before[0].Connections, after[1].Connections-before[1].Connections
		if failures != failed || a != first || b != second {
			t.Fatalf("of 8 connects %d fail, %d and %d go to the first and second backend; want %d, %d and %d", failures, a, b, failed, first, second)
		}
	}
	ejected := func(first, second bool) {
		t.Helper()
		if b := state(t, s, "web").Backends; b[0].Ejected != first || b[1].Ejected != second {
			t.Fatalf("ejected are %t, %t; want %t, %t", b[0].Ejected, b[1].Ejected, first, second)
		}
	}

	failsOnce := func(who *world) (failed bool) {
		for range 2 {
			failed = failed || who.tcpConnect(t, vip) != nil
		}
		return failed
	}

	down0, down1 := up(0), up(1)
	connects(w, 0, 4, 4)
	connects(other, 0, 4, 4)
	down0()
	connects(w, 1, 1, 7)
	ejected(false, false)
	down0 = up(0)
	connects(w, 0, 0, 8)
	connects(other, 0, 4, 4) // which shows that it is well
	connects(w, 0, 4, 4)

	down0()
	connects(w, 1, 1, 7)
	down1()
	down0 = up(0)
	if !failsOnce(other) {
		t.Fatal("never came to the second backend")
	}
	// One of two may be ejected, and that it is the first is not the other's affair.
	connects(other, 0, 8, 0)
	ejected(false, false)
	if !failsOnce(w) {
		t.Fatal("never came to the second backend")
	}
	ejected(false, true)
	down0()
}
