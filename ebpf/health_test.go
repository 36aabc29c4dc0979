package ebpf

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tcpConnect connects once and says how that went.
func (w *world) tcpConnect(t testing.TB, to netip.AddrPort) error {
	k := w.socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
	defer k.close()
	return k.connect(to)
}

// Settings of a service are honoured: failures in a row, how long an ejection lasts, that no probe comes
// before it is over, and that a success ends it all.
func TestOutlier(t *testing.T) {
	w, s := lbWorld(t)
	vip := netip.AddrPortFrom(vip4, 80)
	f := map[Frontend]string{}
	both(f, vip4, 80, "web")
	web := Service{Policy: RoundRobin, Backends: backends(8080, back4[0]),
		Outlier: Outlier{Consecutive: 3, Ejection: time.Hour, MaxEjection: 2 * time.Hour, MaxPercent: 10, Linear: true}}
	apply(t, s, f, map[string]Service{"web": web})
	dead := func() BackendState { return state(t, s, "web").Backends[0] }
	for i := range 3 {
		if b := dead(); b.Ejected || !b.EjectedUntil.IsZero() {
			t.Errorf("ejected after %d failures: %+v", i, b)
		}
		if err := w.tcpConnect(t, vip); err != unix.ECONNREFUSED {
			t.Fatalf("connect: %v", err)
		}
	}
	if b := dead(); !b.Ejected || time.Until(b.EjectedUntil).Round(time.Hour) != time.Hour || b.Failures != 3 {
		t.Errorf("after 3 failures: %+v", b)
	}
	if got := s.Ejected("web"); len(got) != 1 || got[0] != dead().Addr {
		t.Errorf("ejected are %v", got)
	}
	for range 5 { // all ejected: tried anyway, but that is no probe and makes nothing worse
		_ = w.tcpConnect(t, vip)
	}
	if b := dead(); time.Until(b.EjectedUntil).Round(time.Hour) != time.Hour || w.counter(t, "lb_probes") != 0 {
		t.Errorf("after more failures: %+v", b)
	}

	// Shorter settings apply at once, to what has happened before too: its probe fails, and one does not.
	web.Outlier.Ejection, web.Outlier.MaxEjection = time.Millisecond, time.Millisecond
	apply(t, s, f, map[string]Service{"web": web})
	eventually(t, "probes are let through", func() bool {
		_ = w.tcpConnect(t, vip)
		return w.counter(t, "lb_probes") > 2
	})
	web.Outlier.Ejection, web.Outlier.MaxEjection = time.Hour, 100*time.Hour
	apply(t, s, f, map[string]Service{"web": web})
	if b := dead(); time.Until(b.EjectedUntil) < 150*time.Minute {
		t.Errorf("after failed probes the ejection lasts %s", time.Until(b.EjectedUntil))
	}
	serve(t, w.net, "back", netip.AddrPortFrom(back4[0], 8080))
	must(t, w.tcpConnect(t, vip))
	if b := dead(); b.Ejected || !b.EjectedUntil.IsZero() || len(s.Ejected("web")) != 0 {
		t.Errorf("after a success: %+v", b)
	}
}

// How long the n-th ejection lasts.
func TestEjectionTime(t *testing.T) {
	linear := Outlier{Consecutive: 5, Ejection: 30 * time.Second, MaxEjection: 300 * time.Second, Linear: true}
	for _, c := range []struct {
		outlier Outlier
		streak  uint32
		want    time.Duration
	}{
		{DefaultOutlier, 1, time.Second}, {DefaultOutlier, 2, 2 * time.Second}, {DefaultOutlier, 7, 64 * time.Second},
		{DefaultOutlier, 4000, 64 * time.Second},
		{linear, 5, 30 * time.Second}, {linear, 6, 60 * time.Second}, {linear, 14, 300 * time.Second}, {linear, 100, 300 * time.Second},
	} {
		row := nodensBackendState{Streak: c.streak, FailedAt: uint64(monotonic())}
		until := Service{Outlier: c.outlier}.set().ejectedUntil(&row)
		if got := time.Until(until).Round(time.Second); got != c.want {
			t.Errorf("%+v after %d failures: %s, want %s", c.outlier, c.streak, got, c.want)
		}
	}
	if until := (Service{Outlier: linear}).set().ejectedUntil(&nodensBackendState{Streak: 4}); !until.IsZero() {
		t.Error("ejected too early")
	}
}

// No more than the percentage is ejected, but always one.
func TestMaxEjectionPercent(t *testing.T) {
	w, s := lbWorld(t)
	vip := netip.AddrPortFrom(vip4, 80)
	f := map[Frontend]string{}
	both(f, vip4, 80, "web")
	for i, c := range []struct {
		percent uint32
		want    int
	}{{0, 1}, {10, 1}, {66, 1}, {67, 2}, {100, 3}} {
		apply(t, s, f, map[string]Service{"web": {Policy: RoundRobin, Backends: backends(uint16(100+i), back4...),
			Outlier: Outlier{Consecutive: 2, Ejection: time.Hour, MaxEjection: time.Hour, MaxPercent: c.percent}}})
		for range 30 {
			_ = w.tcpConnect(t, vip)
		}
		if got := s.Ejected("web"); len(got) != c.want {
			t.Errorf("at most %d %%: %v are ejected, want %d of 3", c.percent, got, c.want)
		}
	}
}

