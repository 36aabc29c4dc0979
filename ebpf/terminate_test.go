package ebpf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

var (
	web   = netip.AddrPortFrom(vip4, 80)
	web6  = netip.AddrPortFrom(vip6, 80)
	other = netip.AddrPortFrom(vip4b, 80)
)

// leavers has servers and three services, each with a backend that can be taken away.
type leavers struct {
	*world
	*Services
	t         testing.TB
	frontends map[Frontend]string
	services  map[string]Service
}

func newLeavers(t testing.TB) *leavers {
	needSockDestroy(t)
	w, s := lbWorld(t)
	w.serveBackends(t)
	l := &leavers{world: w, Services: s, t: t, frontends: map[Frontend]string{}, services: map[string]Service{
		"web":   {Backends: backends(8080, back4[0])},
		"web6":  {Backends: backends(8080, back6[0])},
		"other": {Backends: backends(8080, back4[0])},
	}}
	both(l.frontends, vip4, 80, "web")
	both(l.frontends, vip6, 80, "web6")
	both(l.frontends, vip4b, 80, "other")
	l.apply()
	if m := <-s.Moves(); m != (Move{Came: true}) {
		t.Errorf("at the start they say %+v, want that some came", m)
	}
	return l
}

// needSockDestroy skips the test on kernels before the one that has it.
func needSockDestroy(t testing.TB) {
	t.Helper()
	if haveSockDestroy() {
		return
	}
	var u unix.Utsname
	must(t, unix.Uname(&u))
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil || major > 6 || major == 6 && minor >= 5 {
		t.Fatalf("Linux %s has no bpf_sock_destroy (%v)", release, err)
	}
	t.Skipf("Linux before 6.5: %s", release)
}

func (l *leavers) apply() { l.t.Helper(); apply(l.t, l.Services, l.frontends, l.services) }

// serve makes other backends than before those of a service.
func (l *leavers) serve(name string, addrs ...netip.Addr) {
	l.t.Helper()
	service := l.services[name]
	service.Backends = backends(8080, addrs...)
	l.services[name] = service
	l.apply()
}

// end lets a Terminator of that drain time do its work once.
func (l *leavers) end(drain time.Duration) Ended {
	l.t.Helper()
	terminator, err := l.Terminator(drain)
	must(l.t, err)
	defer func() { must(l.t, terminator.Close()) }()
	e, err := terminator.End(l.within)
	must(l.t, err)
	return e
}

func (l *leavers) within(netns uint64, f func() error) error {
	if netns != l.cookie {
		return fmt.Errorf("asked for the namespace of cookie %d", netns)
	}
	return l.pod.Do(f)
}

func (l *leavers) want(drain time.Duration, udp, tcp, draining int) {
	l.t.Helper()
	if e := l.end(drain); e.UDP != udp || e.TCP != tcp || e.Draining != draining || (e.Next > 0) != (draining > 0) {
		l.t.Errorf("ended %+v, want %d UDP and %d TCP sockets, %d draining", e, udp, tcp, draining)
	}
}

func (l *leavers) connected(domain, kind int, to netip.AddrPort) sock {
	l.t.Helper()
	k := l.socket(l.t, domain, kind, 0)
	must(l.t, k.connect(to))
	if kind == unix.SOCK_STREAM { // the server speaks first
		_, _, err := k.receive()
		must(l.t, err)
	}
	return k
}

// lives says whether a connected socket's peer still answers, or its connection is still open.
func (s sock) lives() error {
	kind, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return err
	}
	if kind == unix.SOCK_DGRAM {
		if _, err = unix.Write(s.fd, []byte("?")); err == nil {
			_, _, err = s.receive()
		}
		return err
	}
	_, _, err = unix.Recvfrom(s.fd, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if err == unix.EAGAIN {
		return nil
	}
	return errors.Join(err, errors.New("the connection is over"))
}

func (s sock) wantAlive(what string) {
	s.t.Helper()
	if err := s.lives(); err != nil {
		s.t.Errorf("%s: %v, want it to live", what, err)
	}
}

func (s sock) wantAborted(what string) {
	s.t.Helper()
	if _, _, err := unix.Recvfrom(s.fd, make([]byte, 1), unix.MSG_DONTWAIT); err != unix.ECONNABORTED {
		s.t.Errorf("%s: %v, want ECONNABORTED", what, err)
	}
}

const long = time.Hour // a drain time that does not end within a test

