package ebpf

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// lbWorld has a pod whose connections are balanced, and servers at the backends' port 8080 that answer
// with their address.
func lbWorld(t testing.TB) (*world, *Services) {
	w := newWorld(t)
	w.enrol(t)
	s, err := w.Services()
	must(t, err)
	return w, s
}

func (w *world) serveBackends(t testing.TB) {
	for _, a := range append(slices.Clone(back4), back6...) {
		serve(t, w.net, a.String(), netip.AddrPortFrom(a, 8080))
	}
}

func backends(port uint16, addrs ...netip.Addr) []Backend {
	var all []Backend
	for _, a := range addrs {
		all = append(all, Backend{Addr: netip.AddrPortFrom(a, port), Weight: 1})
	}
	return all
}

// apply wants no error.
func apply(t testing.TB, s *Services, f map[Frontend]string, services map[string]Service) Changes {
	t.Helper()
	c, err := s.Apply(f, services)
	must(t, err)
	return c
}

// both are the TCP and the UDP frontend of an address.
func both(f map[Frontend]string, a netip.Addr, port uint16, name string) {
	f[Frontend{Addr: a, Port: port, Protocol: TCP}] = name
	f[Frontend{Addr: a, Port: port, Protocol: UDP}] = name
}

// state is the one service of that name.
func state(t testing.TB, s *Services, name string) ServiceState {
	t.Helper()
	for _, state := range s.Dump() {
		if state.Name == name {
			return state
		}
	}
	t.Fatalf("no service %s in %+v", name, s.Dump())
	return ServiceState{}
}

func active(t testing.TB, s *Services, name string) (all []uint32) {
	t.Helper()
	for _, b := range state(t, s, name).Backends {
		all = append(all, b.Active)
	}
	return all
}

func sum(all []uint32) (n uint32) {
	for _, x := range all {
		n += x
	}
	return n
}

// Every shape of socket reaches a backend and sees the virtual address as its peer.
func TestVirtualAddress(t *testing.T) {
	w, s := lbWorld(t)
	w.serveBackends(t)
	f := map[Frontend]string{}
	both(f, vip4, 80, "web4")
	both(f, vip6, 80, "web6")
	apply(t, s, f, map[string]Service{"web4": {Backends: backends(8080, back4[0])}, "web6": {Backends: backends(8080, back6[0])}})
	for _, c := range []struct {
		name      string
		domain    int
		vip, back netip.Addr
	}{
		{"v4", unix.AF_INET, vip4, back4[0]},
		{"mapped", unix.AF_INET6, vip4, back4[0]},
		{"v6", unix.AF_INET6, vip6, back6[0]},
	} {
		vip := netip.AddrPortFrom(c.vip, 80)
		t.Run(c.name+" tcp", func(t *testing.T) {
			k := w.socket(t, c.domain, unix.SOCK_STREAM, 0)
			must(t, k.connect(vip))
			k.expect(c.back.String(), vip)
			if k.peer() != vip {
				t.Errorf("peer %s, want %s", k.peer(), vip)
			}
		})
		t.Run(c.name+" connected", func(t *testing.T) {
			k := w.socket(t, c.domain, unix.SOCK_DGRAM, 0)
			must(t, k.connect(vip))
			for range 2 {
				_, err := unix.Write(k.fd, []byte("?"))
				must(t, err)
				k.expect(c.back.String(), vip)
			}
			if k.peer() != vip {
				t.Errorf("peer %s, want %s", k.peer(), vip)
			}
		})
		t.Run(c.name+" unconnected", func(t *testing.T) {
			k := w.socket(t, c.domain, unix.SOCK_DGRAM, 0)
			for range 2 {
				must(t, k.sendto(vip))
				k.expect(c.back.String(), vip)
			}
		})
	}
}

