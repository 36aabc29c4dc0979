package pods

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/dnsd/serve"
	"github.com/nodens-dns/nodens/ebpf"
)

// portTries bounds the search for a free port; in a band of a thousand the first is free all but always.
const portTries = 100

// listener is the pair of sockets that stands for one nameserver in one pod, both on one port.
type listener struct {
	nameserver netip.Addr
	udp        *serve.UDPSocket
	tcp        *serve.TCPListener
	client     *serve.Client // as whom it is served
}

func (l *listener) port() uint16 { return l.udp.Addr().Port() }

func (l *listener) close() {
	_ = l.udp.Close()
	_ = l.tcp.Close()
}

// listen opens both sockets for nameserver on the pod's address at, in the namespace of the calling
// thread: on port preferred if that is not zero and free, else on a random one of the band that is not
// in avoid. The caller owns the sockets.
func listen(nameserver, at netip.Addr, preferred uint16, avoid map[uint16]bool) (*listener, error) {
	port := preferred
	for range portTries {
		if port != 0 {
			l, err := bind(nameserver, netip.AddrPortFrom(at, port))
			if !errors.Is(err, unix.EADDRINUSE) {
				return l, err
			}
		}
		port = ebpf.PortLow + rand.N[uint16](ebpf.PortHigh-ebpf.PortLow+1)
		if avoid[port] {
			port = 0
		}
	}
	return nil, fmt.Errorf("listen on %s for nameserver %s: no port found free between %d and %d",
		at, nameserver, ebpf.PortLow, ebpf.PortHigh)
}

func bind(nameserver netip.Addr, at netip.AddrPort) (*listener, error) {
	family := "6"
	if at.Addr().Is4() {
		family = "4"
	}
	// An MPTCP listener could not stand in the kernel's table of listeners.
	config := net.ListenConfig{Control: prepare}
	config.SetMultipathTCP(false)
	// Both calls open their socket on the calling thread: at is an address, there is nothing to look up.
	conn, err := config.ListenPacket(context.Background(), "udp"+family, at.String())
	if err != nil {
		return nil, fmt.Errorf("listen for nameserver %s: %w", nameserver, err)
	}
	udp, err := serve.TakeUDP(conn.(*net.UDPConn))
	if err != nil {
		return nil, fmt.Errorf("listen for nameserver %s: %w", nameserver, err)
	}
	ln, err := config.Listen(context.Background(), "tcp"+family, at.String())
	var tcp *serve.TCPListener
	if err == nil {
		tcp, err = serve.TakeTCP(ln.(*net.TCPListener))
	}
	if err != nil {
		_ = udp.Close()
		return nil, fmt.Errorf("listen for nameserver %s: %w", nameserver, err)
	}
	return &listener{nameserver: nameserver, udp: udp, tcp: tcp}, nil
}

// prepare readies a socket between its making and its binding, so that there is no moment without the
// filter.
func prepare(network, _ string, c syscall.RawConn) error {
	var err error
	control := c.Control(func(fd uintptr) {
		// The address may still be tentative (duplicate address detection) when the pod is added.
		if strings.HasSuffix(network, "6") {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
		}
		if err == nil {
			err = onlyFromInside(int(fd))
		}
		if err == nil { // so that the kernel half knows it for ours before it is handed over
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(ebpf.Mark))
		}
	})
	return errors.Join(control, err)
}

// onlyFromInside makes the socket deaf to what did not come over lo, which is the first interface of
// every network namespace: the listener is on the pod's address, and nobody else's to use. Binding to
// the device would not do, since traffic of the pod to itself counts as its interface's.
func onlyFromInside(fd int) error {
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 1, SkipFalse: 1},
		bpf.RetConstant{Val: 1 << 18}, // bytes to keep: more than any packet has
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	if err != nil {
		return fmt.Errorf("attach the filter that keeps other hosts out: %w", err)
	}
	return nil
}

// with calls f with the descriptor of c.
func with(c syscall.Conn, f func(fd uintptr) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	control := raw.Control(func(fd uintptr) { err = f(fd) })
	return errors.Join(control, err)
}

// portOf is the port that stood for nameserver, or zero.
func portOf(nameserver netip.Addr, row []ebpf.Nameserver) uint16 {
	for _, n := range row {
		if n.Addr == nameserver {
			return n.Port
		}
	}
	return 0
}

// sameStart reports whether the rows agree as far as both reach.
func sameStart(a, b []ebpf.Nameserver) bool {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
