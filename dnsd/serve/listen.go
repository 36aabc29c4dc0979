package serve

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// scarcePause is how long a socket is left alone for which there was no memory or no descriptor.
const scarcePause = 100 * time.Millisecond

// TCPListener is a listening TCP socket that the runtime's own poller does not know. Its methods are safe for
// concurrent use.
type TCPListener struct {
	descriptor
	by *accepting // nil until it is served; guarded by mu
}

// TakeTCP makes from, a listening TCP socket, a TCPListener that the caller owns. It closes from, which may be
// one of several descriptors of the socket, in several processes: each connection is accepted by one of them.
func TakeTCP(from interface {
	syscall.Conn
	io.Closer
}) (*TCPListener, error) {
	l := new(TCPListener)
	err := l.take(from)
	if err == nil {
		// A loop that accepts must never wait: another process may have accepted what it was woken for.
		err = unix.SetNonblock(l.fd, true)
	}
	if err == nil {
		err = unix.SetsockoptInt(l.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // what is accepted inherits it
	}
	if err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("take over TCP listener %s: %w", l.addr, err)
	}
	return l, nil
}

// Close closes the listener and ends what ServeTCP began. That it was closed before is fine.
func (l *TCPListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.close()
}

// Add has conn answered on, a connection that another server had accepted and passed on when it retired, and
// of which early has been read already. It reports false, and leaves conn to the caller, if the listener is
// closed or not served yet.
func (l *TCPListener) Add(conn *net.TCPConn, early []byte) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.fd < 0 || l.by == nil {
		return false
	}
	l.by.open(&passedConn{TCPConn: conn, early: early})
	return true
}

// accepting is a TCPListener that is served.
type accepting struct {
	*service
	tcp         *TCPListener
	connections atomic.Int32
}

// ServeTCP answers c's queries on the connections of ln until ln is closed, which is no error; any other end
// is, and closes ln. Then it closes the connections too, since each of them keeps a network namespace in being.
// It returns at once, and calls ended when nothing of it runs any more. The caller owns ln. When the Server
// retires, it closes ln and passes the connections on.
//
// Queries of one connection are answered as the answers are ready, not in turn (RFC 7766 section
// 6.2.1.1); there is no bound on how many a connection may carry.
func (s *Server) ServeTCP(ln *TCPListener, c *Client, ended func(error)) {
	a := &accepting{service: s.newService(c, "tcp", &ln.descriptor), tcp: ln}
	ln.mu.Lock()
	ln.by = a
	ln.mu.Unlock()
	a.begin(a, func(err error) {
		s.leave(a.socket)
		ended(err)
	})
}

func (a *accepting) stop() { _ = a.tcp.Close() }

// ready accepts what waits, up to a batch of it, unless the pod must wait for that.
func (a *accepting) ready(_ *loop, _ *batch, now time.Time) (asking bool, rest time.Duration, err error) {
	if rest := a.held(now); rest > 0 {
		return false, rest, nil
	}
	a.tcp.mu.RLock() // whoever closes it waits until what is accepted is counted in
	defer a.tcp.mu.RUnlock()
	for n := 0; n < batchSize && a.tcp.fd >= 0; n++ {
		fd, from, err := unix.Accept4(a.tcp.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		switch err {
		case nil:
			asking = true
			a.gate.budget.spend(now, 1, 0)
			a.open(&acceptedConn{File: os.NewFile(uintptr(fd), ""), from: from})
		case unix.EINTR:
		case unix.EAGAIN:
			return asking, 0, nil
		default:
			return asking, 0, fmt.Errorf("accept a connection: %w", err)
		}
	}
	return asking, 0, nil
}

// open has a connection answered on, or closes it if it is one too many.
func (a *accepting) open(conn net.Conn) {
	if a.connections.Add(1) > maxConnections {
		a.connections.Add(-1)
		a.gate.counts.dropped.Add(1)
		_ = conn.Close()
		return
	}
	a.asking.Go(func() {
		defer a.connections.Add(-1)
		a.serveConn(a.ctx, conn)
	})
}

// acceptedConn is a connection as it was accepted. A file does for it, which takes three system calls, where
// the net package takes a dozen to make a TCPConn of a descriptor: most connections carry one query.
type acceptedConn struct {
	*os.File
	from unix.Sockaddr
}

// LocalAddr is nil: nobody asks.
func (c *acceptedConn) LocalAddr() net.Addr { return nil }

// RemoteAddr is the client's.
func (c *acceptedConn) RemoteAddr() net.Addr {
	switch from := c.from.(type) {
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: from.Addr[:], Port: from.Port}
	case *unix.SockaddrInet6:
		return &net.TCPAddr{IP: from.Addr[:], Port: from.Port}
	}
	return nil
}

// tcp is the connection as another server takes it, which closes this one; nil if that cannot be.
func (c *acceptedConn) tcp() *net.TCPConn {
	conn, err := net.FileConn(c.File)
	if err != nil {
		return nil
	}
	_ = c.Close()
	tcp, _ := conn.(*net.TCPConn)
	return tcp
}

// scarce reports whether err says that the process or the machine has too little of something at present, or
// that a client was gone before it was accepted: neither is the socket's end.
func scarce(err error) bool {
	for _, passing := range [...]error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ENOSPC, unix.ECONNABORTED} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}
