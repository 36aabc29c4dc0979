package serve

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// take opens a UDPSocket on loopback.
func take(t testing.TB) *UDPSocket {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	u, err := TakeUDP(conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	return u
}

// However much waits in one socket, the next has its turn after a batch.
func TestTurnsAreShort(t *testing.T) {
	s, u := newServer(table()), take(t)
	d := &datagrams{service: s.newService(client(), "udp", &u.descriptor), udp: u}
	conn, err := net.Dial("udp", u.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	packed, _ := question("api.partner.test.", dns.TypeA).Pack()
	const flood = 3*batchSize + 1
	for range flood {
		if _, err := conn.Write(packed); err != nil {
			t.Fatal(err)
		}
	}
	b := newBatch()
	for i, want := range []uint64{batchSize, 2 * batchSize, 3 * batchSize, flood, flood} {
		if _, asking, err := d.turn(b, nil); asking > 0 || err != nil {
			t.Fatalf("turn %d: asking %v, %v", i, asking, err)
		}
		if got := s.Stats().UDP; got != want {
			t.Errorf("%d queries answered after %d turns, want %d", got, i+1, want)
		}
	}
	buf := make([]byte, maxQuery)
	for range flood {
		if _, err := conn.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
}

// The kernel says of a connected socket that nobody is at the other end; nothing else makes one fail so
// easily.
func TestBrokenSocketEndsAlone(t *testing.T) {
	s := newServer(table())
	addr := start(t, s, client())
	gone := take(t)
	conn, err := net.Dial("udp", gone.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	u, err := TakeUDP(conn.(*net.UDPConn))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = u.Close() }()
	_ = gone.Close()
	if err := u.Control(func(fd uintptr) error { return unix.Send(int(fd), []byte("hello"), 0) }); err != nil {
		t.Fatal(err)
	}
	if err := serveUDP(s, u, client()); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("serving a broken socket ended with %v", err)
	}
	exchange(t, "udp", addr, question("api.partner.test.", dns.TypeA))
}

// Pods come and go while others ask; who is there is answered.
func TestSocketsComeAndGo(t *testing.T) {
	s := newServer(table())
	addr := start(t, s, client())
	packed, _ := question("api.partner.test.", dns.TypeA).Pack()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50 {
				u := take(t)
				done := make(chan error)
				s.ServeUDP(u, client(), func(err error) { done <- err })
				if raw(t, u.Addr().String(), packed, patience) == nil {
					t.Error("a new socket is not answered on")
				}
				_ = u.Close()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() {
		for range 200 {
			if raw(t, addr, packed, patience) == nil {
				t.Error("a socket that stays is not answered on")
			}
		}
	})
	all.Wait()
}

// Whatever moment a socket is taken out in, while it rests or begins to be read again, it is out of the set.
func TestRemovedSocketIsNotWaitedFor(t *testing.T) {
	l, err := newLoop(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	s := newServer(nil)
	for range 200 {
		u := take(t)
		d := &datagrams{service: s.newService(client(), "udp", &u.descriptor), udp: u}
		id, err := l.add(d)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.watch(id, unix.EPOLL_CTL_DEL); err != nil {
			t.Fatal(err)
		}
		u.mu.Lock() // both may find it there, and then go on in either order
		var both sync.WaitGroup
		for _, f := range []func(){func() { _ = l.watch(id, unix.EPOLL_CTL_ADD) }, func() { l.remove(id) }} {
			both.Go(f)
			for range 10 {
				runtime.Gosched()
			}
		}
		u.mu.Unlock()
		both.Wait()
		err = u.Control(func(fd uintptr) error { return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, int(fd), nil) })
		if !errors.Is(err, unix.ENOENT) {
			t.Fatalf("it is still waited for: %v", err)
		}
		_ = u.Close()
	}
}

// A socket that has rested and cannot be waited for any more ends, for somebody to see, unless that passes.
func TestNoSocketRestsForGood(t *testing.T) {
	l, err := newLoop(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	u := take(t)
	d := &datagrams{service: newServer(nil).newService(client(), "udp", &u.descriptor), udp: u}
	ended := make(chan error, 1)
	d.self, d.ended, d.loosen = d, func(err error) { ended <- err }, func() bool { return true }
	id, err := l.add(d)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	l.resting = []resting{{id, now}, {id + 1, now}, {id, now.Add(time.Second)}} // the second is gone
	epoll := l.epoll
	l.epoll = l.wake // which is no set
	l.resume(now)
	l.epoll = epoll
	if len(l.resting) != 1 || l.find(id) != nil {
		t.Fatalf("resting %v", l.resting)
	}
	if err := <-ended; !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
}

// A process that has no descriptor left for another loop has one that serves.
func TestLoopsThereAreServeWhatNoOtherCan(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2 * maxLoops))
	s := newServer(table())
	start(t, s, client())
	u := take(t)
	d := &datagrams{service: s.newService(client(), "udp", &u.descriptor), udp: u}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	l, id, err := s.loops.enter(d)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.remove(id)
	s.loops.leave(l)
}

// The sockets of UDP, which have the work, are spread over the loops there are, and so are those of TCP.
func TestLoopsShareTheSockets(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2 * maxLoops))
	s := newServer(table())
	for range 2 * maxLoops {
		start(t, s, client())
	}
	s.loops.mu.Lock()
	defer s.loops.mu.Unlock()
	for _, l := range s.loops.all {
		if l.kinds["udp"] != 2 || l.kinds["tcp"] != 2 {
			t.Errorf("one of %d loops has %v", len(s.loops.all), l.kinds)
		}
	}
}

func TestLoopsGoWithTheirSockets(t *testing.T) {
	s := newServer(nil)
	t.Run("serve", func(t *testing.T) {
		for range 2 * maxLoops {
			start(t, s, client())
		}
		eventually(t, "there are loops", func() bool {
			s.loops.mu.Lock()
			defer s.loops.mu.Unlock()
			return len(s.loops.all) > 0 && len(s.loops.all) <= maxLoops
		})
	})
	if len(s.loops.all) != 0 {
		t.Errorf("%d loops are left", len(s.loops.all))
	}
}
