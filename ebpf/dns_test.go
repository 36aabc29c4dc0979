package ebpf

import (
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	port0, port1, port2 = 64601, 64602, 64603
)

func at53(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 53) }

// dnsWorld has a pod with three nameservers, each with a living listener, and the servers themselves.
func dnsWorld(t *testing.T) (w *world, closers []func()) {
	w = newWorld(t)
	for _, a := range []netip.Addr{ns4a, ns4b, ns6, other4} {
		serve(t, w.net, "original", at53(a))
	}
	closers = []func(){w.listen(t, 0, pod4, port0), w.listen(t, 1, pod4, port1), w.listen(t, 2, pod6, port2)}
	w.enrol(t, Nameserver{ns4a, port0}, Nameserver{ns4b, port1}, Nameserver{ns6, port2})
	w.Beat()
	return w, closers
}

// Every shape of socket gets its answer from dnsd and believes to have it from the nameserver.
func TestCapture(t *testing.T) {
	w, _ := dnsWorld(t)
	for _, c := range []struct {
		name   string
		domain int
		ns     netip.Addr
		answer string
	}{
		{"v4", unix.AF_INET, ns4a, "dnsd0"},
		{"v4 second", unix.AF_INET, ns4b, "dnsd1"},
		{"v6", unix.AF_INET6, ns6, "dnsd2"},
		{"mapped", unix.AF_INET6, ns4a, "dnsd0"},
	} {
		to := at53(c.ns)
		t.Run(c.name+" unconnected", func(t *testing.T) {
			s := w.socket(t, c.domain, unix.SOCK_DGRAM, 0)
			must(t, s.sendto(to))
			s.expect(c.answer, to)
		})
		t.Run(c.name+" connected", func(t *testing.T) {
			s := w.socket(t, c.domain, unix.SOCK_DGRAM, 0)
			must(t, s.connect(to))
			_, err := unix.Write(s.fd, []byte("?"))
			must(t, err)
			s.expect(c.answer, to)
			if s.peer() != to {
				t.Errorf("peer %s, want %s", s.peer(), to)
			}
		})
		t.Run(c.name+" tcp", func(t *testing.T) {
			s := w.socket(t, c.domain, unix.SOCK_STREAM, 0)
			must(t, s.connect(to))
			s.expect(c.answer, to)
			if s.peer() != to {
				t.Errorf("peer %s, want %s", s.peer(), to)
			}
		})
	}
	if w.counter(t, "dns_captured") < 12 || w.counter(t, "dns_restored") == 0 {
		t.Error("what was captured is not counted")
	}
}

// One socket may ask all nameservers before it reads a reply.
func TestCaptureInFlight(t *testing.T) {
	w, _ := dnsWorld(t)
	s := w.socket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	want := map[string]int{}
	for i, ns := range []netip.Addr{ns4a, ns4b, ns6} {
		for range 3 {
			must(t, s.sendto(at53(ns)))
			want[fmt.Sprintf("dnsd%d from %s", i, at53(ns))]++
		}
	}
	got := map[string]int{}
	for range 9 {
		answer, from, err := s.receive()
		must(t, err)
		got[answer+" from "+from.String()]++
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("replies %v, want %v", got, want)
	}
}

