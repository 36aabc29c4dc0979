package pods

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/cni/attach"
)

// errGone says that the namespace an attachment speaks of does not exist any more.
var errGone = errors.New("its network namespace is gone and the runtime has not said so (no DEL)")

// home opens the network namespace this process lives in.
func home() (handle netns.NsHandle, cookie uint64, err error) {
	handle, err = netns.Get()
	if err != nil {
		return handle, 0, fmt.Errorf("open dnsd's own network namespace: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer func() { _ = unix.Close(fd) }()
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	}
	if err != nil {
		_ = handle.Close()
		return handle, 0, fmt.Errorf("ask the cookie of dnsd's own network namespace (Linux 5.14 or later has it): %w", err)
	}
	return handle, cookie, nil
}

// openPath opens the network namespace of a, and may block as long as the file system of its path does. The
// caller owns the handle, which keeps the namespace alive.
func openPath(a attach.Attachment) (netns.NsHandle, error) {
	handle, err := netns.GetFromPath(a.Netns)
	if errors.Is(err, fs.ErrNotExist) {
		return handle, fmt.Errorf("%w: nothing is at %s", errGone, a.Netns)
	}
	if err != nil {
		return handle, fmt.Errorf("open its network namespace %s: %w", a.Netns, err)
	}
	var sys unix.Statfs_t
	var st unix.Stat_t
	err = unix.Fstatfs(int(handle), &sys)
	if err == nil {
		err = unix.Fstat(int(handle), &st)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("look at its network namespace %s: %w", a.Netns, err)
	case sys.Type != unix.NSFS_MAGIC:
		err = fmt.Errorf("%w: %s is no namespace any more", errGone, a.Netns)
	case a.NetnsInode != 0 && st.Ino != a.NetnsInode:
		err = fmt.Errorf("%w: another one is at %s", errGone, a.Netns)
	}
	if err != nil {
		_ = handle.Close()
		return netns.None(), err
	}
	return handle, nil
}

// gone reports whether something else, or nothing, is where the namespace of a was. It does not block:
// it is asked only of paths that have been opened before.
func gone(a attach.Attachment) bool {
	if isHost(a) {
		return false
	}
	inode, err := attach.NetnsInode(a.Netns)
	return errors.Is(err, fs.ErrNotExist) || err == nil && a.NetnsInode != 0 && inode != a.NetnsInode
}

// namespace is a pod's network namespace, and the one to come back to.
type namespace struct{ pod, home netns.NsHandle }

// do runs f on a thread inside the pod's namespace and returns its error. Sockets made by f belong to
// the namespace for good; a goroutine started by f would not be in it.
func (n namespace) do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(n.pod); err != nil {
			runtime.UnlockOSThread() // it never left
			done <- fmt.Errorf("enter the pod's network namespace: %w", err)
			return
		}
		err := f()
		// A thread that cannot go back stays locked, so that the runtime ends it with this goroutine
		// instead of running something else in the wrong namespace.
		if netns.Set(n.home) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// here is do on the thread that the caller runs on, without another goroutine. The caller must not open
// anything of the node's itself: if there is no way back, it stays where it is, alone on its thread.
func (n namespace) here(f func() error) error {
	runtime.LockOSThread()
	if err := netns.Set(n.pod); err != nil {
		runtime.UnlockOSThread() // it never left
		return fmt.Errorf("enter the pod's network namespace: %w", err)
	}
	err := f()
	if netns.Set(n.home) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// Within runs f, which is quick and may not start a goroutine, on a thread inside the network namespace of
// one of the pods here, named by its cookie, and returns f's error.
func (p *Pods) Within(ctx context.Context, cookie uint64, f func() error) error {
	found := make(chan *dialer, 1)
	look := func() {
		if q := p.holder(cookie, nil); q != nil {
			found <- q.dialer
		}
		close(found)
	}
	select {
	case p.queue <- look:
	case <-p.ended:
		return errors.New("dnsd is stopping")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	d, ok := <-found
	if !ok {
		return errors.New("no pod has it, or it is not open yet")
	}
	return d.within(f)
}

// facts are what only the namespace itself knows.
type facts struct {
	cookie  uint64
	ifindex uint32
}

// look asks the kernel about the namespace and its interface. It fails when lo is down, because what is
// sent to a listener goes through it and would be lost.
func (n namespace) look(ifname string) (facts, error) {
	var fd int
	err := n.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return facts{}, fmt.Errorf("open a socket in its network namespace: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	var f facts
	if f.cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err != nil {
		return f, fmt.Errorf("ask its network namespace's cookie (Linux 5.14 or later has it): %w", err)
	}
	ask := func(request uint, name string) (*unix.Ifreq, error) {
		ifr, err := unix.NewIfreq(name)
		if err == nil {
			err = unix.IoctlIfreq(fd, request, ifr)
		}
		if err != nil {
			return nil, fmt.Errorf("look for its interface %q: %w", name, err)
		}
		return ifr, nil
	}
	lo, err := ask(unix.SIOCGIFFLAGS, "lo")
	if err != nil {
		return f, err
	}
	if lo.Uint16()&unix.IFF_UP == 0 {
		return f, errors.New("lo is down in its network namespace: set it up there (the loopback CNI plugin does)")
	}
	eth, err := ask(unix.SIOCGIFINDEX, ifname)
	if err != nil {
		return f, err
	}
	f.ifindex = eth.Uint32()
	return f, nil
}
