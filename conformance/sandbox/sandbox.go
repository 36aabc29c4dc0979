// Package sandbox makes the throw-away kernel surroundings a test needs, and takes them away again:
// network namespaces, veth pairs, a cgroup the test runs in, a directory for pins.
//
// Everything carries the prefix "nodens-t" and is removed by t.Cleanup, also when the test fails.
package sandbox

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Root fails the test unless it runs as root: namespaces, cgroups and BPF need it, and a test left out would
// look like one that passed.
func Root(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs network namespaces, cgroups and BPF: run it as root")
	}
}

func unique() string {
	b := make([]byte, 3)
	_, _ = rand.Read(b)
	return "nodens-t" + hex.EncodeToString(b)
}

// BPFFS returns the mount point of a bpffs, mounting one at /sys/fs/bpf if the machine has none.
func BPFFS(t testing.TB) string {
	t.Helper()
	dir, err := MountBPFFS()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// MountBPFFS is BPFFS for callers that are no test. The mount stays.
func MountBPFFS() (string, error) {
	const dir = "/sys/fs/bpf"
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.BPF_FS_MAGIC {
		if err := unix.Mount("bpffs", dir, "bpf", 0, ""); err != nil {
			return "", fmt.Errorf("mount a bpffs at %s: %w", dir, err)
		}
	}
	return dir, nil
}

// Pins returns a path below the bpffs for one test's pins. It does not exist yet; whatever is pinned
// there is removed with the test.
func Pins(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(BPFFS(t), unique())
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// CgroupRoot returns where the cgroup2 hierarchy is mounted.
func CgroupRoot(t testing.TB) string {
	t.Helper()
	root, err := FindCgroupRoot()
	if err != nil {
		t.Fatal(err) // nodens is nothing without one
	}
	return root
}

// FindCgroupRoot is CgroupRoot for callers that are no test.
func FindCgroupRoot() (string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		before, after, ok := strings.Cut(line, " - ")
		if ok && strings.HasPrefix(after, "cgroup2 ") {
			return strings.Fields(before)[4], nil
		}
	}
	return "", errors.New("no cgroup2 hierarchy is mounted")
}

// Cgroup makes a cgroup, moves this process into it and returns its path: programs attached there see
// the sockets the test opens from now on and nobody else's. The process goes back when the test ends.
func Cgroup(t testing.TB) string {
	t.Helper()
	root := CgroupRoot(t)
	home := root
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			home = filepath.Join(root, rest)
		}
	}
	dir := filepath.Join(root, unique())
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	move := func(to string) error {
		return os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err := move(dir); err != nil {
		_ = os.Remove(dir)
		t.Fatalf("enter cgroup %s: %v", dir, err)
	}
	t.Cleanup(func() {
		if err := move(home); err != nil {
			t.Errorf("leave cgroup %s: %v", dir, err)
		}
		// A child that has just been killed may linger for a moment.
		deadline := time.Now().Add(5 * time.Second)
		for err := os.Remove(dir); err != nil; err = os.Remove(dir) {
			if errors.Is(err, os.ErrNotExist) {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("remove cgroup %s: %v", dir, err)
				return
			}
			runtime.Gosched()
		}
	})
	return dir
}

// NS is a named network namespace, bind-mounted below /run/netns.
type NS struct {
	Name   string
	handle netns.NsHandle
}

