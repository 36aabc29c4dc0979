package serve

import (
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/nodens-dns/nodens/dnsd/upstream"
)

// UDPSocket is a bound UDP socket that the runtime's own poller does not know. Its methods are safe for
// concurrent use.
type UDPSocket struct {
	descriptor
	lost uint64 // until it was closed; guarded by mu
}

// TakeUDP makes from, a bound UDP socket, a UDPSocket that the caller owns. It closes from, which may be
// one of several descriptors of the socket, in several processes: each query is read by one of them.
func TakeUDP(from interface {
	syscall.Conn
	io.Closer
}) (*UDPSocket, error) {
	u := new(UDPSocket)
	if err := u.take(from); err != nil {
		return nil, fmt.Errorf("take over UDP socket %s: %w", u.addr, err)
	}
	return u, nil
}

// Close closes the socket and ends what ServeUDP began. That it was closed before is fine.
func (u *UDPSocket) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fd >= 0 {
		u.lost = lostBy(u.fd)
	}
	return u.close()
}

// datagrams is a UDPSocket that is served.
type datagrams struct {
	*service
	udp     *UDPSocket
	stopped bool // no turn any more; guarded by udp.mu
}

// ServeUDP answers c's queries on u until u is closed or the Server retires, which is no error; any other end
// is. It returns at once, and calls ended when nothing of it runs any more. The caller owns u.
func (s *Server) ServeUDP(u *UDPSocket, c *Client, ended func(error)) {
	d := &datagrams{service: s.newService(c, "udp", &u.descriptor), udp: u}
	d.hold(u)
	d.begin(d, func(err error) {
		d.drop(u)
		s.leave(d.socket)
		ended(err)
	})
}

// stop has no query read any more.
func (d *datagrams) stop() {
	d.udp.mu.Lock()
	defer d.udp.mu.Unlock()
	d.stopped = true
}

// ready gives the socket its turn, unless its pod must wait for that.
func (d *datagrams) ready(l *loop, b *batch, now time.Time) (asking bool, rest time.Duration, err error) {
	if rest := d.held(now); rest > 0 {
		return false, rest, nil
	}
	n, asked, err := d.turn(b, l.line)
	d.gate.budget.spend(now, n, asked)
	return asked > 0, 0, err
}

// turn answers what is waiting in the socket, up to a batch of it, and returns how many queries that were and
// how many of them are now being asked upstream. It waits for nothing.
func (d *datagrams) turn(b *batch, line *upstream.Line) (n, asking int, err error) {
	d.udp.mu.RLock()
	defer d.udp.mu.RUnlock()
	if d.udp.fd < 0 || d.stopped {
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
