package pods

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/conformance/sandbox"
	"github.com/nodens-dns/nodens/ebpf"
)

// flaky is the real kernel half, with some writes that do not happen.
type flaky struct {
	*ebpf.Datapath
	rows, listeners, deletes atomic.Bool // what fails
}

var errInjected = errors.New("injected")

func (f *flaky) PutPod(cookie uint64, p ebpf.Pod) error {
	if f.rows.Load() {
		return errInjected
	}
	return f.Datapath.PutPod(cookie, p)
}

func (f *flaky) PutListener(cookie uint64, i int, proto ebpf.Protocol, fd uintptr) error {
	if f.listeners.Load() {
		return errInjected
	}
	return f.Datapath.PutListener(cookie, i, proto, fd)
}

func (f *flaky) DeletePod(cookie uint64) error {
	if f.deletes.Load() {
		return errInjected
	}
	return f.Datapath.DeletePod(cookie)
}

func TestKernelThatRefuses(t *testing.T) {
	n := newNode(t)
	kernel := &flaky{Datapath: n.kernel}
	n.options.Kernel = kernel
	n.start()
	ns, a := n.bare("web-0")
	for what, fails := range map[string]*atomic.Bool{"rows": &kernel.rows, "listeners": &kernel.listeners} {
		fails.Store(true)
		if err := n.add(a); err == nil || !strings.Contains(err.Error(), errInjected.Error()) {
			t.Errorf("%s: added: %v", what, err)
		}
		n.wait(a, Failed, errInjected.Error())
		n.must(n.problem(errInjected.Error()))
		if open := sockets(t, ns); open != 0 {
			t.Errorf("%s: %d sockets are left in the pod", what, open)
		}
		fails.Store(false)
		n.sweep()
		n.wait(a, Captured, "")
		if open := sockets(t, ns); open != 4 {
			t.Errorf("%s: %d sockets in the pod, want 4", what, open)
		}
		n.del(a)
	}
	n.must(n.add(a))
	kernel.deletes.Store(true)
	n.del(a)
	n.sweep()
	n.must(n.problem(errInjected.Error()))
	kernel.deletes.Store(false)
	n.sweep()
	if rows, problems := n.rows(), n.pods.Problems(); len(rows) != 0 || len(problems) != 0 {
		t.Errorf("left: rows %v, problems %v", rows, problems)
	}
}

func TestListenerThatCannotBeServed(t *testing.T) {
	n := newNode(t)
	n.start()
	ns, a := n.pod("web-0")
	n.deaf.Store(true)
	n.must(n.add(a))
	n.wait(a, Failed, errInjected.Error())
	if got, err := ask(ns, "udp", "10.96.0.10:53", "vip.example.com."); err != nil || got != theirs {
		t.Errorf("%v, %v; want the nameserver's own answer", got, err)
	}
	n.deaf.Store(false)
	n.sweep()
	n.wait(a, Captured, "")
	if got, err := ask(ns, "udp", "10.96.0.10:53", "vip.example.com."); err != nil || got != ours {
		t.Errorf("%v, %v", got, err)
	}
}

// sockets counts the listening sockets in ns.
func sockets(t *testing.T, ns *sandbox.NS) (count int) {
	t.Helper()
	err := ns.Do(func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			udp, err := netlink.SocketDiagUDP(family)
			if err != nil {
				return err
			}
			tcp, err := netlink.SocketDiagTCP(family)
			if err != nil {
				return err
			}
			count += len(udp) + len(tcp)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return count
}
