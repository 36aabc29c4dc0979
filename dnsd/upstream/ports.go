package upstream

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// portsAtOnce is how many sockets are made when there is none: what one look-up needs at a time, and one
	// more. Making them costs the most where it begins, with going to a pod's network namespace.
	portsAtOnce = 3
	// maxIdle is how many sockets are kept of one Dialer and family, and idleLast for how long.
	maxIdle  = 16
	idleLast = 5 * time.Second
)

// Sockets is what a Dialer is that can make UDP sockets ahead of their use. It must be comparable.
type Sockets interface {
	// OpenUDP makes sockets of the address family, which do not block, and are neither bound nor connected.
	// It fills fds from the front and returns how many it made, with an error if that is none. It is called by
	// one at a time, by a loop that others wait for or by who calls Leave, and must not block.
	OpenUDP(family int, fds []int) (int, error)
	// CloseUDP closes one of them. Until then a Sockets that wants it closed may shut it down in both
	// directions, and no more.
	CloseUDP(fd int)
}

// sockets makes the sockets that s is asked from, if its Dialer can.
func (c *Client) sockets(s Servers) (sockets Sockets, ok bool) {
	d := s.Dial
	if d == nil {
		d = c.dialer
	}
	switch d := d.(type) {
	case Sockets:
		return d, true
	case *net.Dialer:
		return dialed{d}, d.LocalAddr == nil && d.ControlContext == nil
	}
	return nil, false
}

// dialed are sockets as a net.Dialer makes them.
type dialed struct{ *net.Dialer }

func (d dialed) OpenUDP(family int, fds []int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == nil && d.Control != nil {
		if err = d.Control("udp", "", descriptor(fd)); err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		return 0, err
	}
	fds[0] = fd
	return 1, nil
}

func (dialed) CloseUDP(fd int) { _ = unix.Close(fd) }

// descriptor is a syscall.RawConn as far as a net.Dialer's Control may use it.
type descriptor uintptr

func (fd descriptor) Control(f func(uintptr)) error { f(uintptr(fd)); return nil }
func (descriptor) Read(func(uintptr) bool) error    { return errors.ErrUnsupported }
func (descriptor) Write(func(uintptr) bool) error   { return errors.ErrUnsupported }

// ports are the sockets of a Line. One is lent to one question after the other, and gets a new port for each:
// a socket that is disconnected gives its port back, and when it is connected again the kernel picks one at
// random (RFC 5452, section 9.2). That costs two system calls, less than half of what a new socket does, and
// no change of the network namespace.
type ports struct {
	epoll int
	tag   int32
	all   map[int32]*port // by the number that epoll knows them by
	last  int32           // of these
	idle  map[kind][]*port
	swept time.Time
	// ids are random bytes, of which so many are used up.
	ids  [64]byte
	used int
}

type kind struct {
	sockets Sockets
	family  int
}

// port is one socket, which is watched for as long as it lives.
type port struct {
	kind
	fd     int
	number int32
	call   *call // it is lent to; nil if to none
	since  time.Time
}

// take lends w a socket that is connected to a server.
func (ps *ports) take(w *call, now time.Time) error {
	k := kind{w.sockets, unix.AF_INET6}
	if w.server.Addr().Unmap().Is4() {
		k.family = unix.AF_INET
	}
	if len(ps.idle[k]) == 0 {
		if err := ps.open(k, now); err != nil {
			return err
		}
	}
	last := len(ps.idle[k]) - 1
	p := ps.idle[k][last]
	ps.idle[k] = ps.idle[k][:last]
	if err := connect(p.fd, w.server); err != nil {
		ps.close(p)
		return fmt.Errorf("connect to %s: %w", w.server, err)
	}
	p.call, w.port = w, p
	return nil
}

func (ps *ports) open(k kind, now time.Time) error {
	var fds [portsAtOnce]int
	n, err := k.sockets.OpenUDP(k.family, fds[:])
	if err != nil {
		return err
	}
	for _, fd := range fds[:n] {
		p := &port{kind: k, fd: fd, since: now, number: ps.number()}
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: p.number, Pad: ps.tag}
		if err = unix.EpollCtl(ps.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
			k.sockets.CloseUDP(fd)
			continue
		}
		ps.all[p.number] = p
		ps.idle[k] = append(ps.idle[k], p)
	}
	if len(ps.idle[k]) == 0 {
		return fmt.Errorf("wait for a socket: %w", err)
	}
	return nil
}