// A connected UDP socket whose backend has left learns it at once, also while it waits to read, whatever
// its family; it can connect anew.
func TestEndUDP(t *testing.T) {
	l := newLeavers(t)
	reader := l.connected(unix.AF_INET, unix.SOCK_DGRAM, web)
	idle := l.connected(unix.AF_INET, unix.SOCK_DGRAM, web)
	mapped := l.connected(unix.AF_INET6, unix.SOCK_DGRAM, web)
	six := l.connected(unix.AF_INET6, unix.SOCK_DGRAM, web6)
	woken := make(chan error)
	go func() {
		_, _, err := reader.receive()
		woken <- err
	}()
	l.want(long, 0, 0, 0)
	l.serve("web", back4[1])
	l.want(long, 3, 0, 0)
	if err := <-woken; err != unix.ECONNABORTED {
		t.Errorf("the blocked reader: %v, want ECONNABORTED", err)
	}
	if _, err := unix.Write(reader.fd, []byte("?")); err != unix.EDESTADDRREQ {
		t.Errorf("a write to nobody: %v, want EDESTADDRREQ", err)
	}
	mapped.wantAborted("the IPv4-mapped socket")
	six.wantAlive("IPv6, whose backend stays")

	must(t, idle.connect(web))
	if err := idle.lives(); err != unix.ECONNABORTED {
		t.Errorf("the first write after connecting anew: %v, want the ECONNABORTED that was pending", err)
	}
	idle.wantAlive("the second write")
	idle.expectPeer(web)
	must(t, reader.connect(web))
	reader.wantAlive("the reader, connected anew")

	l.serve("web6")
	l.want(long, 1, 0, 0)
	six.wantAborted("IPv6, whose backend has left and nobody has come")
	if n := l.counter(t, "udp_ended"); n != 4 {
		t.Errorf("%d are counted, want 4", n)
	}
	if n := sum(active(t, l.Services, "web")); n != 2 {
		t.Errorf("%d connections are counted, want the two made anew", n)
	}
}

func (s sock) expectPeer(want netip.AddrPort) {
	s.t.Helper()
	if s.peer() != want {
		s.t.Errorf("peer %s, want %s", s.peer(), want)
	}
}

// TCP has the drain time, and is spared if the backend comes back within; then it has all of it again.
func TestEndTCP(t *testing.T) {
	l := newLeavers(t)
	four := l.connected(unix.AF_INET, unix.SOCK_STREAM, web)
	mapped := l.connected(unix.AF_INET6, unix.SOCK_STREAM, web)
	six := l.connected(unix.AF_INET6, unix.SOCK_STREAM, web6)
	l.serve("web", back4[1])
	l.want(long, 0, 0, 2)
	four.wantAlive("TCP in its drain time")
	if l.left(four) == 0 {
		t.Error("it is not noted since when the backend is gone")
	}
	l.serve("web", back4[0], back4[2])
	l.want(0, 0, 0, 0)
	if l.left(four) != 0 {
		t.Error("a drain time runs on after the backend has come back")
	}
	l.serve("web")
	l.want(long, 0, 0, 2)
	l.want(0, 0, 2, 0)
	four.wantAborted("TCP after its drain time")
	mapped.wantAborted("IPv4-mapped TCP after its drain time")
	six.wantAlive("TCP to a backend that stays")
	delete(l.frontends, Frontend{Addr: vip6, Port: 80, Protocol: TCP})
	l.apply()
	l.want(0, 0, 1, 0)
	six.wantAborted("TCP to an address that stands for nothing any more")
	if n := l.counter(t, "tcp_ended"); n != 3 {
		t.Errorf("%d are counted, want 3", n)
	}
	l.want(0, 0, 0, 0)
}

// left is since when the kernel knows that a socket's backend has left.
func (l *leavers) left(k sock) uint32 {
	l.t.Helper()
	var s nodensSocket
	must(l.t, l.maps.Sockets.Lookup(int32(k.fd), &s))
	return s.Ring[0].Left
}

// Connections of a lasting service stay, and so do those to a backend that gets no new ones for now.
func TestEndNobody(t *testing.T) {
	l := newLeavers(t)
	l.services["web"] = Service{Backends: backends(8080, back4[0]), Lasting: true}
	l.services["other"] = Service{Backends: backends(8080, back4[0])}
	l.apply()
	udp, tcp := l.connected(unix.AF_INET, unix.SOCK_DGRAM, web), l.connected(unix.AF_INET, unix.SOCK_STREAM, web)
	resting := l.connected(unix.AF_INET, unix.SOCK_DGRAM, other)
	l.serve("web", back4[1])
	l.services["other"] = Service{Backends: backends(8080, back4[1]), Standby: []netip.AddrPort{netip.AddrPortFrom(back4[0], 8080)}}
	l.apply()
	l.want(0, 0, 0, 0)
	udp.wantAlive("UDP of a lasting service")
	tcp.wantAlive("TCP of a lasting service")
	resting.wantAlive("UDP to a backend on standby")
	l.services["other"] = Service{Backends: backends(8080, back4[1])}
	l.apply()
	l.want(0, 1, 0, 0)
	resting.wantAborted("UDP to a backend that has left from standby")
}

