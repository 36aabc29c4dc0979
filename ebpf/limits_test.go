package ebpf

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A pod that comes back reaches the backend it had, for as long as that is in the set and the time since
// its last connection is short enough. Other services do not mind.
func TestAffinity(t *testing.T) {
	w, s := lbWorld(t)
	vip, vipB := netip.AddrPortFrom(vip4, 80), netip.AddrPortFrom(vip4b, 80)
	f := map[Frontend]string{}
	both(f, vip4, 80, "web")
	both(f, vip4b, 80, "other")
	web := Service{Policy: RoundRobin, Affinity: time.Hour, Backends: backends(8080, back4...)}
	services := map[string]Service{"web": web, "other": {Policy: RoundRobin, Backends: backends(8081, back4...)}}
	apply(t, s, f, services)
	chosen := func(to netip.AddrPort) netip.Addr {
		t.Helper()
		k := w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
		defer k.close()
		must(t, k.connect(to))
		for _, b := range state(t, s, map[netip.AddrPort]string{vip: "web", vipB: "other"}[to]).Backends {
			if b.Active > 0 {
				return b.Addr.Addr()
			}
		}
		t.Fatal("went nowhere")
		return netip.Addr{}
	}
	first := chosen(vip)
	for range 10 {
		if again := chosen(vip); again != first {
			t.Fatalf("went to %s, had %s before", again, first)
		}
	}
	seen := map[netip.Addr]bool{}
	for range 3 {
		seen[chosen(vipB)] = true
	}
	if len(seen) != 3 {
		t.Errorf("the other service sends to %v only", seen)
	}
	if w.counter(t, "lb_returned") != 10 {
		t.Error("who comes back is not counted")
	}

	// The set changes: who had a backend that stays, keeps it; who had the one that goes, gets another.
	rest := slices.DeleteFunc(backends(8080, back4...), func(b Backend) bool { return b.Addr.Addr() == first })
	web.Backends = append(backends(8080, first), rest[0])
	apply(t, s, f, map[string]Service{"web": web, "other": services["other"]})
	if again := chosen(vip); again != first {
		t.Errorf("went to %s when another left, had %s before", again, first)
	}
	web.Backends = rest
	apply(t, s, f, map[string]Service{"web": web, "other": services["other"]})
	now := chosen(vip)
	if now == first {
		t.Errorf("went to %s, which has left", now)
	}
	web.Backends = backends(8080, back4...)
	apply(t, s, f, map[string]Service{"web": web, "other": services["other"]})
	if again := chosen(vip); again != now {
		t.Errorf("went to %s when the first came back, had %s before", again, now)
	}

	// The time is over.
	web.Affinity = time.Millisecond
	apply(t, s, f, map[string]Service{"web": web, "other": services["other"]})
	seen = map[netip.Addr]bool{}
	eventually(t, "all backends are used", func() bool {
		seen[chosen(vip)] = true
		return len(seen) == 3
	})
}

