package ebpf

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Nobody else's: whoever goes to the same backend by itself, or for another service, or has gone
// elsewhere since; listeners, the server's side, pods that are not enrolled.
func TestEndNobodyElses(t *testing.T) {
	l := newLeavers(t)
	direct := netip.AddrPortFrom(back4[0], 8080)
	spared := map[string]sock{}
	for name, kind := range map[string]int{"udp": unix.SOCK_DGRAM, "tcp": unix.SOCK_STREAM} {
		spared[name+", direct"] = l.connected(unix.AF_INET, kind, direct)
		spared[name+", direct and mapped"] = l.connected(unix.AF_INET6, kind, direct)
		spared[name+", for another service"] = l.connected(unix.AF_INET, kind, other)
	}
	moved := l.connected(unix.AF_INET, unix.SOCK_DGRAM, web)
	must(t, moved.connect(netip.AddrPortFrom(back4[1], 8080)))
	spared["udp, gone elsewhere"] = moved
	back := l.connected(unix.AF_INET, unix.SOCK_DGRAM, web)
	must(t, back.connect(direct))
	spared["udp, gone to the same backend by itself"] = back

	// Disconnected, and sending without being connected, from a port that is theirs.
	free := l.connected(unix.AF_INET, unix.SOCK_DGRAM, web)
	must(t, disconnect(free.fd))
	must(t, unix.Bind(free.fd, &unix.SockaddrInet4{}))
	loose := l.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	loose6 := l.socket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	for _, k := range []sock{free, loose, loose6} {
		must(t, k.sendto(web))
		k.expect(back4[0].String(), web)
	}
	ports := []int{port(t, free), port(t, loose), port(t, loose6)}

	l.serve("web", back4[1])
	l.want(0, 0, 0, 0)
	for name, k := range spared {
		k.wantAlive(name)
	}
	for i, k := range []sock{free, loose, loose6} {
		if port(t, k) != ports[i] {
			t.Errorf("the port of socket %d changed from %d to %d", i, ports[i], port(t, k))
		}
		must(t, k.sendto(web))
		k.expect(back4[1].String(), web)
	}

	gone := l.connected(unix.AF_INET, unix.SOCK_DGRAM, web)
	must(t, l.DeletePod(l.cookie))
	l.serve("web", back4[2])
	l.want(0, 0, 0, 0)
	gone.wantAlive("udp of a pod that is not enrolled any more")
}

// disconnect undoes a connect(), connect(2).
func disconnect(fd int) error {
	var nobody unix.RawSockaddrAny // AF_UNSPEC
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&nobody)), unix.SizeofSockaddrAny); errno != 0 {
		return errno
	}
	return nil
}

func port(t testing.TB, k sock) int {
	t.Helper()
	sa, err := unix.Getsockname(k.fd)
	must(t, err)
	return int(addrPort(sa).Port())
}

// The same address can be another service in another pod; each pod's sockets are judged by what they see.
func TestEndInView(t *testing.T) {
	l := newLeavers(t)
	l.frontends[Frontend{Addr: vip4, Port: 80, Protocol: UDP, View: ViewOf("shop")}] = "shop"
	l.services["shop"] = Service{Backends: backends(8080, back4[0])}
	l.apply()
	k := l.connected(unix.AF_INET, unix.SOCK_DGRAM, web)
	l.serve("web", back4[1])
	l.want(0, 0, 0, 0)
	l.serve("shop", back4[1])
	l.want(0, 1, 0, 0)
	k.wantAborted("the shop's socket")
}

// An MPTCP connection to a server that speaks TCP ends like any other. One that is MPTCP on both sides
// has lost its only path, and ends when the kernel has waited for another: close_timeout, a minute.
func TestEndMultipath(t *testing.T) {
	l := newLeavers(t)
	must(t, l.pod.Do(func() error { return os.WriteFile("/proc/sys/net/mptcp/close_timeout", []byte("1"), 0) }))
	must(t, l.net.Do(func() error {
		var multipath net.ListenConfig
		multipath.SetMultipathTCP(true)
		ln, err := multipath.Listen(t.Context(), "tcp", netip.AddrPortFrom(back4[0], 8081).String())
		if err == nil {
			t.Cleanup(func() { _ = ln.Close() })
			go func() {
				for conn, err := ln.Accept(); err == nil; conn, err = ln.Accept() {
					_, _ = conn.Write([]byte("hello"))
					t.Cleanup(func() { _ = conn.Close() })
				}
			}()
		}
		return err
	}))
	l.services["other"] = Service{Backends: backends(8081, back4[0])}
	l.apply()
	var all []sock
	for _, to := range []netip.AddrPort{web, other} {
		k := l.socket(t, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
		must(t, k.connect(to))
		_, _, err := k.receive()
		must(t, err)
		all = append(all, k)
	}
	l.serve("web", back4[1])
	l.serve("other", back4[1])
	l.want(long, 0, 0, 2)
	l.want(0, 0, 2, 0)
	all[0].wantAborted("MPTCP to a server that speaks TCP")
	eventually(t, "MPTCP ends", func() bool { return all[1].lives() != nil })
	if n := sum(active(t, l.Services, "web")) + sum(active(t, l.Services, "other")); n != 0 {
		t.Errorf("%d connections are counted, want none", n)
	}
}

// A backend's number may pass to another address before its sockets end: they do not count against it.
func TestEndWithNumberReused(t *testing.T) {
	needSockDestroy(t)
	o := options(t)
	o.maxEntries = map[string]uint32{nodensMapBackends: 1, nodensMapBackendStates: 1}
	w := newWorldWith(t, o)
	w.enrol(t)
	s, err := w.Services()
	must(t, err)
	l := &leavers{world: w, Services: s, t: t, frontends: map[Frontend]string{}, services: map[string]Service{}}
	both(l.frontends, vip4, 80, "web")
	l.serve("web", back4[0])
	old := l.connected(unix.AF_INET, unix.SOCK_DGRAM, web)
	l.serve("web")
	l.services["web"] = Service{Backends: backends(8080, back4[1])}
	eventually(t, "the number is free", func() bool {
		_, err := s.Apply(l.frontends, l.services)
		return err == nil
	})
	l.connected(unix.AF_INET, unix.SOCK_DGRAM, web)
	l.want(long, 1, 0, 0)
	old.wantAborted("the former's socket")
	if got := active(t, s, "web"); !slices.Equal(got, []uint32{1}) {
		t.Errorf("open connections %v, want [1]", got)
	}
}
