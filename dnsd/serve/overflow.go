package serve

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// memDrops is the place of the drops in what SO_MEMINFO returns, memInfo how much that is (SK_MEMINFO_DROPS
// and SK_MEMINFO_VARS of linux/sock_diag.h).
const memDrops, memInfo = 8, 9

// Lost is how many datagrams the kernel has thrown away instead of queueing them for u: for lack of room, or
// because they were not for u to have. It can be asked for when u is closed, too.
func (u *UDPSocket) Lost() uint64 {
	u.mu.RLock()
	defer u.mu.RUnlock()
	if u.fd < 0 {
		return u.lost
	}
	return lostBy(u.fd)
}

func lostBy(fd int) uint64 {
	var info [memInfo]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0 // a kernel that does not say
	}
	return uint64(info[memDrops])
}

// hold counts u among the sockets of k's pod, until drop.
func (k *socket) hold(u *UDPSocket) {
	k.server.mu.Lock()
	defer k.server.mu.Unlock()
	k.gate.udp[u] = struct{}{}
}

// drop ends that, and keeps count of what u lost.
func (k *socket) drop(u *UDPSocket) {
	k.server.mu.Lock()
	defer k.server.mu.Unlock()
	delete(k.gate.udp, u)
	k.server.past.stats.Overflowed += u.Lost()
}

// Dropped is how many queries of a pod (namespace/name) have been thrown away unread, or for want of a share
// of upstream, since it came: those that were too many.
func (s *Server) Dropped(pod string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gates[pod]
	if g == nil {
		return 0
	}
	n := g.counts.dropped.Load()
	for u := range g.udp {
		n += u.Lost()
	}
	return n
}
