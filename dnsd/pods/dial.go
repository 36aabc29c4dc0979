package pods

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/ebpf"
)

// dialer opens the sockets that one pod's queries leave from: inside the pod's network namespace, so
// that policies, routes and the server's log see the pod, and with the mark that keeps them from being
// turned back to us. It is safe for concurrent use, and nobody waits in it for what another does in the pod's
// namespace: the loop that asks for this pod asks for others too.
type dialer struct {
	ns namespace // ns.pod is ours to close, by the last who leaves

	mu     sync.Mutex // guards the following
	inside int        // who uses ns
	open   map[io.Closer]struct{}
	lent   map[int]struct{} // UDP sockets that somebody else closes
	closed bool

	gone chan struct{} // closed when it is closed and nobody uses ns any more
}

func newDialer(ns namespace) *dialer {
	return &dialer{ns: ns, open: map[io.Closer]struct{}{}, lent: map[int]struct{}{}, gone: make(chan struct{})}
}

// close ends every connection and every attempt at one, and lets go of the namespace, which each of
// them keeps alive. It does not wait for who is in there.
func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.closed = true
	for c := range d.open {
		_ = c.Close()
	}
	d.open = nil
	for fd := range d.lent {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // whoever has it hears of that, and closes it
	}
	d.letGo()
}

// letGo closes the namespace if nobody uses it and nobody will.
func (d *dialer) letGo() {
	if d.closed && d.inside == 0 {
		_ = d.ns.pod.Close()
		close(d.gone)
	}
}

// enter keeps the namespace open until leave.
func (d *dialer) enter() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return net.ErrClosed
	}
	d.inside++
	return nil
}

func (d *dialer) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside--
	d.letGo()
}

func (d *dialer) isClosed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

// DialContext connects to address, an address and port, over network "udp" or "tcp". The thread is in
// the pod's namespace only while the socket is made, not while a TCP connection is waited for.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	kind := unix.SOCK_DGRAM
	if network == "tcp" {
		kind = unix.SOCK_STREAM
	}
	f, err := d.socket(to.Addr(), kind)
	if err != nil {
		return nil, fmt.Errorf("dial %s %s: %w", network, address, err)
	}
	defer func() {
		d.forget(f)
		_ = f.Close()
	}()
	if err := connect(ctx, f, to); err != nil {
		if d.isClosed() { // which is why: the server has no part in it
			err = net.ErrClosed
		}
		return nil, fmt.Errorf("dial %s %s: %w", network, address, err)
	}
	c, err := d.keep(f)
	if err != nil {
		return nil, fmt.Errorf("dial %s %s: %w", network, address, err)
	}
	return c, nil
}

// socket makes a marked socket in the pod's namespace, in the poller's care.
func (d *dialer) socket(to netip.Addr, kind int) (*os.File, error) {
	family := unix.AF_INET6
	if to.Unmap().Is4() {
		family = unix.AF_INET
	}
	if err := d.enter(); err != nil {
		return nil, err
	}
	defer d.leave()
	var fd int
	err := d.ns.do(func() (err error) {
		fd, err = marked(family, kind)
		return err
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "")
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		_ = f.Close()
		return nil, net.ErrClosed
	}
	d.open[f] = struct{}{}
	return f, nil
}

// marked makes a socket that the kernel lets go where it is sent.
func marked(family, kind int) (fd int, err error) {
	fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(ebpf.Mark)); err != nil {
		_ = unix.Close(fd)
		return 0, fmt.Errorf("mark the socket: %w", err)
	}
	return fd, nil
}

// OpenUDP makes as many sockets as fds has room for; see upstream.Sockets. It goes to the pod's namespace on
// the calling goroutine's own thread, to be quick.
func (d *dialer) OpenUDP(family int, fds []int) (n int, err error) {
	if err := d.enter(); err != nil {
		return 0, err
	}
	defer d.leave()
	err = d.ns.here(func() (err error) {
		for n < len(fds) {
			if fds[n], err = marked(family, unix.SOCK_DGRAM); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		for _, fd := range fds[:n] {
			_ = unix.Close(fd)
		}
		return 0, net.ErrClosed
	}
	for _, fd := range fds[:n] {
		d.lent[fd] = struct{}{}
	}
	if n > 0 {
		err = nil
	}
	return n, err
}

// CloseUDP closes one of them.
func (d *dialer) CloseUDP(fd int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.lent, fd)
	_ = unix.Close(fd)
}

// within runs f inside the pod's namespace.
func (d *dialer) within(f func() error) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	return d.ns.do(f)
}

// scope names the pods that share what was learnt by asking for one of them. They are of one network, for two
// may use one address for different servers. And they are of one Kubernetes namespace: a question leaves from
// the network namespace of the pod that asks, where whoever may send raw packets, which is what container
// runtimes allow by default, can answer it in the server's name. So one pod can make others believe what it
// likes, and must not be able to where it is not trusted; Kubernetes draws that line around a namespace, in
// which who may make pods may as well read the others' secrets. What is in none, a container of podman or the
// node itself, trusts nobody.
func scope(a attach.Attachment) string {
	if a.PodNamespace == "" {
		return a.Network + "//" + a.Key().String()
	}
	return a.Network + "/" + a.PodNamespace // neither name has a slash
}

// connect connects f, a socket that does not block, and waits until that has worked, failed, or ctx is
// done.
func connect(ctx context.Context, f *os.File, to netip.AddrPort) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })()
	begun := false
	wait := raw.Write(func(fd uintptr) bool {
		if !begun {
			begun = true
			err = unix.Connect(int(fd), sockaddr(to))
			// As when interrupted: it goes on by itself, and the socket becomes writable at its end.
			return !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.EINTR)
		}
		var code int
		if code, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
			return true
		}
		if code != 0 {
			err = unix.Errno(code)
			return true
		}
		// A socket that has not begun to connect counts as writable, and the poller may say so late.
		_, peer := unix.Getpeername(int(fd))
		return !errors.Is(peer, unix.ENOTCONN)
	})
	if wait != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return wait
	}
	return err
}

func sockaddr(to netip.AddrPort) unix.Sockaddr {
	if addr := to.Addr().Unmap(); addr.Is4() {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: addr.As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

// keep makes a connection of a connected socket, which stays the caller's to close, and wraps it so that
// the dialer knows it while it is open. The wrappers keep the methods of what they wrap: whoever speaks
// DNS on a connection tells datagrams from streams by them.
func (d *dialer) keep(f *os.File) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, net.ErrClosed
	}
	// Under the lock, since it goes by the descriptor's number: were f closed meanwhile, that could be
	// some other socket's already.
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	d.open[c] = struct{}{}
	if u, ok := c.(*net.UDPConn); ok {
		return &udpConn{u, d}, nil
	}
	return &tcpConn{c.(*net.TCPConn), d}, nil
}

func (d *dialer) forget(c io.Closer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, c)
}

type udpConn struct {
	*net.UDPConn
	dialer *dialer
}

// Close closes the connection.
func (c *udpConn) Close() error {
	c.dialer.forget(c.UDPConn)
	return c.UDPConn.Close()
}

type tcpConn struct {
	*net.TCPConn
	dialer *dialer
}

// Close closes the connection.
func (c *tcpConn) Close() error {
	c.dialer.forget(c.TCPConn)
	return c.TCPConn.Close()
}