// Two services share a backend and count its failures together; each judges them by its own settings.
func TestSharedBackend(t *testing.T) {
	w, s := lbWorld(t)
	quick, patient := netip.AddrPortFrom(vip4, 80), netip.AddrPortFrom(vip4b, 80)
	f := map[Frontend]string{}
	both(f, vip4, 80, "quick")
	both(f, vip4b, 80, "patient")
	apply(t, s, f, map[string]Service{
		"quick":   {Backends: backends(8080, back4[0]), Outlier: Outlier{Consecutive: 1, Ejection: time.Hour, MaxEjection: time.Hour, MaxPercent: 100}},
		"patient": {Backends: backends(8080, back4[0]), Outlier: Outlier{Consecutive: 3, Ejection: time.Hour, MaxEjection: time.Hour, MaxPercent: 100}},
	})
	expect := func(inQuick, inPatient int) {
		t.Helper()
		if a, b := len(s.Ejected("quick")), len(s.Ejected("patient")); a != inQuick || b != inPatient {
			t.Errorf("ejected %d and %d times, want %d and %d", a, b, inQuick, inPatient)
		}
	}
	expect(0, 0)
	_ = w.tcpConnect(t, quick)
	_ = w.tcpConnect(t, quick) // says nothing new
	expect(1, 0)
	_ = w.tcpConnect(t, patient)
	expect(1, 0)
	_ = w.tcpConnect(t, patient)
	expect(1, 1)
}

// In a panic an ejected backend is used like any other.
func TestAlways(t *testing.T) {
	w, s := lbWorld(t)
	serve(t, w.net, "up", netip.AddrPortFrom(back4[0], 8080))
	vip := netip.AddrPortFrom(vip4, 80)
	f := map[Frontend]string{}
	both(f, vip4, 80, "web")
	web := Service{Policy: RoundRobin, Backends: backends(8080, back4[:2]...), Outlier: Outlier{Consecutive: 1, Ejection: time.Hour, MaxEjection: time.Hour, MaxPercent: 100}}
	for _, c := range []struct {
		always bool
		want   int // failures of 20 connects, once it is ejected
	}{{false, 0}, {true, 10}} {
		web.Backends[1].Always = c.always
		apply(t, s, f, map[string]Service{"web": web})
		for range 2 {
			_ = w.tcpConnect(t, vip)
		}
		failed := 0
		for range 20 {
			if w.tcpConnect(t, vip) != nil {
				failed++
			}
		}
		if failed != c.want || len(s.Ejected("web")) != 1 {
			t.Errorf("always %v: %d of 20 fail, want %d; %v are ejected", c.always, failed, c.want, s.Ejected("web"))
		}
	}
}

// One dead backend of three. After the first to find out, only probes fail: one a second and then ever
// fewer. When it is well, one probe brings back its whole share.
func TestDeadBackend(t *testing.T) {
	const connects, fail = 2000, 10 // 0.5 %
	for name, kill := range map[string]func(t *testing.T, w *world, at netip.AddrPort) (revive func()){
		"refuses": func(t *testing.T, w *world, at netip.AddrPort) func() {
			return func() { serve(t, w.net, "back", at) }
		},
		"is silent": silent,
	} {
		t.Run(name, func(t *testing.T) {
			w, s := lbWorld(t)
			for _, a := range back4[:2] {
				serve(t, w.net, a.String(), netip.AddrPortFrom(a, 8080))
			}
			vip := netip.AddrPortFrom(vip4, 80)
			f := map[Frontend]string{}
			both(f, vip4, 80, "web")
			revive := kill(t, w, netip.AddrPortFrom(back4[2], 8080))
			apply(t, s, f, map[string]Service{"web": {Policy: RoundRobin, Backends: backends(8080, back4...)}})
			dead := func() BackendState { return state(t, s, "web").Backends[2] }
			for range 3 { // not waiting: one of them is for the dead one
				k := w.socket(t, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
				_ = k.connect(vip)
			}
			eventually(t, "the backend is ejected", func() bool { return dead().Ejected })
			failed := 0
			for range connects {
				if w.tcpConnect(t, vip) != nil {
					failed++
				}
			}
			if failed > fail {
				t.Errorf("%d of %d connects failed, want at most %d", failed, connects, fail)
			}
			t.Logf("%d of %d connects failed", failed, connects)
			revive()
			apply(t, s, f, map[string]Service{"web": {Policy: RoundRobin, Backends: backends(8080, back4...),
				// so that the test need not wait for a probe that is due in half a minute
				Outlier: Outlier{Consecutive: 1, Ejection: time.Second, MaxEjection: time.Second, MaxPercent: 100}}})
			eventually(t, "a probe succeeds", func() bool {
				_ = w.tcpConnect(t, vip)
				return !dead().Ejected
			})
			before := dead().Connections
			for range 300 {
				must(t, w.tcpConnect(t, vip))
			}
			if got := dead().Connections - before; got != 100 {
				t.Errorf("gets %d of 300 connections after it came back, want 100", got)
			}
		})
	}
}

// silent is a server whose queue is full: handshakes get no answer. Revived, it takes connections.
func silent(t *testing.T, w *world, at netip.AddrPort) (revive func()) {
	ln := socketIn(t, w.net, unix.AF_INET, unix.SOCK_STREAM, 0)
	must(t, unix.Bind(ln.fd, ln.sockaddr(at)))
	must(t, unix.Listen(ln.fd, 0))
	must(t, w.socket(t, unix.AF_INET, unix.SOCK_STREAM, 0).connect(at))
	return func() {
		must(t, unix.Listen(ln.fd, 4096))
		var stop atomic.Bool
		t.Cleanup(func() { stop.Store(true) })
		go func() {
			for !stop.Load() {
				if fd, _, err := unix.Accept(ln.fd); err == nil {
					_ = unix.Close(fd)
				}
			}
		}()
	}
}
