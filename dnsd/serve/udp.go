package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// UDPSocket is a bound UDP socket that the runtime's own poller does not know. Its methods are safe for
// concurrent use.
type UDPSocket struct {
	addr   netip.AddrPort
	closed chan struct{}
	// mu is held for reading while the descriptor is used, and never while anything is waited for.
	mu   sync.RWMutex
	fd   int    // less than 0 once closed
	lost uint64 // until then
}

// TakeUDP makes conn, which it closes, a UDPSocket that the caller owns.
func TakeUDP(conn *net.UDPConn) (*UDPSocket, error) {
	u := &UDPSocket{addr: conn.LocalAddr().(*net.UDPAddr).AddrPort(), closed: make(chan struct{})}
	defer func() { _ = conn.Close() }()
	raw, err := conn.SyscallConn()
	if err == nil {
		control := raw.Control(func(fd uintptr) { u.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
		err = errors.Join(control, err)
	}
	if err != nil {
		return nil, fmt.Errorf("take over UDP socket %s: %w", u.addr, err)
	}
	return u, nil
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
	return unix.Close(fd)
}

// datagrams is a UDPSocket that is served.
type datagrams struct {
	*socket
	udp    *UDPSocket
	failed chan error // why it cannot be read any more
	ctx    context.Context
	asking sync.WaitGroup
}

// ServeUDP answers c's queries on u until u is closed, which is no error; any other end is. By the time it
// returns, nothing of it runs any more. The caller owns u.
func (s *Server) ServeUDP(u *UDPSocket, c *Client) error {
	ctx, cancel := context.WithCancel(context.Background())
	d := &datagrams{socket: s.enter(c, "udp"), udp: u, failed: make(chan error, 1), ctx: ctx}
	d.hold(u)
	defer func() {
		cancel()
		d.asking.Wait()
		d.drop(u)
		s.leave(d.socket)
	}()
	leave, err := s.loops.enter(d)
	if err == nil {
		select {
		case <-u.closed:
		case err = <-d.failed:
		}
		leave()
	}
	if err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("read DNS queries of pod %s to %s: %w", c.Pod, c.Nameserver, err)
	}
	return nil
}

// turn answers what is waiting in the socket, up to a batch of it, and reports whether some of that is now
// being asked upstream. It waits for nothing.
func (d *datagrams) turn(b *batch) (asking bool, err error) {
	d.udp.mu.RLock()
	defer d.udp.mu.RUnlock()
	if d.udp.fd < 0 {
		return false, nil
	}
	n, err := b.receive(d.udp.fd)
	for i := range n {
		reply, later := d.query(b, i)
		if reply != nil {
			b.reply(i, reply)
		}
		asking = asking || later
	}
	// A reply that cannot be sent is lost like any datagram: the client asks again.
	b.send(d.udp.fd)
	return asking, err
}

// query answers the i-th message of b, or has it asked.
func (d *datagrams) query(b *batch, i int) (reply []byte, asking bool) {
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
	reply, v, later := d.begin(packet, b.space(i))
	if later == nil {
		d.done(&v, &query)
		return reply, false
	}
	select {
	case d.gate.slots <- struct{}{}:
	default:
		v = d.dropped()
		d.done(&v, &query)
		return nil, false
	}
	d.ask(later, query.keep(), *b.peer(i))
	return nil, true
}

// ask has the work done beside the loop. Its arguments are its own, since what a goroutine uses is not on
// the stack.
func (d *datagrams) ask(later work, query arrival, from peer) {
	d.asking.Go(func() {
		defer func() { <-d.gate.slots }()
		reply, v := d.wait(d.ctx, later)
		d.done(&v, &query) // before the client knows, so that what it asks next is counted next
		if reply != nil {
			_ = d.udp.Control(func(fd uintptr) error { return from.send(int(fd), reply) })
		}
	})
}
