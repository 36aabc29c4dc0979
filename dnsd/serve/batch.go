package serve

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many queries of a socket are answered before it is the next one's turn. One that is never
// empty costs the others that much work each time round; more of them save a hundredth of a query's time.
const batchSize = 4

// batch is what is read from a socket and written to it in one go. One serves all the sockets of a loop in
// turn, so that a pod costs no buffers.
type batch struct {
	in    [batchSize][maxQuery]byte
	out   [batchSize][replySize]byte
	peers [batchSize]peer
	// What the kernel is handed: the first received messages that may arrive, the first replies that go out.
	received, replies         [batchSize]message
	receivedInto, repliesFrom [batchSize]unix.Iovec
	queued                    int
}

// message is the kernel's struct mmsghdr.
type message struct {
	header unix.Msghdr
	size   uint32
}

// peer is where a query came from: a struct sockaddr, and its length.
type peer struct {
	name [unix.SizeofSockaddrInet6]byte
	size uint32
}

func newBatch() *batch {
	b := new(batch)
	for i := range batchSize {
		b.receivedInto[i].Base = &b.in[i][0]
		b.receivedInto[i].SetLen(maxQuery)
		b.received[i].header.Name = &b.peers[i].name[0]
		b.received[i].header.Iov = &b.receivedInto[i]
		b.received[i].header.SetIovlen(1)
		b.replies[i].header.Iov = &b.repliesFrom[i]
		b.replies[i].header.SetIovlen(1)
	}
	return b
}

// receive reads what there is, without waiting, and returns how many messages that were.
func (b *batch) receive(fd int) (n int, err error) {
	for i := range b.received {
		b.received[i].header.Namelen = uint32(len(b.peers[i].name))
	}
	for {
		n, err := messages(unix.SYS_RECVMMSG, fd, b.received[:])
		switch err {
		case nil:
			for i := range n {
				b.peers[i].size = b.received[i].header.Namelen
			}
			return n, nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, nil
		default:
			return 0, err
		}
	}
}

// query is the i-th message read, peer whom it is from, space what the reply to it may be written into.
func (b *batch) query(i int) []byte { return b.in[i][:b.received[i].size] }
func (b *batch) peer(i int) *peer   { return &b.peers[i] }
func (b *batch) space(i int) []byte { return b.out[i][:] }

// reply queues the reply to the i-th message.
func (b *batch) reply(i int, reply []byte) {
	m := &b.replies[b.queued]
	m.header.Name, m.header.Namelen = &b.peers[i].name[0], b.peers[i].size
	m.header.Iov.Base = &reply[0]
	m.header.Iov.SetLen(len(reply))
	b.queued++
}

// send sends what is queued, as far as that is possible without waiting.
func (b *batch) send(fd int) {
	for rest := b.replies[:b.queued]; len(rest) > 0; {
		n, err := messages(unix.SYS_SENDMMSG, fd, rest)
		if err != nil && err != unix.EINTR {
			n = 1 // the one that cannot be sent
		}
		rest = rest[n:]
	}
	b.queued = 0
}

// messages calls recvmmsg or sendmmsg.
func messages(call uintptr, fd int, all []message) (int, error) {
	n, _, errno := syscall.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&all[0])), uintptr(len(all)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// send sends one reply.
func (p *peer) send(fd int, reply []byte) error {
	from := unix.Iovec{Base: &reply[0]}
	from.SetLen(len(reply))
	one := [1]message{{header: unix.Msghdr{Name: &p.name[0], Namelen: p.size, Iov: &from}}}
	one[0].header.SetIovlen(1)
	_, err := messages(unix.SYS_SENDMMSG, fd, one[:])
	return err
}

// addrPort is p as an address and a port.
func (p *peer) addrPort() netip.AddrPort {
	port := binary.BigEndian.Uint16(p.name[2:])
	if p.size == unix.SizeofSockaddrInet4 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(p.name[4:8])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(p.name[8:24])), port)
}
