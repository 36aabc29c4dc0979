package conformance_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/sandbox"
	"github.com/nodens-dns/nodens/conformance/script"
	"github.com/nodens-dns/nodens/conformance/world"
)

const chainManifest = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mesh}
spec:
  hosts: [mesh.internal]
  ports: [{name: tcp, number: 9000, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 203.0.113.1}, {address: "2001:db8:1::1"}]
`

// family is what addresses a pod has.
type family struct {
	name    string
	v4, v6  bool
	subnets func(of []netip.Prefix) []netip.Prefix
}

var families = []family{
	{"IPv4", true, false, func(of []netip.Prefix) []netip.Prefix { return of[:1] }},
	{"IPv6", false, true, func(of []netip.Prefix) []netip.Prefix { return of[1:] }},
	{"both", true, true, func(of []netip.Prefix) []netip.Prefix { return of }},
}

// TestChains puts nodens behind every kind of plugin that makes an interface, alone and in the middle of
// the plugins that usually come along: mesh names, virtual addresses and everybody else's names work in
// each, and a pod goes without leaving anything.
func TestChains(t *testing.T) {
	w := script.NewWorld(t)
	if err := os.WriteFile(filepath.Join(w.ManifestDir(), "mesh.yaml"), []byte(chainManifest), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		w.Zone.Set("outside.example", "A", 60, "198.51.100.7"),
		w.Zone.Set("outside.example", "AAAA", 60, "2001:db8:100::7"),
		w.StartDnsd(true),
	); err != nil {
		t.Fatal(err)
	}
	around := func(name string) []map[string]any {
		return []map[string]any{
			{"type": "tuning", "sysctl": map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}},
			nil, // nodens
			{"type": "portmap", "backend": "nftables", "capabilities": map[string]bool{"portMappings": true}},
			{"type": "bandwidth", "ingressRate": 1 << 30, "ingressBurst": 1 << 24},
			{"type": "firewall", "backend": "iptables", "iptablesAdminChainName": "ADM-" + name},
		}
	}
	var table strings.Builder
	for _, main := range []string{"bridge", "ptp", "macvlan", "ipvlan"} {
		for _, f := range families {
			for _, crowd := range []string{"alone", "crowded"} {
				t.Run(main+"/"+f.name+"/"+crowd, func(t *testing.T) {
					defer func() { fmt.Fprintf(&table, "%-8s %-5s %-8s %s\n", main, f.name, crowd, outcome(t)) }()
					needLink(t, main)
					name := strings.ToLower(main + f.name + crowd)
					plugins := []map[string]any{mainPlugin(w, main, f), nil}
					if crowd == "crowded" {
						plugins = append(plugins[:1], around(main)...)
						if main == "macvlan" || main == "ipvlan" { // no veth to shape
							plugins = slices.DeleteFunc(plugins, func(p map[string]any) bool { return p["type"] == "bandwidth" })
						}
					}
					if err := w.WriteChain(name, plugins...); err != nil {
						t.Fatal(err)
					}
					checkChain(t, w, name, f)
				})
			}
		}
	}
	t.Log("\n" + table.String())
}

func outcome(t *testing.T) string {
	switch {
	case t.Failed():
		return "FAILED"
	case t.Skipped():
		return "skipped"
	}
	return "ok"
}

// needLink skips what the kernel has no driver for.
func needLink(t *testing.T, kind string) {
	t.Helper()
	if kind != "ipvlan" {
		return
	}
	err := sandbox.Netns(t).Do(func() error {
		dummy := netlink.NewVeth(netlink.LinkAttrs{Name: "parent"})
		dummy.PeerName = "peer"
		if err := netlink.LinkAdd(dummy); err != nil {
			return err
		}
		return netlink.LinkAdd(&netlink.IPVlan{LinkAttrs: netlink.LinkAttrs{Name: "child", ParentIndex: dummy.Attrs().Index}})
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("this kernel has no ipvlan (CONFIG_IPVLAN)")
	}
}

func mainPlugin(w *world.World, main string, f family) map[string]any {
	switch main {
	case "bridge":
		return map[string]any{"type": "bridge", "bridge": "pods0", "isGateway": true, "ipam": w.Ipam(f.subnets(world.PodSubnets)...)}
	case "ptp":
		return map[string]any{"type": "ptp", "ipam": w.Ipam(f.subnets(world.PodSubnets)...)}
	}
	return map[string]any{"type": main, "master": world.Uplink, "ipam": w.Ipam(f.subnets(world.LinkSubnets)...)}
}

// checkChain makes a pod of the network, asks for all kinds of names, connects, and deletes it.
func checkChain(t *testing.T, w *world.World, chain string, f family) {
	t.Helper()
	spec := world.PodSpec{Name: chain, Chain: chain}
	if f.v4 {
		spec.Nameservers = append(spec.Nameservers, world.Nameservers[0])
	}
	if f.v6 {
		spec.Nameservers = append(spec.Nameservers, world.Nameservers[1])
	}
	p, err := w.NewPod(spec)
	if err != nil {
		t.Fatal(err)
	}
	// ADD may have had too little time on a busy machine; dnsd catches up.
	if err := world.Until(20*time.Second, p.Check); err != nil {
		t.Error(err)
	}
	for _, server := range spec.Nameservers {
		for _, tcp := range []bool{false, true} {
			checkAnswers(t, p, server, tcp, f)
		}
	}
	visits, err := p.Connect(app.Target{Network: "tcp", Host: "mesh.internal", Port: 9000, Count: 4})
	if err != nil || visits.Failed() > 0 {
		t.Errorf("connect to mesh.internal: %v\n%s", err, visits)
	}
	for peer := range visits.Peers {
		if addr := netip.MustParseAddrPort(peer).Addr(); !netip.MustParsePrefix("240.0.0.0/4").Contains(addr) && !netip.MustParsePrefix("2001:2::/48").Contains(addr) {
			t.Errorf("the application sees its peer as %s, not as the virtual address", peer)
		}
	}
	if err := errors.Join(p.Delete(), world.Until(20*time.Second, p.Gone)); err != nil {
		t.Error(err)
	}
}

func checkAnswers(t *testing.T, p *world.Pod, server netip.Addr, tcp bool, f family) {
	t.Helper()
	for _, q := range []struct{ name, qtype, want string }{
		{"mesh.internal.", "A", map[bool]string{true: " 240."}[f.v4]},
		{"mesh.internal.", "AAAA", map[bool]string{true: " 2001:2:"}[f.v6]},
		{"outside.example.", "A", " 198.51.100.7"},
		{"outside.example.", "AAAA", " 2001:db8:100::7"},
	} {
		r, err := p.Dig(app.Question{Name: q.name, Type: q.qtype, Server: server.String(), TCP: tcp, Timeout: 5 * time.Second})
		if err != nil {
			t.Errorf("%s %s of %s: %v", q.name, q.qtype, server, err)
			continue
		}
		if q.want != "" && (len(r.Answer) != 1 || !strings.Contains(r.Answer[0], q.want)) {
			t.Errorf("%s %s of %s, want%s:\n%s", q.name, q.qtype, server, q.want, r)
		}
		if peer := netip.MustParseAddrPort(r.Peer).Addr(); peer != server {
			t.Errorf("%s %s of %s came from %s", q.name, q.qtype, server, peer)
		}
	}
}