// A backend that is one of several hundred is found among them.
func TestEndLargeSet(t *testing.T) {
	l := newLeavers(t)
	many := make([]Backend, 600)
	for i := range many {
		many[i].Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, byte(100 + i>>8), byte(i)}), 8080)
	}
	l.services["web"] = Service{Policy: RoundRobin, Backends: many}
	l.apply()
	for range many {
		must(t, l.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0).connect(web))
	}
	l.services["web"] = Service{Policy: RoundRobin, Backends: slices.Concat(many[10:300], many[301:])}
	l.apply()
	l.want(long, 11, 0, 0)
	l.want(long, 0, 0, 0)
}

// Whoever comes after a restart ends what the one before had left draining, and what left in between.
func TestEndAfterRestart(t *testing.T) {
	l := newLeavers(t)
	draining := l.connected(unix.AF_INET, unix.SOCK_STREAM, web)
	udp := l.connected(unix.AF_INET, unix.SOCK_DGRAM, other)
	l.serve("web", back4[1])
	l.want(long, 0, 0, 1)
	since := l.left(draining)
	l.serve("other", back4[1])

	again, err := Ensure(l.options)
	must(t, err)
	defer func() { must(t, again.Close()) }()
	old := l.Datapath
	l.Datapath = again
	defer func() { l.Datapath = old }()
	l.want(long, 1, 0, 1)
	udp.wantAborted("UDP from before the restart")
	if l.left(draining) != since {
		t.Error("the drain time has begun anew")
	}
	l.want(0, 0, 1, 0)
	draining.wantAborted("TCP from before the restart")
}

// Only namespaces where something is due are entered, however many sockets others have; one that cannot
// be entered does not keep the others from being served.
func TestEndEntersFew(t *testing.T) {
	l := newLeavers(t)
	crowd := sandbox.Netns(t)
	cookie, err := crowd.Cookie()
	must(t, err)
	must(t, l.PutPod(cookie, Pod{LB: true, Addr4: pod4}))
	for range 500 {
		k := socketIn(t, crowd, unix.AF_INET, unix.SOCK_DGRAM, 0)
		must(t, unix.Connect(k.fd, k.sockaddr(netip.MustParseAddrPort("127.0.0.1:9"))))
	}
	mine := l.connected(unix.AF_INET, unix.SOCK_DGRAM, web)
	l.serve("web", back4[1])
	l.want(long, 1, 0, 0) // within fails for any other namespace
	mine.wantAborted("the one")

	terminator, err := l.Terminator(0)
	must(t, err)
	defer func() { must(t, terminator.Close()) }()
	must(t, mine.connect(web))
	l.serve("web", back4[2])
	e, err := terminator.End(func(uint64, func() error) error { return errors.New("closed today") })
	if e != (Ended{}) || err == nil || !strings.Contains(err.Error(), "closed today") || !strings.Contains(err.Error(), fmt.Sprint(l.cookie)) {
		t.Errorf("ended %+v, %v; want an error that names the namespace", e, err)
	}
	l.want(long, 1, 0, 0)
}

// What ends sockets is loaded by itself: a kernel without it has all the rest.
func TestTerminatorIsApart(t *testing.T) {
	all, err := loadNodens()
	must(t, err)
	attached, err := Options{}.spec()
	must(t, err)
	if len(attached.Programs) != len(hooks) || len(all.Programs) != len(hooks)+len(iterators)+len(answerers) {
		t.Errorf("%d programs are loaded of %d, want the %d of the hooks", len(attached.Programs), len(all.Programs), len(hooks))
	}
	d := ensure(t, options(t))
	terminator, err := d.Terminator(0)
	if err == nil {
		must(t, terminator.Close())
	}
	i := slices.IndexFunc(d.Features(), func(f Feature) bool { return f.Name == "ends" })
	if i < 0 || d.Features()[i].Present != (err == nil) {
		t.Errorf("features %+v, and loading it says %v", d.Features(), err)
	}
}
