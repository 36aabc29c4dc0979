package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/dnsd/upstream"
)

// UDPSocket is a bound UDP socket that the runtime's own poller does not know. Its methods are safe for
// concurrent use.
type UDPSocket struct {
	addr   netip.AddrPort
	closed chan struct{}
	loop   atomic.Pointer[loop] // that waits for it
	// mu is held for reading while the descriptor is used, and never while anything is waited for.
	mu   sync.RWMutex
	fd   int    // less than 0 once closed
	lost uint64 // until then
}

// TakeUDP makes from, a bound UDP socket, a UDPSocket that the caller owns. It closes from, which may be
// one of several descriptors of the socket, in several processes: each query is read by one of them.
func TakeUDP(from interface {
	syscall.Conn
	io.Closer
}) (*UDPSocket, error) {
	u := &UDPSocket{closed: make(chan struct{})}
	defer func() { _ = from.Close() }()
	raw, err := from.SyscallConn()
	if err == nil {
		control := raw.Control(func(fd uintptr) {
			if u.addr, err = boundTo(int(fd)); err == nil {
				u.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
			}
		})
		err = errors.Join(control, err)
	}
	if err != nil {
		return nil, fmt.Errorf("take over UDP socket %s: %w", u.addr, err)
	}
	return u, nil
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
func (u *UDPSocket) Addr() netip.AddrPort { return u.addr }

// Control calls f with the socket's descriptor, which is only lent.
func (u *UDPSocket) Control(f func(fd uintptr) error) error {
	u.mu.RLock()
	defer u.mu.RUnlock()
	if u.fd < 0 {
		return os.ErrClosed
	}
	return f(uintptr(u.fd))
}

// Close closes the socket and ends the ServeUDP that serves it. That it was closed before is fine.
func (u *UDPSocket) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fd < 0 {
		return nil
	}
	fd := u.fd
	u.lost = lostBy(fd)
	u.fd = -1
	close(u.closed)
	if l := u.loop.Load(); l != nil {
		l.forget(fd) // by itself it would only be with the last of the socket's descriptors
	}
	return unix.Close(fd)
}

// datagrams is a UDPSocket that is served.
type datagrams struct {
	*socket
	udp    *UDPSocket
	failed chan error // why it cannot be read any more
	ctx    context.Context
	asking sync.WaitGroup
	over   bool // no turn any more; guarded by udp.mu
}

// ServeUDP answers c's queries on u until u is closed or the Server retires, which is no error; any other end
// is. By the time it returns, nothing of it runs any more. The caller owns u.
func (s *Server) ServeUDP(u *UDPSocket, c *Client) error {
	ctx, cancel := context.WithCancel(context.Background())
	d := &datagrams{socket: s.enter(c, "udp"), udp: u, failed: make(chan error, 1), ctx: ctx}
	d.hold(u)
	l, id, err := s.loops.enter(d)
	if err == nil {
		select {
		case <-u.closed:
		case err = <-d.failed:
		case <-s.retiring.Done():
		}
		l.remove(id)
	}
	if s.retiring.Err() != nil {
		d.finish()
	}
	cancel()
	if l != nil {
		l.forsake(d)
	}
	d.asking.Wait()
	if l != nil {
		s.loops.leave(l)
	}
	d.drop(u)
	s.leave(d.socket)
	if err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("read DNS queries of pod %s to %s: %w", c.Pod, c.Nameserver, err)
	}
	return nil
}

// finish has no query read any more, and waits until those that were are answered.
func (d *datagrams) finish() {
	d.udp.mu.Lock()
	d.over = true
	d.udp.mu.Unlock()
	d.asking.Wait()
}

// turn answers what is waiting in the socket, up to a batch of it, and returns how many queries that were and
// how many of them are now being asked upstream. It waits for nothing.
func (d *datagrams) turn(b *batch, line *upstream.Line) (n, asking int, err error) {
	d.udp.mu.RLock()
	defer d.udp.mu.RUnlock()
	if d.udp.fd < 0 || d.over {
		return 0, 0, nil
	}
	n, err = b.receive(d.udp.fd)
	for i := range n {
		reply, later := d.query(b, i, line)
		if reply != nil {
			b.reply(i, reply)
		}
		if later {
			asking++
		}
	}
	// A reply that cannot be sent is lost like any datagram: the client asks again.
	b.send(d.udp.fd)
	return n, asking, err
}

// query answers the i-th message of b, or has it asked: on the line if that will do, else by a goroutine.
func (d *datagrams) query(b *batch, i int, line *upstream.Line) (reply []byte, asking bool) {
	d.gate.counts.udp.Add(1)
	packet := b.query(i)
	var query arrival
	if d.watched() {
		query = d.arrived(packet, b.peer(i).addrPort())
	}
	if len(packet) == maxQuery {
		v := d.malformed() // the rest of it is lost
		d.done(&v, &query)
		return nil, false
	}
	reply, v := d.shortcut(packet, b.space(i))
	if reply != nil {
		d.done(&v, &query)
		return reply, false
	}
	if v.open && line != nil {
		if !d.enter() {
			v = d.dropped()
			d.done(&v, &query)
			return nil, false
		}
		if d.forward(line, b, i, &v, &query) {
			return nil, true
		}
		<-d.gate.slots
	}
	reply, v, later := d.long(packet, b.space(i), d.server.upstream.Exchange)
	if later != nil && !d.enter() {
		v, later = d.dropped(), nil
	}
	if later == nil {
		d.done(&v, &query)
		return reply, false
	}
	d.ask(later, time.Now(), query.keep(), *b.peer(i))
	return nil, true
}

// enter takes one of the pod's slots, which the taker gives back. It reports whether there was one.
func (d *datagrams) enter() bool {
	select {
	case d.gate.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// ask has the work done beside the loop, for a query that has a slot and began then. Its arguments are its own,
// since what a goroutine uses is not on the stack.
func (d *datagrams) ask(later work, began time.Time, query arrival, from peer) {
	d.asking.Go(func() {
		defer func() { <-d.gate.slots }()
		reply, v := d.wait(d.ctx, later, began)
		d.done(&v, &query) // before the client knows, so that what it asks next is counted next
		if reply != nil {
			_ = d.udp.Control(func(fd uintptr) error { return from.send(int(fd), reply) })
		}
	})
}
