package ebpf

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv makes this test binary a program that connects many sockets and then waits to be killed.
const childEnv = "NODENS_TEST_CONNECT"

func TestMain(m *testing.M) {
	if to := os.Getenv(childEnv); to != "" {
		connectMany(netip.MustParseAddrPort(to), 20)
	}
	os.Exit(m.Run())
}

func connectMany(to netip.AddrPort, n int) {
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Println("connected")
	select {}
}

// However a connection ends, it is counted no longer, and once.
func TestConnectionsAreCounted(t *testing.T) {
	w, s := lbWorld(t)
	w.serveBackends(t)
	vip, vipB, closed := netip.AddrPortFrom(vip4, 80), netip.AddrPortFrom(vip4b, 80), netip.AddrPortFrom(vip4, 81)
	f := map[Frontend]string{}
	both(f, vip4, 80, "a")
	both(f, vip4b, 80, "b")
	both(f, vip4, 81, "closed")
	apply(t, s, f, map[string]Service{
		"a":      {Policy: LeastRequest, Backends: backends(8080, back4[:2]...)},
		"b":      {Policy: LeastRequest, Backends: backends(8080, back4[2])},
		"closed": {Backends: backends(9, back4...)},
	})
	total := func() uint32 { return sum(active(t, s, "a")) + sum(active(t, s, "b")) + sum(active(t, s, "closed")) }
	expect := func(t *testing.T, n uint32) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d connections are counted", n), func() bool { return total() == n })
	}
	tcp := func(t *testing.T, flags int) sock { return w.socket(t, unix.AF_INET, unix.SOCK_STREAM|flags, 0) }
	for name, f := range map[string]func(t *testing.T){
		"close": func(t *testing.T) {
			k := tcp(t, 0)
			must(t, k.connect(vip))
			expect(t, 1)
			k.close()
		},
		"reset": func(t *testing.T) {
			k := tcp(t, 0)
			must(t, k.connect(vip))
			must(t, unix.SetsockoptLinger(k.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
			k.close()
		},
		"refused": func(t *testing.T) {
			k := tcp(t, 0)
			if err := k.connect(closed); err != unix.ECONNREFUSED {
				t.Errorf("connect: %v", err)
			}
			expect(t, 0)
			must(t, k.connect(vip))
			expect(t, 1)
			k.close()
		},
		"non-blocking, closed at once": func(t *testing.T) {
			k := tcp(t, unix.SOCK_NONBLOCK)
			if err := k.connect(vip); err != unix.EINPROGRESS {
				t.Errorf("connect: %v", err)
			}
			_ = k.connect(vip)
			if n := total(); n > 1 {
				t.Errorf("%d counted for one", n)
			}
			k.close()
		},
		"duplicated": func(t *testing.T) {
			k := tcp(t, 0)
			must(t, k.connect(vip))
			other, err := unix.Dup(k.fd)
			must(t, err)
			k.close()
			expect(t, 1)
			must(t, unix.Close(other))
		},
		"datagram, connected anew": func(t *testing.T) {
			k := w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
			for range 5 {
				must(t, k.connect(vip))
				must(t, k.connect(vipB))
				expect(t, 1)
			}
			must(t, k.connect(netip.AddrPortFrom(ns4a, 9)))
			expect(t, 0)
			k.close()
		},
		"datagrams are not connections": func(t *testing.T) {
			k := w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
			must(t, k.sendto(vip))
			expect(t, 0)
		},
		"multipath": func(t *testing.T) {
			k := w.socket(t, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
			must(t, k.connect(vip))
			expect(t, 1)
			k.close()
		},
		"killed": func(t *testing.T) { killChild(t, w, vip, func() { expect(t, 20) }) },
	} {
		t.Run(name, func(t *testing.T) {
			f(t)
			expect(t, 0)
		})
	}
}

// killChild lets another process connect 20 sockets and kills it.
func killChild(t *testing.T, w *world, to netip.AddrPort, connected func()) {
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+to.String())
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, w.pod.Do(child.Start))
	buf := make([]byte, 64)
	n, _ := out.Read(buf)
	if !strings.Contains(string(buf[:n]), "connected") {
		t.Fatalf("child: %q", buf[:n])
	}
	connected()
	must(t, child.Process.Kill())
	_ = child.Wait() // killed
}

