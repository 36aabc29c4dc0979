package ebpf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

// The outside world's addresses, all on one link with the pod's.
var (
	pod4, pod6  = netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("fd77::2")
	ns4a, ns4b  = netip.MustParseAddr("10.77.53.1"), netip.MustParseAddr("10.77.53.2")
	ns6         = netip.MustParseAddr("fd77::53")
	other4      = netip.MustParseAddr("10.77.53.9") // a DNS server that is not the pod's
	back4       = []netip.Addr{netip.MustParseAddr("10.77.1.1"), netip.MustParseAddr("10.77.1.2"), netip.MustParseAddr("10.77.1.3")}
	back6       = []netip.Addr{netip.MustParseAddr("fd77::1:1"), netip.MustParseAddr("fd77::1:2"), netip.MustParseAddr("fd77::1:3")}
	vip4, vip4b = netip.MustParseAddr("240.240.0.1"), netip.MustParseAddr("240.240.0.2")
	vip6        = netip.MustParseAddr("2001:2::1")
)

// world is a pod, a network around it and a datapath in a cgroup that holds this process.
type world struct {
	*Datapath
	options  Options
	pod, net *sandbox.NS
	cookie   uint64
}

func options(t testing.TB) Options {
	sandbox.Root(t)
	return Options{CgroupPath: sandbox.Cgroup(t), PinPath: sandbox.Pins(t)}
}

func ensure(t testing.TB, o Options) *Datapath {
	t.Helper()
	d, err := Ensure(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Remove(o); err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldWith(t, options(t))
}

func newWorldWith(t testing.TB, o Options) *world {
	t.Helper()
	w := &world{options: o, Datapath: ensure(t, o), pod: sandbox.Netns(t), net: sandbox.Netns(t)}
	outside := []string{}
	for _, a := range append([]netip.Addr{ns4a, ns4b, other4, ns6}, append(back4, back6...)...) {
		outside = append(outside, fmt.Sprintf("%s/%d", a, map[bool]int{true: 16, false: 64}[a.Is4()]))
	}
	must(t, sandbox.Veth("eth0", w.pod, []string{pod4.String() + "/16", pod6.String() + "/64"}, w.net, outside))
	var err error
	if w.cookie, err = w.pod.Cookie(); err != nil {
		t.Fatal(err)
	}
	return w
}

// enrol makes the pod's row, with the link's index and everything on.
func (w *world) enrol(t testing.TB, nameservers ...Nameserver) {
	t.Helper()
	must(t, w.PutPod(w.cookie, Pod{Ifindex: w.ifindex(t, "eth0"), Addr4: pod4, Addr6: pod6, DNS: true, LB: true,
		View: ViewOf("shop"), Nameservers: nameservers}))
}

func (w *world) ifindex(t testing.TB, name string) uint32 {
	t.Helper()
	var index int
	must(t, w.pod.Do(func() error {
		i, err := net.InterfaceByName(name)
		if err == nil {
			index = i.Index
		}
		return err
	}))
	return uint32(index)
}

// listen opens the UDP and TCP listener of the pod's i-th nameserver and answers from them.
func (w *world) listen(t testing.TB, i int, addr netip.Addr, port uint16) (close func()) {
	t.Helper()
	at := netip.AddrPortFrom(addr, port)
	udp, tcp := serve(t, w.pod, "dnsd"+fmt.Sprint(i), at)
	for proto, conn := range map[Protocol]syscall.Conn{UDP: udp, TCP: tcp} {
		raw, err := conn.SyscallConn()
		must(t, err)
		var put error
		must(t, raw.Control(func(fd uintptr) { put = w.PutListener(w.cookie, i, proto, fd) }))
		must(t, put)
	}
	return func() { _, _ = udp.Close(), tcp.Close() }
}

// serve answers every datagram and every connection at an address with a name.
func serve(t testing.TB, ns *sandbox.NS, name string, at netip.AddrPort) (*net.UDPConn, *net.TCPListener) {
	t.Helper()
	var udp *net.UDPConn
	var tcp *net.TCPListener
	must(t, ns.Do(func() (err error) {
		if udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); err != nil {
			return err
		}
		var plain net.ListenConfig
		plain.SetMultipathTCP(false) // the kernel takes no MPTCP socket for a listener
		ln, err := plain.Listen(t.Context(), "tcp", at.String())
		if err == nil {
			tcp = ln.(*net.TCPListener)
		}
		return err
	}))
	t.Cleanup(func() { _, _ = udp.Close(), tcp.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			_, from, err := udp.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = udp.WriteToUDPAddrPort([]byte(name), from)
			}
		}
	}()
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(name))
			go func() {
				_, _ = conn.Read(make([]byte, 1)) // until the client is done
				_ = conn.Close()
			}()
		}
	}()
	return udp, tcp
}