// One TCP connection more than the limit is refused and counted; every way of ending one makes room again.
func TestMaxConnections(t *testing.T) {
	w, s := lbWorld(t)
	w.serveBackends(t)
	vip := netip.AddrPortFrom(vip4, 80)
	f := map[Frontend]string{}
	both(f, vip4, 80, "web")
	web := Service{Policy: LeastRequest, MaxConnections: 3, Backends: backends(8080, back4...)}
	apply(t, s, f, map[string]Service{"web": web})
	open := func(want error) sock {
		t.Helper()
		k := w.socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
		if err := k.connect(vip); err != want {
			t.Errorf("connect: %v, want %v", err, want)
		}
		return k
	}
	expect := func(n uint32) {
		t.Helper()
		eventually(t, "the connections counted are those open", func() bool { return state(t, s, "web").Active == n })
	}
	all := []sock{open(nil), open(nil), open(nil)}
	open(unix.ECONNREFUSED)
	open(unix.ECONNREFUSED)
	expect(3)
	if got := state(t, s, "web"); got.Refused != 2 || w.counter(t, "lb_over_limit") != 2 {
		t.Errorf("%d refusals are counted for the service, %d in all, want 2", got.Refused, w.counter(t, "lb_over_limit"))
	}
	// A datagram is no connection.
	must(t, w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0).connect(vip))
	all[0].close()
	expect(2)
	all[0] = open(nil)
	must(t, unix.SetsockoptLinger(all[1].fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	all[1].close()
	expect(2)

	// A failed handshake and a new connect() on the same socket give back what they took.
	web.Backends = backends(9, back4...)
	apply(t, s, f, map[string]Service{"web": web})
	for range 5 {
		if err := w.socket(t, unix.AF_INET, unix.SOCK_STREAM, 0).connect(vip); err != unix.ECONNREFUSED {
			t.Errorf("connect: %v", err)
		}
	}
	expect(2)

	// Another limit, another set: the count goes on. Without a limit what is counted is still given back.
	web.Backends, web.MaxConnections = backends(8080, back4[0]), 2
	apply(t, s, f, map[string]Service{"web": web})
	open(unix.ECONNREFUSED)
	web.MaxConnections = 0
	apply(t, s, f, map[string]Service{"web": web})
	for range 5 {
		open(nil)
	}
	for i := range all {
		all[i].close()
	}
	expect(0)
}

// The index of a service may pass to another while old sockets live: they do not count against it.
func TestServiceIncarnation(t *testing.T) {
	o := options(t)
	o.maxEntries = map[string]uint32{nodensMapServices: 1, nodensMapServiceStates: 1}
	w := newWorldWith(t, o)
	w.enrol(t)
	w.serveBackends(t)
	s, err := w.Services()
	must(t, err)
	vip := netip.AddrPortFrom(vip4, 80)
	f, g := map[Frontend]string{}, map[Frontend]string{}
	both(f, vip4, 80, "a")
	both(g, vip4, 80, "b")
	limited := Service{MaxConnections: 2, Backends: backends(8080, back4[0])}
	apply(t, s, f, map[string]Service{"a": limited})
	k, l := w.socket(t, unix.AF_INET, unix.SOCK_STREAM, 0), w.socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
	must(t, k.connect(vip))
	apply(t, s, nil, nil)
	eventually(t, "the index is free", func() bool {
		_, err := s.Apply(g, map[string]Service{"b": limited})
		return err == nil
	})
	must(t, l.connect(vip))
	k.close()
	eventually(t, "the backend's count is right", func() bool { return sum(active(t, s, "b")) == 1 })
	if got := state(t, s, "b"); got.Active != 1 {
		t.Errorf("%d connections are counted, want 1", got.Active)
	}
}

// An address of the node's ranges that nothing is behind is refused in every shape; all others are left
// alone, and a frontend in a range works as ever.
func TestRanges(t *testing.T) {
	w, s := lbWorld(t)
	w.serveBackends(t)
	must(t, w.SetRanges(netip.MustParsePrefix("240.240.0.0/16"), netip.MustParsePrefix("2001:2::/48")))
	f := map[Frontend]string{}
	both(f, vip4, 80, "web")
	apply(t, s, f, map[string]Service{"web": {Backends: backends(8080, back4[0])}})
	must(t, w.socket(t, unix.AF_INET, unix.SOCK_STREAM, 0).connect(netip.AddrPortFrom(vip4, 80)))
	must(t, w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0).connect(netip.AddrPortFrom(back4[0], 80)))
	refused := 0
	try := func(to string, domains ...int) {
		t.Helper()
		for _, domain := range domains {
			addr := netip.MustParseAddrPort(to)
			if err := w.socket(t, domain, unix.SOCK_STREAM, 0).connect(addr); err != unix.ECONNREFUSED {
				t.Errorf("connect %s domain %d: %v, want ECONNREFUSED", to, domain, err)
			}
			if err := w.socket(t, domain, unix.SOCK_DGRAM, 0).sendto(addr); err != unix.ECONNREFUSED {
				t.Errorf("sendto %s domain %d: %v, want ECONNREFUSED", to, domain, err)
			}
			refused += 2
		}
	}
	try("240.240.255.255:80", unix.AF_INET, unix.AF_INET6)
	try("240.240.0.0:53", unix.AF_INET)
	try("[2001:2:0:ffff::1]:80", unix.AF_INET6)
	try(netip.AddrPortFrom(vip4, 81).String(), unix.AF_INET)
	if n := w.counter(t, "lb_nobodys"); n != uint64(refused) {
		t.Errorf("%d refusals are counted, want %d", n, refused)
	}
	for _, to := range []string{"240.241.0.0:80", "240.239.255.255:80", "[2001:2:1::1]:80"} { // no route, no refusal
		domain := unix.AF_INET6
		if netip.MustParseAddrPort(to).Addr().Is4() {
			domain = unix.AF_INET
		}
		if err := w.socket(t, domain, unix.SOCK_DGRAM, 0).connect(netip.MustParseAddrPort(to)); err != unix.ENETUNREACH {
			t.Errorf("connect %s: %v, want ENETUNREACH", to, err)
		}
	}
	// Not for pods whose connections are not balanced, and not without ranges.
	nobodys := netip.MustParseAddrPort("240.240.9.9:80")
	must(t, w.PutPod(w.cookie, Pod{Addr4: pod4}))
	if err := w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0).connect(nobodys); err != unix.ENETUNREACH {
		t.Errorf("a pod that opted out: %v", err)
	}
	w.enrol(t)
	must(t, w.SetRanges(netip.Prefix{}, netip.Prefix{}))
	if err := w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0).connect(nobodys); err != unix.ENETUNREACH {
		t.Errorf("without a range: %v", err)
	}
}

func TestRangeMask(t *testing.T) {
	for prefix, want := range map[string]string{
		"240.240.0.0/16": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:0", "10.0.0.0/9": "ffff:ffff:ffff:ffff:ffff:ffff:ff80:0",
		"2001:2::/48": "ffff:ffff:ffff::", "2001:2:0:f0f1::/64": "ffff:ffff:ffff:ffff::",
	} {
		r := rangeOf(netip.MustParsePrefix(prefix))
		if got := r.Mask.addr(); got != netip.MustParseAddr(want).Unmap() || r.Addr.addr() != netip.MustParsePrefix(prefix).Addr() {
			t.Errorf("%s is %s mask %s, want %s", prefix, r.Addr.addr(), got, want)
		}
	}
}
