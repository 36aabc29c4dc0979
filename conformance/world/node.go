package world

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

// The addresses of every world are the same: its namespaces keep them apart.
var (
	// PodSubnets are what host-local gives pods addresses from.
	PodSubnets = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd44::/64")}
	// Nameservers are the internet's; the first of each family is in the pods' resolv.conf.
	Nameservers = []netip.Addr{
		netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd96::10"), netip.MustParseAddr("10.96.0.11"),
	}
	nodeUplink     = []netip.Prefix{netip.MustParsePrefix("172.31.0.1/30"), netip.MustParsePrefix("fd31::1/64")}
	internetUplink = []netip.Prefix{netip.MustParsePrefix("172.31.0.2/30"), netip.MustParsePrefix("fd31::2/64")}
	// LinkSubnets are those of pods that sit on the cable itself, as macvlan makes them: their gateway,
	// whose address this is, is the internet.
	LinkSubnets = []netip.Prefix{netip.MustParsePrefix("172.31.1.1/24"), netip.MustParsePrefix("fd31:1::1/64")}
	everything  = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
)

// Uplink is the node's end of the cable to the internet.
const Uplink = "uplink"

// wire makes the two namespaces and the cable between them. The node routes; in the internet every
// address in the world is local, so a packet that should never have left the node is answered too, and
// the answer names the address it went to.
func (w *World) wire() error {
	var err error
	if w.Node, err = sandbox.NewNetns(Prefix + w.ID + "-node"); err != nil {
		return err
	}
	if w.Internet, err = sandbox.NewNetns(Prefix + w.ID + "-internet"); err != nil {
		return err
	}
	// Without a link-local address, for two seconds of duplicate address detection, no router forwards.
	for _, ns := range []*sandbox.NS{w.Node, w.Internet} {
		if err := ns.Do(func() error { return setSysctl("ipv6/conf/default/accept_dad", "0") }); err != nil {
			return err
		}
	}
	if err := sandbox.Veth(Uplink, w.Node, texts(nodeUplink), w.Internet, texts(append(slices.Clone(internetUplink), LinkSubnets...))); err != nil {
		return err
	}
	if err := w.Node.Do(func() error {
		for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := setSysctl(key, "1"); err != nil {
				return err
			}
		}
		for i, dst := range everything {
			if err := addRoute(Uplink, dst, internetUplink[i].Addr(), unix.RTN_UNICAST); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("wire the node: %w", err)
	}
	if err := w.Internet.Do(func() error {
		// Sockets may be bound to, and answer from, addresses that no interface has.
		for _, key := range []string{"ipv4/ip_nonlocal_bind", "ipv6/ip_nonlocal_bind"} {
			if err := setSysctl(key, "1"); err != nil {
				return err
			}
		}
		for i, dst := range everything {
			if err := addRoute(Uplink, PodSubnets[i], nodeUplink[i].Addr(), unix.RTN_UNICAST); err != nil {
				return err
			}
			if err := addRoute("lo", dst, netip.Addr{}, unix.RTN_LOCAL); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("wire the internet: %w", err)
	}
	return nil
}

// nodeNameservers are those of this machine's resolv.conf, which dnsd reads: in a world they are played
// by nameservers that know the internet, but nothing of the cluster's domain.
func nodeNameservers() []netip.Addr {
	conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	var addrs []netip.Addr
	for _, text := range conf.Servers {
		if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" && !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

func texts(prefixes []netip.Prefix) []string {
	var s []string
	for _, p := range prefixes {
		s = append(s, p.String())
	}
	return s
}

func setSysctl(key, value string) error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0) }

func addRoute(dev string, dst netip.Prefix, via netip.Addr, kind int) error {
	link, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Type: kind, Dst: ipNet(dst)}
	if via.IsValid() {
		route.Gw = via.AsSlice()
	}
	if kind == unix.RTN_LOCAL && dst.Addr().Is4() {
		route.Scope = netlink.SCOPE_HOST
	}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("route %s dev %s: %w", dst, dev, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
