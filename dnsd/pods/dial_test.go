package pods

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/conformance/sandbox"
	"github.com/nodens-dns/nodens/ebpf"
)

// A pod goes while its queries leave: each either gets a connection or hears that there is none any
// more, and nobody uses a descriptor that is somebody else's by then.
func TestClosedWhileDialling(t *testing.T) {
	sandbox.Root(t)
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	for range 100 {
		inside, _, err := home()
		if err != nil {
			t.Fatal(err)
		}
		outside, _, err := home()
		if err != nil {
			t.Fatal(err)
		}
		d := newDialer(namespace{pod: inside, home: outside})
		var dialling sync.WaitGroup
		for i := range 8 {
			dialling.Go(func() {
				c, err := d.DialContext(t.Context(), "udp", server.LocalAddr().String())
				switch {
				case err == nil:
					_ = c.Close()
				case !errors.Is(err, net.ErrClosed):
					t.Error(err)
				}
				if i == 4 {
					d.close()
				}
			})
		}
		dialling.Wait()
		_ = outside.Close()
	}
}

// Sockets that were lent are in the pod's namespace and marked. When the pod goes, who has them is told, and
// nothing of them is left once he has closed them.
func TestLentSockets(t *testing.T) {
	sandbox.Root(t)
	ns := sandbox.Netns(t)
	inside, err := netns.GetFromPath(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	outside, own, err := home()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = outside.Close() }()
	d := newDialer(namespace{pod: inside, home: outside})
	var fds [3]int
	if n, err := d.OpenUDP(unix.AF_INET, fds[:]); n != len(fds) || err != nil {
		t.Fatalf("%d sockets, %v", n, err)
	}
	for _, fd := range fds {
		mark, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
		cookie, err2 := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		if err != nil || err2 != nil || mark != int(ebpf.Mark) || cookie == own {
			t.Errorf("mark %x (%v), in the node's namespace: %v (%v)", mark, err, cookie == own, err2)
		}
	}
	if _, cookie, err := home(); err != nil || cookie != own {
		t.Errorf("did not come back: %v", err)
	}
	d.close()
	for _, fd := range fds {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		if n, err := unix.Poll(poll, 0); n != 1 || err != nil || poll[0].Revents&unix.POLLHUP == 0 {
			t.Errorf("not told: %v, %v", poll, err)
		}
		number := inode(fd)
		d.CloseUDP(fd)
		if inode(fd) == number {
			t.Error("still open")
		}
	}
	if n, err := d.OpenUDP(unix.AF_INET, fds[:]); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("made %d sockets for a pod that is gone: %v", n, err)
	}
}

// Whoever is in the pod's namespace for long keeps nobody else from it, nor the pod from going, and is in it
// until the end.
func TestNobodyWaitsForWhoIsWithin(t *testing.T) {
	sandbox.Root(t)
	ns := sandbox.Netns(t)
	inside, err := netns.GetFromPath(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	outside, _, err := home()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = outside.Close() }()
	number := inode(int(inside))
	d := newDialer(namespace{pod: inside, home: outside})
	entered, others, left := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		left <- d.within(func() error {
			close(entered)
			<-others
			if inode(int(inside)) != number {
				return errors.New("another file has its descriptor, or none")
			}
			return nil
		})
	}()
	<-entered
	done := make(chan struct{})
	go func() {
		defer close(done)
		var fds [2]int
		if n, err := d.OpenUDP(unix.AF_INET, fds[:]); n != len(fds) || err != nil {
			t.Errorf("%d sockets, %v", n, err)
		}
		d.close()
		for _, fd := range fds {
			d.CloseUDP(fd)
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("they wait")
	}
	close(others)
	if err := <-left; err != nil {
		t.Errorf("the namespace was closed under who is in it: %v", err)
	}
	if inode(int(inside)) == number {
		t.Error("still open")
	}
}

// inode is that of the file behind a descriptor, which may be another's by now; 0 if there is none.
func inode(fd int) uint64 {
	var file unix.Stat_t
	_ = unix.Fstat(fd, &file)
	return file.Ino
}

// What one pod may have learnt wrongly is not another's, unless they are in one network and one namespace.
func TestScope(t *testing.T) {
	of := func(network, namespace, id string) string {
		return scope(attach.Attachment{Network: network, PodNamespace: namespace, ContainerID: id, IfName: "eth0"})
	}
	if of("net", "shop", "1") != of("net", "shop", "2") {
		t.Error("two pods of a namespace share nothing")
	}
	seen := map[string]bool{}
	for _, s := range []string{of("net", "shop", "1"), of("net", "bank", "1"), of("other", "shop", "1"), of("net", "", "1"), of("net", "", "2"), of("net", "", "shop")} {
		if seen[s] {
			t.Errorf("%q is the scope of two", s)
		}
		seen[s] = true
	}
}
