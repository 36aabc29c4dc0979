package pods

import (
	"errors"
	"net"
	"os"
	"reflect"
	"sync"
	"testing"

	"github.com/nodens-dns/nodens/cni/attach"
)

// relieve starts another dnsd that inherits all that the running one has, and lets that one go when the new
// one has settled. during, if not nil, is called while nobody owns the pods.
func (n *node) relieve(during func()) {
	n.t.Helper()
	old, freeze := n.pods, n.freeze
	o := n.options
	var err error
	o.Doorbell, err = old.Doorbell()
	n.must(err)
	freeze()
	o.Inherited, err = old.Sockets()
	n.must(err)
	if during != nil {
		during()
	}
	settled := make(chan struct{})
	o.Settled = func() { close(settled) }
	n.launch(o)
	next := n.pods
	<-settled
	old.Retire(func(s Socket) {
		if !next.Resume(s) {
			n.t.Errorf("%+v has nowhere to go", s)
		}
	})
}

// asker asks for our name on one connection, as fast as it is answered, until told to stop.
func (n *node) asker(conn net.Conn, until <-chan struct{}, what string) (asked int) {
	defer func() { _ = conn.Close() }()
	for ; ; asked++ {
		select {
		case <-until:
			return asked
		default:
		}
		if got, err := query(conn, "vip.example.com."); err != nil || got != ours {
			n.t.Errorf("%s, query %d: %v, %v", what, asked, got, err)
			return asked
		}
	}
}

// A bell that was inherited goes with the Pods, also when they never ran.
func TestCloseBeforeTheBellHangs(t *testing.T) {
	n := newNode(t)
	bell, other, err := os.Pipe()
	n.must(err)
	defer func() { _ = other.Close() }()
	o := n.options
	o.Doorbell = bell
	New(o).Close()
	if err := bell.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("it was open: %v", err)
	}
}

func TestPodNeverNoticesTheNextDnsd(t *testing.T) {
	n := newNode(t)
	n.start()
	ns, a := n.pod("web-0")
	n.must(n.add(a))
	row := n.rows()[a.NetnsCookie]

	done := make(chan struct{})
	var clients sync.WaitGroup
	for _, network := range []string{"udp", "tcp"} {
		for _, at := range []string{"10.96.0.10:53", "[fd96::10]:53"} {
			conn, err := dial(ns, network, at)
			n.must(err)
			clients.Go(func() {
				if n.asker(conn, done, network+" "+at) == 0 {
					t.Errorf("%s %s asked nothing", network, at)
				}
			})
		}
	}
	clients.Go(func() { // a socket for each query
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			network := []string{"udp", "tcp"}[i%2]
			if got, err := ask(ns, network, "10.96.0.10:53", "vip.example.com."); err != nil || got != ours {
				t.Errorf("a new %s socket, query %d: %v, %v", network, i, got, err)
				return
			}
		}
	})
	for i := range 10 {
		n.relieve(nil)
		n.wait(a, Captured, "")
		if now := n.rows()[a.NetnsCookie]; !reflect.DeepEqual(now, row) {
			t.Errorf("the row after change %d is %+v, was %+v", i, now, row)
		}
		n.must(n.ring(attach.OpCheck, a.Key()))
	}
	close(done)
	clients.Wait()
	n.del(a)
	n.threads(a)
}

// Pods that come and go while nobody owns them wait for the next dnsd, and no longer.
func TestRingsWaitForTheNextDnsd(t *testing.T) {
	n := newNode(t)
	n.start()
	gone, a := n.bare("goes")
	n.must(n.add(a))
	_, b := n.bare("comes")
	rings := make(chan error, 2)
	n.relieve(func() {
		n.must(attach.Remove(n.options.Dir, a.Key()))
		n.write(b)
		go func() { rings <- n.ring(attach.OpDel, a.Key()) }()
		go func() { rings <- n.ring(attach.OpAdd, b.Key()) }()
	})
	n.must(errors.Join(<-rings, <-rings))
	n.wait(b, Captured, "")
	if p := n.find(a); p.State != "" {
		t.Errorf("the pod that went is %s", p.State)
	}
	if _, ok := n.rows()[a.NetnsCookie]; ok {
		t.Error("the row of the pod that went is there")
	}
	n.threads(a)
	if err := ask53(gone); err == nil {
		t.Error("somebody listens in the pod that went")
	}
}

// ask53 connects to a nameserver from a pod that has only lo.
func ask53(ns interface{ Do(func() error) error }) error {
	return ns.Do(func() error {
		conn, err := net.Dial("tcp", "10.96.0.10:53")
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
}

// What cannot be used of an inheritance is replaced.
func TestInheritanceThatDoesNotFit(t *testing.T) {
	n := newNode(t)
	n.start()
	ns, a := n.pod("web-0")
	n.must(n.add(a))
	old, freeze := n.pods, n.freeze
	freeze()
	sockets, err := old.Sockets()
	n.must(err)
	for i := range sockets {
		switch sockets[i].Kind {
		case TCP: // each stands for another nameserver than its UDP half
			sockets[i].Nameserver = a.DNS.Nameservers[(1+len(sockets)-i)%2]
		default:
		}
	}
	sockets[0].Key.ContainerID = "unknown"
	o := n.options
	o.Inherited = sockets
	old.Close()
	n.launch(o)
	n.wait(a, Captured, "")
	for _, network := range []string{"udp", "tcp"} {
		for _, at := range []string{"10.96.0.10:53", "[fd96::10]:53"} {
			if got, err := ask(ns, network, at, "vip.example.com."); err != nil || got != ours {
				t.Errorf("%s %s: %v, %v", network, at, got, err)
			}
		}
	}
}

// A socket that has failed in the middle of everything does not hold up the others.
func TestSocketsButThoseThatHaveFailed(t *testing.T) {
	n := newNode(t)
	n.start()
	_, a := n.pod("web-0")
	n.must(n.add(a))
	n.freeze()
	all, err := n.pods.Sockets()
	n.must(err)
	closeAll(all)
	n.must(n.pods.pods[a.Key()].listeners[0].udp.Close())
	rest, err := n.pods.Sockets()
	n.must(err)
	closeAll(rest)
	if len(rest) != len(all)-2 {
		t.Errorf("of %d sockets %d are handed over", len(all), len(rest))
	}
	n.pods.Close()
}

// A dead socket where the bell should be is replaced.
func TestBellThatIsAnothers(t *testing.T) {
	n := newNode(t)
	n.start()
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: n.options.Bell + ".dead", Net: "unix"})
	n.must(err)
	dead.SetUnlinkOnClose(false)
	n.must(dead.Close())
	n.must(os.Rename(n.options.Bell+".dead", n.options.Bell))
	_, a := n.pod("web-0")
	n.eventually("the bell is heard again", func() error { return n.ring(attach.OpDel, a.Key()) })
}