// number is one that no port has, nor has had for as long as an event may be on its way.
func (ps *ports) number() int32 {
	for ps.last++; ps.last <= 0 || ps.all[ps.last] != nil; ps.last++ {
		ps.last = max(ps.last, 0)
	}
	return ps.last
}

// release takes back what was lent to w, if something still is.
func (ps *ports) release(w *call, now time.Time) {
	p := w.port
	if p == nil {
		return
	}
	p.call, w.port = nil, nil
	if len(ps.idle[p.kind]) >= maxIdle || disconnect(p.fd) != nil || !drain(p.fd) {
		ps.close(p)
		return
	}
	p.since = now
	ps.idle[p.kind] = append(ps.idle[p.kind], p)
}

// close closes a port that is not idle.
func (ps *ports) close(p *port) {
	if p.call != nil {
		p.call.port, p.call = nil, nil
	}
	delete(ps.all, p.number)
	p.sockets.CloseUDP(p.fd)
}

// drop closes a port, idle or not.
func (ps *ports) drop(p *port) {
	if p.call == nil {
		ps.forget(p.kind, func(other *port) bool { return other == p })
		return
	}
	ps.close(p)
}

// forget closes the idle ports of a kind that are to go.
func (ps *ports) forget(k kind, goes func(*port) bool) {
	rest := ps.idle[k][:0]
	for _, p := range ps.idle[k] {
		if goes(p) {
			ps.close(p)
		} else {
			rest = append(rest, p)
		}
	}
	clear(ps.idle[k][len(rest):])
	if ps.idle[k] = rest; len(rest) == 0 {
		delete(ps.idle, k)
	}
}

// sweep closes the ports that have been idle for long, and says when to look again; never if there are none.
func (ps *ports) sweep(now time.Time) (next time.Time, ok bool) {
	if len(ps.idle) == 0 {
		return next, false
	}
	if now.Sub(ps.swept) >= idleLast {
		ps.swept = now
		for k := range ps.idle {
			ps.forget(k, func(p *port) bool { return now.Sub(p.since) >= idleLast })
		}
	}
	return ps.swept.Add(idleLast), len(ps.idle) > 0
}

// id is a message ID that nobody can foresee (RFC 5452, section 9.1).
func (ps *ports) id() uint16 {
	if ps.used %= len(ps.ids); ps.used == 0 {
		_, _ = rand.Read(ps.ids[:]) // never fails
	}
	id := binary.BigEndian.Uint16(ps.ids[ps.used:])
	ps.used += 2
	return id
}

// connect connects a UDP socket, for which the kernel picks a port if it has none.
func connect(fd int, to netip.AddrPort) error {
	var raw [unix.SizeofSockaddrInet6]byte
	size := unix.SizeofSockaddrInet6
	binary.BigEndian.PutUint16(raw[2:], to.Port())
	if addr := to.Addr().Unmap(); addr.Is4() {
		size = unix.SizeofSockaddrInet4
		binary.NativeEndian.PutUint16(raw[:], unix.AF_INET)
		ip := addr.As4()
		copy(raw[4:], ip[:])
	} else {
		binary.NativeEndian.PutUint16(raw[:], unix.AF_INET6)
		ip := addr.As16()
		copy(raw[8:], ip[:])
	}
	return rawConnect(fd, &raw, size)
}

// disconnect gives a socket's port back.
func disconnect(fd int) error {
	var raw [unix.SizeofSockaddrInet6]byte // of no family
	return rawConnect(fd, &raw, unix.SizeofSockaddrInet4)
}

// drain throws away what a socket that is disconnected still holds: duplicates, errors, and what was meant to
// be taken for the answer to some other question. It reports false if that is too much.
func drain(fd int) bool {
	var b [1]byte
	for range maxMismatched {
		if _, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b)), 1); errno == unix.EAGAIN {
			return true
		}
	}
	return false
}

// rawConnect does not tell the runtime, which could only lend the processor out: it does not wait for anything.
func rawConnect(fd int, raw *[unix.SizeofSockaddrInet6]byte, size int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(raw)), uintptr(size))
	if errno != 0 {
		return errno
	}
	return nil
}