// Netns makes a network namespace with lo up.
func Netns(t testing.TB) *NS {
	t.Helper()
	ns, err := NewNetns(unique())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// NewNetns is Netns for callers that are no test. The caller owns the namespace and must Close it.
func NewNetns(name string) (*NS, error) {
	if err := shareNetns(); err != nil {
		return nil, err
	}
	var ns *NS
	err := onThread(func() error {
		h, err := netns.NewNamed(name)
		if err != nil {
			return fmt.Errorf("make network namespace %s: %w", name, err)
		}
		ns = &NS{Name: name, handle: h}
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("set lo up in %s: %w", name, err), ns.Close())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return ns, nil
}

// shareNetns makes /run/netns a shared mount, as the first ip netns add does: done after a name was made
// there, it would bury that name for good.
func shareNetns() error {
	const dir = "/run/netns"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the folder of network namespaces: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open the folder of network namespaces: %w", err)
	}
	defer func() { _ = f.Close() }()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil { // against others who start now
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	share := func() error { return unix.Mount("", dir, "", unix.MS_SHARED|unix.MS_REC, "") }
	err = share()
	if errors.Is(err, unix.EINVAL) { // no mount yet
		if err = unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = share()
		}
	}
	if err != nil {
		return fmt.Errorf("make %s a shared mount: %w", dir, err)
	}
	return nil
}

// onThread runs f on a thread that may change its network namespace, and has it back in its own when f
// is done. That one is the thread's, not the process's: a process may be started from inside another.
// To let the runtime end the thread would not do: the process's first is never ended, and would keep
// the namespace alive.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread() // it never left
			done <- fmt.Errorf("open the network namespace to come back to: %w", err)
			return
		}
		defer func() { _ = home.Close() }()
		err = f()
		// A thread that cannot go back stays locked, so that no goroutine wakes up in a namespace it did
		// not ask for.
		if back := netns.Set(home); back != nil {
			err = errors.Join(err, fmt.Errorf("come back to the network namespace of before: %w", back))
		} else {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Path is the file that stands for the namespace.
func (ns *NS) Path() string { return filepath.Join("/run/netns", ns.Name) }

// Close removes the namespace's name; the namespace itself goes with its last socket.
func (ns *NS) Close() error {
	_ = ns.handle.Close()
	if err := netns.DeleteNamed(ns.Name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete network namespace %s: %w", ns.Name, err)
	}
	return nil
}

// Do runs f on a thread inside the namespace and returns its error. Sockets opened by f stay in the
// namespace; goroutines started by f do not enter it.
func (ns *NS) Do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(ns.handle); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", ns.Name, err)
		}
		return f()
	})
}

// Cookie is the namespace's cookie, by which the kernel half knows it (SO_NETNS_COOKIE).
func (ns *NS) Cookie() (uint64, error) {
	var cookie uint64
	err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	return cookie, err
}

// Veth joins two namespaces by a veth pair named eth on either side, gives each end its addresses
// ("10.0.0.1/24", "fd00::1/64", usable at once: no duplicate address detection) and sets both up.
func Veth(eth string, a *NS, aAddrs []string, b *NS, bAddrs []string) error {
	peer := unique()
	err := a.Do(func() error {
		veth := netlink.NewVeth(netlink.LinkAttrs{Name: eth})
		veth.PeerName = peer[len(peer)-12:]
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth %s: %w", eth, err)
		}
		other, err := netlink.LinkByName(veth.PeerName)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetNsFd(other, int(b.handle)); err != nil {
			return fmt.Errorf("move veth to %s: %w", b.Name, err)
		}
		return up(eth, aAddrs)
	})
	if err != nil {
		return err
	}
	err = b.Do(func() error {
		link, err := netlink.LinkByName(peer[len(peer)-12:])
		if err != nil {
			return err
		}
		if err := netlink.LinkSetName(link, eth); err != nil {
			return err
		}
		return up(eth, bAddrs)
	})
	if err != nil {
		return err
	}
	return errors.Join(
		a.Do(func() error { return settled(aAddrs) }),
		b.Do(func() error { return settled(bAddrs) }),
	)
}

// settled waits until the addresses are this namespace's own. The kernel makes the route of an IPv6 address
// to itself a while after the link is up; until then what is sent there goes out by the link, and is lost.
func settled(addrs []string) error {
	for deadline := time.Now().Add(20 * time.Second); len(addrs) > 0; {
		ip, _, err := net.ParseCIDR(addrs[0])
		if err != nil {
			return err
		}
		routes, err := netlink.RouteGet(ip)
		switch {
		case err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL:
			addrs = addrs[1:]
		case time.Now().After(deadline):
			return fmt.Errorf("%s is not local after 20 s: %v, %w", addrs[0], routes, err)
		default:
			runtime.Gosched()
		}
	}
	return nil
}

func up(eth string, addrs []string) error {
	link, err := netlink.LinkByName(eth)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add %s to %s: %w", a, eth, err)
		}
	}
	return netlink.LinkSetUp(link)
}
