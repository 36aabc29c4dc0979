package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// netns is an open handle of a network namespace.
type netns struct {
	file *os.File
	id   unix.Stat_t
}

// openNetns opens the namespace at path; the caller closes it. It fails on a path from which a
// namespace has been unmounted.
func openNetns(path string) (*netns, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	ns := &netns{file: f}
	var fs unix.Statfs_t
	err = unix.Fstatfs(int(f.Fd()), &fs)
	if err == nil && fs.Type != unix.NSFS_MAGIC {
		err = errors.New("is a file, and no namespace any more")
	}
	if err == nil {
		err = unix.Fstat(int(f.Fd()), &ns.id)
	}
	if err != nil {
		ns.close()
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return ns, nil
}

func (ns *netns) close() { _ = ns.file.Close() }

// isHost reports whether this is a namespace nodens must never enrol: the one the runtime, and so this
// program, runs in, or the first process's.
func (ns *netns) isHost() bool {
	for _, host := range []string{"/proc/self/ns/net", "/proc/1/ns/net"} {
		var id unix.Stat_t
		// The second may be hidden from us; then the first is all there is to know.
		if err := unix.Stat(host, &id); err == nil && id.Dev == ns.id.Dev && id.Ino == ns.id.Ino {
			return true
		}
	}
	return false
}

// prepare sets lo up, over which captured queries travel, and returns the namespace's cookie, by which
// the kernel half knows it; whichever of the two fails, the other is done.
func (ns *netns) prepare() (cookie uint64, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread ends with the goroutine and no other wakes up in the pod.
		runtime.LockOSThread()
		cookie, err = prepareHere(int(ns.file.Fd()))
	}()
	<-done
	return cookie, err
}

func prepareHere(nsfd int) (uint64, error) {
	if err := unix.Setns(nsfd, unix.CLONE_NEWNET); err != nil {
		return 0, fmt.Errorf("enter the pod's network namespace: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket in the pod: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		err = fmt.Errorf("ask for the pod's netns cookie: %w", err)
	}
	if e := setUp(fd, "lo"); e != nil {
		err = errors.Join(err, fmt.Errorf("set lo up in the pod: %w", e))
	}
	return cookie, err
}

// setUp sets the interface's IFF_UP (netdevice(7)); fd is any socket of its namespace.
func setUp(fd int, name string) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	if flags := req.Uint16(); flags&unix.IFF_UP == 0 {
		req.SetUint16(flags | unix.IFF_UP)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
	}
	return nil
}