// What is not a pod's query to one of its nameservers, or cannot be taken to dnsd, goes where it says.
func TestCaptureLeavesAlone(t *testing.T) {
	w, closers := dnsWorld(t)
	serve(t, w.net, "other port", netip.AddrPortFrom(ns4a, 5353))
	serve(t, w.pod, "podlocal", at53(netip.MustParseAddr("127.0.0.53")))
	udp := func(t *testing.T) sock { return w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0) }
	ask := func(t *testing.T, s sock, to netip.AddrPort, answer string) {
		t.Helper()
		must(t, s.sendto(to))
		s.expect(answer, to)
	}
	t.Run("another port", func(t *testing.T) {
		ask(t, udp(t), netip.AddrPortFrom(ns4a, 5353), "other port")
	})
	t.Run("another server", func(t *testing.T) { ask(t, udp(t), at53(other4), "original") })
	t.Run("loopback", func(t *testing.T) { ask(t, udp(t), at53(netip.MustParseAddr("127.0.0.53")), "podlocal") })
	t.Run("no pod", func(t *testing.T) {
		ask(t, socketIn(t, w.net, unix.AF_INET, unix.SOCK_DGRAM, 0), at53(ns4a), "original")
	})
	t.Run("marked", func(t *testing.T) {
		s := udp(t)
		must(t, unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_MARK, int(Mark)))
		ask(t, s, at53(ns4a), "original")
		if w.counter(t, "own_socket") == 0 {
			t.Error("not counted")
		}
	})
	t.Run("bound to the pod's interface", func(t *testing.T) {
		s := udp(t)
		must(t, unix.BindToDevice(s.fd, "eth0"))
		ask(t, s, at53(ns4a), "dnsd0")
	})
	t.Run("bound to another interface", func(t *testing.T) {
		s := udp(t)
		must(t, unix.BindToDevice(s.fd, "lo"))
		if err := s.sendto(at53(ns4a)); err == nil {
			if answer, _, err := s.receive(); err == nil {
				t.Errorf("answered by %q", answer)
			}
		}
		if w.counter(t, "dns_other_device") == 0 {
			t.Error("not counted")
		}
	})
	t.Run("opted out", func(t *testing.T) {
		before, err := w.Pods()
		must(t, err)
		row := before[w.cookie]
		row.DNS = false
		must(t, w.PutPod(w.cookie, row))
		ask(t, udp(t), at53(ns4a), "original")
		must(t, w.PutPod(w.cookie, before[w.cookie]))
	})
	t.Run("stale heartbeat", func(t *testing.T) {
		beat := w.heartbeat.rows[0]
		w.heartbeat.rows[0] = beat - 3e9
		ask(t, udp(t), at53(ns4a), "original")
		if w.Heartbeat() < 3e9 {
			t.Errorf("heartbeat is %s old, want 3 s", w.Heartbeat())
		}
		w.Beat()
		ask(t, udp(t), at53(ns4a), "dnsd0")
		if w.counter(t, "dns_stale_heartbeat") == 0 {
			t.Error("not counted")
		}
	})
	t.Run("listener gone", func(t *testing.T) {
		s := udp(t)
		ask(t, s, at53(ns4a), "dnsd0")
		for _, f := range closers[:1] {
			f()
		}
		ask(t, s, at53(ns4a), "original")
		tcp := w.socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
		must(t, tcp.connect(at53(ns4a)))
		tcp.expect("original", at53(ns4a))
		ask(t, s, at53(ns4b), "dnsd1")
		if w.counter(t, "dns_no_listener") == 0 {
			t.Error("not counted")
		}
	})
	t.Run("its port in other hands", func(t *testing.T) {
		here := netip.AddrPortFrom(pod4, port0)
		serve(t, w.pod, "app", here)
		ask(t, udp(t), here, "app")
	})
	t.Run("un-enrolled", func(t *testing.T) {
		must(t, w.DeletePod(w.cookie))
		must(t, w.DeletePod(w.cookie))
		ask(t, udp(t), at53(ns4b), "original")
		if alive, err := w.ListenerAlive(w.cookie, 1, UDP); err != nil || alive {
			t.Errorf("listener alive %v, %v", alive, err)
		}
	})
}

func TestPodRows(t *testing.T) {
	w := newWorld(t)
	want := Pod{Ifindex: 7, Addr4: pod4, Addr6: pod6, View: ViewOf("a"), DNS: true, LB: true,
		Nameservers: []Nameserver{{ns4a, port0}, {ns6, port1}}}
	must(t, w.PutPod(1, want))
	must(t, w.PutPod(1, want))
	must(t, w.PutPod(2, Pod{}))
	got, err := w.Pods()
	must(t, err)
	if fmt.Sprint(got) != fmt.Sprint(map[uint64]Pod{1: want, 2: {}}) {
		t.Errorf("read back %v, want %v", got, want)
	}
	for name, bad := range map[string]Pod{
		"port out of the band":     {Addr4: pod4, Nameservers: []Nameserver{{ns4a, 1024}}},
		"no address of the family": {Addr4: pod4, Nameservers: []Nameserver{{ns6, port0}}},
		"too many":                 {Addr4: pod4, Nameservers: make([]Nameserver, 5)},
	} {
		if w.PutPod(3, bad) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if w.PutListener(1, 4, UDP, 0) == nil || w.PutListener(1, 0, AnyProtocol, 0) == nil {
		t.Error("a listener key that cannot be was accepted")
	}
	if ViewOf("") != 0 || ViewOf("a") == ViewOf("b") {
		t.Error("views are not told apart")
	}
}
