package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

// lane is one way from a pod to the backends: three network namespaces in a row, the pod's, the node's,
// which forwards, and one in which every address of the backends' range is answered.
type lane struct {
	name           string
	pod, node, far *sandbox.NS
	listener       int // a listening socket in far
}

// newLane makes one. What it could make is closed with the lane, also after an error.
func newLane(name string) (*lane, error) {
	l := &lane{name: name, listener: -1}
	return l, l.build()
}

func (l *lane) build() (err error) {
	for _, ns := range []struct {
		at   **sandbox.NS
		name string
	}{{&l.pod, "pod"}, {&l.node, "node"}, {&l.far, "far"}} {
		if *ns.at, err = sandbox.NewNetns(fmt.Sprintf("benchlb-%d-%s-%s", os.Getpid(), l.name, ns.name)); err != nil {
			return err
		}
	}
	if err := sandbox.Veth("pod0", l.pod, []string{"10.200.0.2/24"}, l.node, []string{"10.200.0.1/24"}); err != nil {
		return err
	}
	if err := sandbox.Veth("far0", l.node, []string{"10.201.0.1/24"}, l.far, []string{"10.201.0.2/24"}); err != nil {
		return err
	}
	everything := netip.MustParsePrefix("0.0.0.0/0")
	return errors.Join(
		l.pod.Do(func() error { return route("pod0", everything, "10.200.0.1") }),
		l.node.Do(func() error {
			forward := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
			return errors.Join(forward, route("far0", backendRange, "10.201.0.2"))
		}),
		l.far.Do(func() error {
			return errors.Join(route("far0", everything, "10.201.0.1"), route("lo", backendRange, ""), l.listen())
		}),
	)
}

// route adds one; without a gateway all addresses of it are this namespace's own.
func route(dev string, to netip.Prefix, via string) error {
	link, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	r := &netlink.Route{
		LinkIndex: link.Attrs().Index,
		Dst:       &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), 32)},
	}
	if via == "" {
		r.Type, r.Table, r.Scope = unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, unix.RT_SCOPE_HOST
	} else {
		r.Gw = net.ParseIP(via)
	}
	if err := netlink.RouteAdd(r); err != nil {
		return fmt.Errorf("add route %s dev %s: %w", to, dev, err)
	}
	return nil
}

// listen opens the one socket that all backends are. Nobody accepts while a clock runs.
func (l *lane) listen() (err error) {
	l.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(l.listener, &unix.SockaddrInet4{Port: backendPort}); err != nil {
		return err
	}
	return unix.Listen(l.listener, 4096)
}

// drain accepts and closes what has been connected.
func (l *lane) drain() (accepted int) {
	for {
		fd, _, err := unix.Accept4(l.listener, unix.SOCK_CLOEXEC)
		if err != nil {
			return accepted
		}
		_ = unix.Close(fd)
		accepted++
	}
}

func (l *lane) close() error {
	var errs []error
	if l.listener >= 0 {
		_ = unix.Close(l.listener)
	}
	for _, ns := range []*sandbox.NS{l.pod, l.node, l.far} {
		if ns != nil {
			errs = append(errs, ns.Close())
		}
	}
	return errors.Join(errs...)
}

// command runs a program in a namespace, fed with stdin.
func command(ns *sandbox.NS, stdin io.Reader, name string, args ...string) error {
	return ns.Do(func() error {
		cmd := exec.Command(name, args...)
		cmd.Stdin = stdin
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, text[:min(len(text), 1000)])
		}
		return nil
	})
}

// group is a cgroup this process can step into and out of: only inside do the programs attached there
// see the sockets it opens.
type group struct{ dir, home string }

func newGroup() (*group, error) {
	root, err := sandbox.FindCgroupRoot()
	if err != nil {
		return nil, err
	}
	g := &group{dir: filepath.Join(root, fmt.Sprintf("benchlb-%d", os.Getpid())), home: root}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(text), "\n")
	if i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "0::") }); i >= 0 {
		g.home = filepath.Join(root, strings.TrimPrefix(lines[i], "0::"))
	}
	return g, os.Mkdir(g.dir, 0o755)
}

func (g *group) enter() error { return moveTo(g.dir) }
func (g *group) leave() error { return moveTo(g.home) }
func (g *group) close() error { return errors.Join(g.leave(), os.Remove(g.dir)) }

func moveTo(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, os.Getpid()), 0)
}
