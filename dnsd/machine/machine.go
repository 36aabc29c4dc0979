// Package machine says what dnsd's own machine is like: its nameservers and addresses, and how dnsd's own
// sockets pass dnsd by.
package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/dnsd/upstream"
	"github.com/nodens-dns/nodens/ebpf"
)

// files are where a machine says whom it asks.
type files struct {
	// resolvConf is where the C library looks. When all it names is a stub on this machine, the stub's own
	// servers are in behindStub, if the stub is systemd-resolved.
	resolvConf, behindStub string
}

// Attachment says what this machine's own network namespace is like, for its processes to be served as a
// pod's are: the servers that leave the machine, and the interface and addresses by which it reaches them. It
// does not block.
//
// A stub is not captured itself: programs reach systemd-resolved by other ways, too (nss-resolve, D-Bus),
// and all of them come to what it asks. Its questions are turned to dnsd, and dnsd's carry the mark and go
// out, so none comes round again. With both captured a question would pass dnsd twice, and when the
// servers fail, dnsd would ask the stub, which asks dnsd.
func Attachment() (attach.Attachment, error) {
	return files{resolvConf: "/etc/resolv.conf", behindStub: "/run/systemd/resolve/resolv.conf"}.attachment()
}

func (m files) attachment() (attach.Attachment, error) {
	servers, search, err := upstream.ResolvConf(m.resolvConf)
	if err != nil {
		return attach.Attachment{}, err
	}
	away := outside(servers)
	if len(away) == 0 {
		servers, _, err := upstream.ResolvConf(m.behindStub)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return attach.Attachment{}, err
		}
		away = outside(servers)
	}
	a := attach.Attachment{DNS: attach.DNS{Nameservers: away, Searches: search}}
	// Without a server to go by, the way is the one to everywhere.
	return a, locate(&a, slices.Concat(away, everywhere))
}

// everywhere is nobody (RFC 5737, RFC 3849): the way there is the default one.
var everywhere = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}

// outside leaves out what is on this machine.
func outside(servers []netip.AddrPort) (away []netip.Addr) {
	for _, s := range servers {
		if !s.Addr().IsLoopback() {
			away = append(away, s.Addr())
		}
	}
	return away
}

// locate sets a's interface and addresses: first those the machine has towards the first of these
// destinations of each family, then all others, none of which can be a nameserver beyond it.
func locate(a *attach.Attachment, towards []netip.Addr) error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var first, others []netip.Prefix
	for _, to := range towards {
		from := Towards(to)
		if !from.IsValid() || from.IsLoopback() || slices.ContainsFunc(first, func(p netip.Prefix) bool { return p.Addr().Is4() == from.Is4() }) {
			continue
		}
		first = append(first, netip.PrefixFrom(from, from.BitLen()))
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it has gone meanwhile
		}
		for _, text := range addrs {
			p, err := netip.ParsePrefix(text.String())
			if err != nil || p.Addr().IsLoopback() {
				continue
			}
			if len(first) > 0 && p.Addr() == first[0].Addr() {
				a.Interface = i.Name
			}
			if !slices.ContainsFunc(first, func(f netip.Prefix) bool { return f.Addr() == p.Addr() }) {
				others = append(others, p)
			}
		}
	}
	if a.Interface == "" {
		return errors.New("this machine has no way to a nameserver yet: no address, or no route")
	}
	a.Addresses = append(first, others...)
	return nil
}

// Towards is the address this machine has towards to, invalid without a route. Nothing is sent.
func Towards(to netip.Addr) netip.Addr {
	c, err := Marked.Dial("udp", netip.AddrPortFrom(to, 9).String()) // discard
	if err != nil {
		return netip.Addr{}
	}
	defer func() { _ = c.Close() }()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// Own finds this node's address for routes: the configured one, else the one that packets to the world
// leave with. It is asked anew each time: a node may be started before it has a route, and be given another
// address later.
func Own(configured netip.Addr) func() (netip.Addr, error) {
	return func() (netip.Addr, error) {
		if configured.IsValid() {
			return configured, nil
		}
		for _, far := range everywhere {
			if own := Towards(far); own.IsValid() {
				return own, nil
			}
		}
		return netip.Addr{}, errors.New("the node has no default route: name its address in routes.address")
	}
}

// Marked opens dnsd's own sockets, whose queries are never turned to dnsd.
var Marked = &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
	var err error
	control := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(ebpf.Mark))
	})
	if err != nil {
		err = fmt.Errorf("mark the socket: %w", err)
	}
	return errors.Join(control, err)
}}

// LookUpMarked has names that dnsd itself needs, as its control plane's, looked up past dnsd: it must not
// wait for its own answers.
func LookUpMarked() {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		return Marked.DialContext(ctx, network, address)
	}}
}