// Replies carry the virtual address each was asked of, whatever order they come in, and a backend asked
// by its own address answers as itself.
func TestVirtualAddressesInFlight(t *testing.T) {
	w, s := lbWorld(t)
	w.serveBackends(t)
	f := map[Frontend]string{}
	both(f, vip4, 80, "a")
	both(f, vip4b, 81, "b")
	apply(t, s, f, map[string]Service{"a": {Backends: backends(8080, back4[0])}, "b": {Backends: backends(8080, back4[1])}})
	k := w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	a, b, own := netip.AddrPortFrom(vip4, 80), netip.AddrPortFrom(vip4b, 81), netip.AddrPortFrom(back4[2], 8080)
	for _, to := range []netip.AddrPort{a, b, own} {
		must(t, k.sendto(to))
	}
	want := map[string]netip.AddrPort{back4[0].String(): a, back4[1].String(): b, back4[2].String(): own}
	for range want {
		answer, from, err := k.receive()
		must(t, err)
		if from != want[answer] {
			t.Errorf("%s answers as %s, want %s", answer, from, want[answer])
		}
	}
	direct := netip.AddrPortFrom(back4[0], 8080)
	must(t, k.sendto(direct))
	k.expect(back4[0].String(), direct)
	must(t, k.connect(a))
	must(t, k.connect(direct))
	if k.peer() != direct {
		t.Errorf("peer %s after connecting directly, want %s", k.peer(), direct)
	}
}

// Datagrams to one address from one socket stay with one backend: they may be one conversation.
func TestDatagramsStay(t *testing.T) {
	w, s := lbWorld(t)
	w.serveBackends(t)
	f := map[Frontend]string{}
	both(f, vip4, 80, "web")
	apply(t, s, f, map[string]Service{"web": {Policy: RoundRobin, Backends: backends(8080, back4...)}})
	vip := netip.AddrPortFrom(vip4, 80)
	seen := map[string]int{}
	for range 6 {
		k := w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
		must(t, k.sendto(vip))
		first, _, err := k.receive()
		must(t, err)
		for range 5 {
			must(t, k.sendto(vip))
			k.expect(first, vip)
		}
		seen[first]++
	}
	if len(seen) != 3 {
		t.Errorf("six sockets use %v, want all three backends", seen)
	}
	k := w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	apply(t, s, f, map[string]Service{"web": {Backends: backends(8080, back4[1])}})
	must(t, k.sendto(vip))
	k.expect(back4[1].String(), vip)
	for range 5 {
		apply(t, s, f, map[string]Service{"web": {Backends: backends(8080, back4...)}})
		must(t, k.sendto(vip))
		k.expect(back4[1].String(), vip)
		apply(t, s, f, map[string]Service{"web": {Backends: backends(8080, back4[1:]...)}})
		must(t, k.sendto(vip))
		k.expect(back4[1].String(), vip)
	}
	apply(t, s, f, map[string]Service{"web": {Backends: backends(8080, back4[0])}})
	must(t, k.sendto(vip))
	k.expect(back4[0].String(), vip)
}

func TestPolicies(t *testing.T) {
	w, s := lbWorld(t)
	vip := netip.AddrPortFrom(vip4, 80)
	weighted := func(w ...uint32) []Backend {
		all := backends(8080, back4...)
		for i := range all {
			all[i].Weight = w[i]
		}
		return all
	}
	for _, c := range []struct {
		name     string
		policy   Policy
		backends []Backend
		n        int
		want     []uint32
		off      uint32 // what chance may do
	}{
		{"round robin", RoundRobin, weighted(1, 1, 1), 300, []uint32{100, 100, 100}, 0},
		{"round robin weighted", RoundRobin, weighted(300, 200, 100), 300, []uint32{150, 100, 50}, 0},
		{"least request", LeastRequest, weighted(1, 1, 1), 300, []uint32{100, 100, 100}, 2},
		{"least request weighted", LeastRequest, weighted(3, 2, 1), 300, []uint32{150, 100, 50}, 6},
		{"random", Random, weighted(1, 1, 1), 600, []uint32{200, 200, 200}, 90},
		{"random weighted", Random, weighted(4, 1, 1), 600, []uint32{400, 100, 100}, 90},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := map[Frontend]string{}
			both(f, vip4, 80, c.name)
			apply(t, s, f, map[string]Service{c.name: {Policy: c.policy, Backends: c.backends}})
			socks := make([]sock, c.n)
			for i := range socks {
				socks[i] = w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
				must(t, socks[i].connect(vip))
			}
			got := active(t, s, c.name)
			for i := range got {
				if got[i] > c.want[i]+c.off || got[i]+c.off < c.want[i] {
					t.Errorf("open connections %v, want %v with %d to spare", got, c.want, c.off)
					break
				}
			}
			for i := range socks {
				socks[i].close()
			}
			if n := sum(active(t, s, c.name)); n != 0 {
				t.Errorf("%d connections are counted after all have gone", n)
			}
		})
	}
}