// While sets flip, every connection finds a backend of the old one or of the new one.
func TestFlip(t *testing.T) {
	w, s := lbWorld(t)
	f := map[Frontend]string{}
	both(f, vip4, 80, "web")
	sets := [][]Backend{backends(8080, back4[:2]...), backends(8080, back4[2]), backends(8081, back4...)}
	apply(t, s, f, map[string]Service{"web": {Backends: sets[0]}})
	stop, done := make(chan struct{}), sync.WaitGroup{}
	var connects atomic.Int64
	for range 2 {
		done.Go(func() {
			k := w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
			defer k.close()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := k.connect(netip.AddrPortFrom(vip4, 80)); err != nil {
					t.Error(err)
					return
				}
				connects.Add(1)
			}
		})
	}
	flips := 0
	for ; (flips < 1000 || connects.Load() < 10000) && !t.Failed(); flips++ {
		apply(t, s, f, map[string]Service{"web": {Policy: Policy(flips % 3), Backends: sets[flips%len(sets)]}})
		time.Sleep(50 * time.Microsecond)
	}
	close(stop)
	done.Wait()
	t.Logf("%d flips under %d connects", flips, connects.Load())
	if n := w.counter(t, "lb_refused"); n != 0 {
		t.Errorf("%d connects were refused", n)
	}
}

// A backend whose port is closed is left alone after the first who find out, and comes back by itself.
func TestEjection(t *testing.T) {
	w, s := lbWorld(t)
	for _, a := range back4[:2] {
		serve(t, w.net, a.String(), netip.AddrPortFrom(a, 8080))
	}
	vip := netip.AddrPortFrom(vip4, 80)
	f := map[Frontend]string{}
	both(f, vip4, 80, "web")
	apply(t, s, f, map[string]Service{"web": {Policy: LeastRequest, Backends: backends(8080, back4...)}})
	connect := func() error {
		k := w.socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
		defer k.close()
		return k.connect(vip)
	}
	failed := 0
	for range 300 {
		if connect() != nil {
			failed++
		}
	}
	if failed == 0 || failed > 10 {
		t.Errorf("%d of 300 connects failed, want a few", failed)
	}
	dead := func() BackendState { return state(t, s, "web").Backends[2] }
	if !dead().Ejected || dead().Failures != uint64(failed) {
		t.Errorf("the dead backend is %+v, want it ejected after %d failures", dead(), failed)
	}
	serve(t, w.net, "back", netip.AddrPortFrom(back4[2], 8080))
	eventually(t, "the backend is used again", func() bool {
		must(t, connect())
		return !dead().Ejected
	})
	if w.counter(t, "lb_probes") == 0 || w.counter(t, "tcp_connect_failed") != uint64(failed) {
		t.Error("probes and failures are not counted")
	}
}

// All ejected means try anyway: whoever of them comes back is reached at once.
func TestAllEjected(t *testing.T) {
	w, s := lbWorld(t)
	f := map[Frontend]string{}
	both(f, vip4, 80, "web")
	apply(t, s, f, map[string]Service{"web": {Backends: backends(8080, back4[0])}})
	vip := netip.AddrPortFrom(vip4, 80)
	for range 3 {
		if err := w.socket(t, unix.AF_INET, unix.SOCK_STREAM, 0).connect(vip); err != unix.ECONNREFUSED {
			t.Fatalf("connect: %v", err)
		}
	}
	serve(t, w.net, "back", netip.AddrPortFrom(back4[0], 8080))
	must(t, w.socket(t, unix.AF_INET, unix.SOCK_STREAM, 0).connect(vip))
	if state(t, s, "web").Backends[0].Ejected {
		t.Error("still ejected after it worked")
	}
}

