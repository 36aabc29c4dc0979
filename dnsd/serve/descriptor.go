package serve

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// descriptor is a bound socket that the runtime's own poller does not know. Its methods are safe for
// concurrent use.
type descriptor struct {
	addr netip.AddrPort
	loop atomic.Pointer[loop] // that waits for it
	// mu is held for reading while the descriptor is used, and never while anything is waited for.
	mu      sync.RWMutex
	fd      int      // less than 0 once closed
	service *service // that ends when it is closed, if there is one
}

// take makes d another descriptor of from's socket, and closes from. After an error d is closed.
func (d *descriptor) take(from interface {
	syscall.Conn
	io.Closer
}) error {
	defer func() { _ = from.Close() }()
	d.fd = -1
	raw, err := from.SyscallConn()
	if err == nil {
		control := raw.Control(func(fd uintptr) {
			if d.addr, err = boundTo(int(fd)); err == nil {
				d.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
			}
		})
		err = errors.Join(control, err)
	}
	return err
}

func boundTo(fd int) (netip.AddrPort, error) {
	name, err := unix.Getsockname(fd)
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(name.Addr), uint16(name.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(name.Addr), uint16(name.Port)), nil
	}
	if err == nil {
		err = unix.EAFNOSUPPORT
	}
	return netip.AddrPort{}, fmt.Errorf("ask what it is bound to: %w", err)
}

// Addr is what the socket is bound to.
func (d *descriptor) Addr() netip.AddrPort { return d.addr }

// Control calls f with the socket's descriptor, which is only lent.
func (d *descriptor) Control(f func(fd uintptr) error) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.fd < 0 {
		return os.ErrClosed
	}
	return f(uintptr(d.fd))
}

// close closes the descriptor, with d.mu held, and ends what serves it. That it was closed before is fine.
func (d *descriptor) close() error {
	if d.fd < 0 {
		return nil
	}
	fd := d.fd
	d.fd = -1
	if l := d.loop.Load(); l != nil {
		l.forget(fd) // by itself it would only be with the last of the socket's descriptors
	}
	if d.service != nil {
		go d.service.end(nil)
	}
	return unix.Close(fd)
}

// serve has v end when d is closed; nil ends that.
func (d *descriptor) serve(v *service) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.service = v
}