// Who is on standby gets no connection, counts as the service's all the same, and changes place for free.
func TestStandby(t *testing.T) {
	w, s := lbWorld(t)
	f := map[Frontend]string{}
	both(f, vip4, 80, "web")
	rest := []netip.AddrPort{netip.AddrPortFrom(back4[1], 8080), netip.AddrPortFrom(back4[0], 8080)}
	web := Service{Policy: RoundRobin, Backends: backends(8080, back4[0], back4[2]), Standby: rest, Lasting: true}
	web.Backends[0].Weight = 2
	apply(t, s, f, map[string]Service{"web": web})
	for range 6 {
		must(t, w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0).connect(netip.AddrPortFrom(vip4, 80)))
	}
	want := []uint32{4, 0, 2}
	for _, reopened := range []bool{false, true} {
		if reopened {
			var err error
			s, err = w.Services()
			must(t, err)
			if c := apply(t, s, f, map[string]Service{"web": web}); c != (Changes{}) {
				t.Errorf("wrote %+v where nothing differs", c)
			}
		}
		got := state(t, s, "web")
		if !slices.Equal(active(t, s, "web"), want) || got.Backends[1].Weight != 0 || !got.Service.Lasting {
			t.Errorf("the kernel has %+v", got)
		}
	}
	web.Backends, web.Standby = backends(8080, back4[1]), rest[1:]
	if c := apply(t, s, f, map[string]Service{"web": web}); c != (Changes{Services: 1}) {
		t.Errorf("wrote %+v to let standby take over", c)
	}
	apply(t, s, nil, nil)
	if len(s.uses) != 0 {
		t.Errorf("%v are in use by nobody", s.uses)
	}
}

// Nothing behind an address: refused at once, in every shape, and no packet leaves.
func TestRefuse(t *testing.T) {
	w, s := lbWorld(t)
	f := map[Frontend]string{}
	both(f, vip4, 80, "empty")
	both(f, vip6, 80, "empty")
	both(f, vip4, 81, "other family")
	apply(t, s, f, map[string]Service{"empty": {}, "other family": {Backends: backends(8080, back6...)}})
	for _, port := range []uint16{80, 81} {
		for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
			to := netip.AddrPortFrom(vip4, port)
			if err := w.socket(t, domain, unix.SOCK_STREAM, 0).connect(to); err != unix.ECONNREFUSED {
				t.Errorf("connect %s domain %d: %v, want ECONNREFUSED", to, domain, err)
			}
			if err := w.socket(t, domain, unix.SOCK_DGRAM, 0).sendto(to); err != unix.ECONNREFUSED {
				t.Errorf("sendto %s domain %d: %v, want ECONNREFUSED", to, domain, err)
			}
		}
	}
	if err := w.socket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0).sendto(netip.AddrPortFrom(vip6, 80)); err != unix.ECONNREFUSED {
		t.Errorf("sendto v6: %v, want ECONNREFUSED", err)
	}
	if n := w.counter(t, "lb_refused"); n != 9 {
		t.Errorf("%d refusals counted, want 9", n)
	}
}