// A silent backend is noticed at the first retransmission, after a second: here one with a full queue.
func TestSilentBackend(t *testing.T) {
	w, s := lbWorld(t)
	silent := netip.AddrPortFrom(back4[0], 8080)
	ln := socketIn(t, w.net, unix.AF_INET, unix.SOCK_STREAM, 0)
	must(t, unix.Bind(ln.fd, ln.sockaddr(silent)))
	must(t, unix.Listen(ln.fd, 0))
	must(t, w.socket(t, unix.AF_INET, unix.SOCK_STREAM, 0).connect(silent))
	f := map[Frontend]string{}
	both(f, vip4, 80, "web")
	apply(t, s, f, map[string]Service{"web": {Backends: []Backend{{Addr: silent}}}})
	k := w.socket(t, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err := k.connect(netip.AddrPortFrom(vip4, 80)); err != unix.EINPROGRESS {
		t.Fatalf("connect: %v", err)
	}
	eventually(t, "the backend is ejected", func() bool { return state(t, s, "web").Backends[0].Ejected })
	if w.counter(t, "tcp_connect_timeout") == 0 {
		t.Error("not counted")
	}
}

// Who comes after a restart finds everything in place and goes on from it.
func TestAdopt(t *testing.T) {
	w, s := lbWorld(t)
	f := map[Frontend]string{}
	both(f, vip4, 80, "a")
	both(f, vip6, 80, "a6")
	both(f, vip4b, 80, "b")
	services := map[string]Service{
		"a":  {Policy: LeastRequest, Backends: backends(8080, back4...)},
		"a6": {Policy: Random, Backends: backends(8080, back6...)},
		"b":  {Policy: RoundRobin, Backends: []Backend{{Addr: netip.AddrPortFrom(back4[0], 0), Weight: 7}, {Addr: netip.AddrPortFrom(back4[1], 0), Weight: 3}}},
	}
	apply(t, s, f, services)
	k := w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	must(t, k.connect(netip.AddrPortFrom(vip4, 80)))
	before, indexes := fmt.Sprint(s.Dump()), fmt.Sprint(s.names)

	again, err := Ensure(w.options)
	must(t, err)
	defer func() { must(t, again.Close()) }()
	s2, err := again.Services()
	must(t, err)
	if c := apply(t, s2, f, services); c != (Changes{}) {
		t.Errorf("wrote %+v where nothing differs", c)
	}
	if after := fmt.Sprint(s2.Dump()); after != before {
		t.Errorf("after a restart\n%s, before\n%s", after, before)
	}
	if got := fmt.Sprint(s2.names); got != indexes {
		t.Errorf("indexes %s, want %s", got, indexes)
	}
	services["a"] = Service{Policy: LeastRequest, Backends: backends(8080, back4[:1]...)}
	if c := apply(t, s2, f, services); c != (Changes{Services: 1}) {
		t.Errorf("wrote %+v for one changed service", c)
	}
	services["a"] = Service{Policy: LeastRequest, Backends: backends(8080, back4...)}
	apply(t, s2, f, services)
	if n := sum(active(t, s2, "a")); n != 1 {
		t.Errorf("%d open connections, want the one there is", n)
	}
	k.close()
	if n := sum(active(t, s2, "a")); n != 0 {
		t.Errorf("%d open connections, want none", n)
	}
	if c := apply(t, s2, nil, nil); c.Frontends != len(f) || len(s2.Dump()) != 0 || len(s2.rows) != 0 {
		t.Errorf("wrote %+v, left %v", c, s2.Dump())
	}
}

// A number may pass to another address while old sockets live: they do not count against it.
func TestIncarnation(t *testing.T) {
	o := options(t)
	o.maxEntries = map[string]uint32{nodensMapBackends: 1, nodensMapBackendStates: 1}
	w := newWorldWith(t, o)
	w.enrol(t)
	s, err := w.Services()
	must(t, err)
	f := map[Frontend]string{}
	both(f, vip4, 80, "web")
	first, second := map[string]Service{"web": {Backends: backends(1, back4[0])}}, map[string]Service{"web": {Backends: backends(1, back4[1])}}
	apply(t, s, f, first)
	k, l := w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0), w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	must(t, k.connect(netip.AddrPortFrom(vip4, 80)))
	if _, err := s.Apply(f, second); err == nil || !strings.Contains(err.Error(), "map backends is full (1 rows") {
		t.Errorf("apply to a full map: %v", err)
	}
	if got := active(t, s, "web"); !slices.Equal(got, []uint32{1}) {
		t.Errorf("the service that could not be changed has %v connections, want [1]", got)
	}
	apply(t, s, f, map[string]Service{"web": {}})
	eventually(t, "the number is free", func() bool {
		_, err := s.Apply(f, second)
		return err == nil
	})
	must(t, l.connect(netip.AddrPortFrom(vip4, 80)))
	k.close()
	if got := active(t, s, "web"); !slices.Equal(got, []uint32{1}) {
		t.Errorf("open connections %v, want [1]", got)
	}
}