// sock is a raw socket of the pod, so that a test decides about every system call itself.
type sock struct {
	t      testing.TB
	fd     int
	domain int
}

func (w *world) socket(t testing.TB, domain, kind, proto int) sock {
	t.Helper()
	return socketIn(t, w.pod, domain, kind, proto)
}

func socketIn(t testing.TB, ns *sandbox.NS, domain, kind, proto int) sock {
	t.Helper()
	s := sock{t: t, domain: domain}
	must(t, ns.Do(func() (err error) {
		s.fd, err = unix.Socket(domain, kind|unix.SOCK_CLOEXEC, proto)
		return err
	}))
	tv := unix.NsecToTimeval((2 * time.Second).Nanoseconds())
	must(t, unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	must(t, unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv))
	t.Cleanup(s.close)
	return s
}

// close may be called again.
func (s *sock) close() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
	}
	s.fd = -1
}

func (s sock) sockaddr(a netip.AddrPort) unix.Sockaddr {
	if s.domain == unix.AF_INET {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// connect goes on after a signal, as Go sends itself on a busy machine.
func (s sock) connect(to netip.AddrPort) error {
	err := unix.Connect(s.fd, s.sockaddr(to))
	if err != unix.EINTR {
		return err
	}
	for {
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}, 20_000); err == unix.EINTR {
			continue
		} else if err != nil || n == 0 {
			return errors.Join(unix.ETIMEDOUT, err)
		}
		errno, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			err = unix.Errno(errno)
		}
		return err
	}
}

func (s sock) sendto(to netip.AddrPort) error { return s.sendBytes([]byte("?"), to) }

func (s sock) sendBytes(b []byte, to netip.AddrPort) error {
	return unix.Sendto(s.fd, b, 0, s.sockaddr(to))
}

// receive reads a reply and its source, unmapped.
func (s sock) receive() (string, netip.AddrPort, error) {
	buf := make([]byte, 512)
	n, from, err := unix.Recvfrom(s.fd, buf, 0)
	for err == unix.EINTR {
		n, from, err = unix.Recvfrom(s.fd, buf, 0)
	}
	if err != nil {
		return "", netip.AddrPort{}, err
	}
	return string(buf[:n]), addrPort(from), nil
}

func (s sock) peer() netip.AddrPort {
	s.t.Helper()
	sa, err := unix.Getpeername(s.fd)
	must(s.t, err)
	return addrPort(sa)
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// expect reads one reply and compares it and its source.
func (s sock) expect(answer string, from netip.AddrPort) {
	s.t.Helper()
	got, source, err := s.receive()
	if err != nil {
		s.t.Fatalf("no reply from %s: %v", from, err)
	}
	if got != answer || source.IsValid() && source != from {
		s.t.Errorf("%q from %s, want %q from %s", got, source, answer, from)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition to come true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func (w *world) counter(t testing.TB, name string) uint64 {
	t.Helper()
	all, err := w.Counters()
	must(t, err)
	n, ok := all[name]
	if !ok {
		t.Fatalf("no counter %q among %v", name, all)
	}
	return n
}