// A port nobody declared goes to the service of the whole address, and stays the port it was.
func TestAnyPort(t *testing.T) {
	w, s := lbWorld(t)
	w.serveBackends(t)
	f := map[Frontend]string{{Addr: vip4}: "any", {Addr: vip4, Port: 80, Protocol: TCP}: "web"}
	apply(t, s, f, map[string]Service{
		"any": {Backends: backends(0, back4[0])},
		"web": {Backends: backends(8080, back4[1])},
	})
	for port, answer := range map[uint16]netip.Addr{8080: back4[0], 80: back4[1]} {
		to := netip.AddrPortFrom(vip4, port)
		k := w.socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
		must(t, k.connect(to))
		k.expect(answer.String(), to)
		if k.peer() != to {
			t.Errorf("peer %s, want %s", k.peer(), to)
		}
	}
	k := w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	must(t, k.sendto(netip.AddrPortFrom(vip4, 8080)))
	k.expect(back4[0].String(), netip.AddrPortFrom(vip4, 8080))
}

// Who has a frontend of its own is not sent to everybody's.
func TestViews(t *testing.T) {
	w, s := lbWorld(t)
	shop, away := ViewOf("shop"), ViewOf("away")
	f := map[Frontend]string{
		{Addr: vip4, Port: 80, Protocol: TCP}:              "everybody",
		{Addr: vip4, Port: 80, Protocol: TCP, View: shop}:  "shop",
		{Addr: vip4, Port: 80, Protocol: TCP, View: away}:  "away",
		{Addr: vip4, Port: 81, Protocol: TCP}:              "everybody",
		{Addr: vip4b, Port: 80, Protocol: TCP, View: away}: "away",
		{Addr: vip4, View: shop}:                           "shop any",
		{Addr: vip4}:                                       "any",
	}
	services := map[string]Service{}
	for i, name := range []string{"everybody", "shop", "away", "shop any", "any"} {
		services[name] = Service{Backends: backends(uint16(8000+i), back4[0])}
	}
	apply(t, s, f, services)
	reach := func(to netip.AddrPort) string {
		before := map[string]uint64{}
		for _, state := range s.Dump() {
			before[state.Name] = state.Backends[0].Connections
		}
		k := w.socket(t, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		_ = k.connect(to)
		k.close()
		for _, state := range s.Dump() {
			if state.Backends[0].Connections != before[state.Name] {
				return state.Name
			}
		}
		return ""
	}
	for _, c := range []struct {
		view string
		to   netip.AddrPort
		want string
	}{
		{"shop", netip.AddrPortFrom(vip4, 80), "shop"},
		{"shop", netip.AddrPortFrom(vip4, 81), "everybody"},
		{"shop", netip.AddrPortFrom(vip4, 82), "shop any"},
		{"shop", netip.AddrPortFrom(vip4b, 80), ""},
		{"away", netip.AddrPortFrom(vip4, 80), "away"},
		{"away", netip.AddrPortFrom(vip4, 82), "any"},
		{"away", netip.AddrPortFrom(vip4b, 80), "away"},
		{"third", netip.AddrPortFrom(vip4, 80), "everybody"},
		{"", netip.AddrPortFrom(vip4, 80), "everybody"},
		{"", netip.AddrPortFrom(vip4, 82), "any"},
	} {
		must(t, w.PutPod(w.cookie, Pod{Addr4: pod4, LB: true, View: ViewOf(c.view)}))
		if got := reach(c.to); got != c.want {
			t.Errorf("%q to %s: %q, want %q", c.view, c.to, got, c.want)
		}
	}
	must(t, w.PutPod(w.cookie, Pod{Addr4: pod4}))
	if got := reach(netip.AddrPortFrom(vip4, 80)); got != "" {
		t.Errorf("a pod that opted out reaches %q", got)
	}
}