// A full map is an error with its name; what was there goes on, and there is room again after a delete.
func TestFull(t *testing.T) {
	o := options(t)
	o.maxEntries = map[string]uint32{nodensMapFrontends: 4}
	w := newWorldWith(t, o)
	w.enrol(t)
	s, err := w.Services()
	must(t, err)
	web := map[string]Service{"web": {Backends: backends(8080, back4...)}}
	f := map[Frontend]string{}
	both(f, vip4, 80, "web")
	apply(t, s, f, web)
	both(f, vip4b, 80, "web")
	if _, err := s.Apply(f, web); err == nil || !strings.Contains(err.Error(), "map frontends is full (4 rows)") {
		t.Errorf("apply to a full map: %v", err)
	}
	must(t, w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0).connect(netip.AddrPortFrom(vip4, 80)))
	for row := range f {
		if row.Addr == vip4 {
			delete(f, row)
		}
	}
	_, _ = s.Apply(f, web) // may find the map full still, but deletes
	if c := apply(t, s, f, web); c.Frontends > 2 {
		t.Errorf("wrote %+v", c)
	}
	must(t, w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0).connect(netip.AddrPortFrom(vip4b, 80)))
}

// One service that cannot be does not keep the others from being, nor a bad frontend.
func TestBadInput(t *testing.T) {
	_, s := lbWorld(t)
	f := map[Frontend]string{}
	both(f, vip4, 80, "good")
	f[Frontend{Addr: vip4, Port: 81, Protocol: TCP}] = "bad"
	f[Frontend{Addr: vip4, Port: 82, Protocol: TCP}] = "missing"
	f[Frontend{Addr: vip4, Port: 83}] = "good"
	f[Frontend{Port: 84, Protocol: TCP}] = "good"
	_, err := s.Apply(f, map[string]Service{"good": {Backends: backends(1, back4...)}, "bad": {Backends: make([]Backend, 1)}})
	for _, what := range []string{"service bad:", "service missing:", "Port:83", "Port:84"} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("the error does not tell of %q: %v", what, err)
		}
	}
	if got := state(t, s, "good"); len(got.Frontends) != 2 || len(got.Backends) != 3 {
		t.Errorf("the good service is %+v", got)
	}
}

func TestPool(t *testing.T) {
	no := func(uint32) bool { return false }
	now := time.Now()
	p := newPool("x", 10, no, func(i uint32) bool { return i >= 8 }, now)
	a, err := p.take(4, now)
	must(t, err)
	b, err := p.take(4, now)
	must(t, err)
	if _, err := p.take(1, now); err == nil {
		t.Error("gave a row that rests")
	}
	p.rest(a, now)
	p.rest(b, now)
	p.revive(a.base)
	if _, err := p.take(7, now.Add(pause)); err == nil {
		t.Error("gave more than there is in a row")
	}
	c, err := p.take(6, now.Add(pause))
	must(t, err)
	if c != (run{4, 6}) {
		t.Errorf("took %v, want the last six rows joined", c)
	}
}
