package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

// proxy is one of kube-proxy's ways to put services into the kernel.
type proxy struct {
	name string
	// restore is the command that loads rules, change the one that changes some of them.
	restore, change []string
	// batch is how many services at a time are loaded fastest; 0: all.
	batch int
	// rules are those of the services from one number up to, not including, another; changed those that
	// give one service another endpoint.
	rules   func(o options, from, to int, w io.Writer)
	changed func(service int, endpoint netip.AddrPort, w io.Writer)
}

var proxies = []proxy{
	{"nftables", []string{"nft", "-f", "-"}, []string{"nft", "-f", "-"}, 500, nftables, nftablesChange},
	{"iptables, legacy", []string{"iptables-legacy-restore"}, []string{"iptables-legacy-restore", "--noflush"}, 0, iptables, iptablesChange},
	{"iptables over nftables", []string{"iptables-nft-restore"}, []string{"iptables-nft-restore", "--noflush"}, 0, iptables, iptablesChange},
}

// load puts all services into a node's kernel and says how long that took.
func (p proxy) load(o options, node *sandbox.NS) (time.Duration, error) {
	batch := cmp.Or(p.batch, o.services)
	var took time.Duration
	for from := 0; from < o.services; from += batch {
		var text bytes.Buffer
		p.rules(o, from, min(from+batch, o.services), &text)
		start := time.Now()
		if err := command(node, &text, p.restore[0], p.restore[1:]...); err != nil {
			return 0, err
		}
		took += time.Since(start)
	}
	return took, nil
}

// replace gives the middle service another endpoint in the place of its first, and says how long that took.
func (p proxy) replace(o options, node *sandbox.NS, endpoint netip.AddrPort) (time.Duration, error) {
	var text bytes.Buffer
	p.changed(o.services/2, endpoint, &text)
	start := time.Now()
	err := command(node, &text, p.change[0], p.change[1:]...)
	return time.Since(start), err
}

// nftables writes what kube-proxy's nftables mode does: one look-up of address, protocol and port leads to
// a service's chain, a random number there to an endpoint's. Left out is what decides about masquerading
// by where a packet comes from, and about ports nobody serves.
func nftables(o options, from, to int, w io.Writer) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
	if from == 0 {
		p(nftablesBase)
	}
	p("table ip kube-proxy {\n")
	for i := from; i < to; i++ {
		endpoints := make([]string, o.endpoints)
		for k := range o.endpoints {
			nftablesEndpoint(w, i, k, o.backend(i, k))
			endpoints[k] = fmt.Sprintf("%d : goto endpoint-%d-%d", k, i, k)
		}
		p("chain service-%d { numgen random mod %d vmap { %s }; }\n", i, o.endpoints, strings.Join(endpoints, ", "))
	}
	p("}\nadd element ip kube-proxy service-ips {\n")
	for i := from; i < to; i++ {
		p("%s . tcp . %d : goto service-%d,\n", vip(i).Addr(), vip(i).Port(), i)
	}
	p("}\n")
}

const nftablesBase = `table ip kube-proxy {
	map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
	chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
	chain nat-output { type nat hook output priority -100; jump services; }
	chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
	chain masquerading { meta mark and 0x4000 == 0 return; meta mark set meta mark xor 0x4000; masquerade fully-random; }
	chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
}
`

func nftablesEndpoint(w io.Writer, i, k int, at netip.AddrPort) {
	_, _ = fmt.Fprintf(w, "chain endpoint-%d-%d { ip saddr %s jump mark-for-masquerade; meta l4proto tcp dnat to %s; }\n", i, k, at.Addr(), at)
}

func nftablesChange(i int, at netip.AddrPort, w io.Writer) {
	_, _ = fmt.Fprintf(w, "flush chain ip kube-proxy endpoint-%d-0\ntable ip kube-proxy {\n", i)
	nftablesEndpoint(w, i, 0, at)
	_, _ = fmt.Fprint(w, "}\n")
}

// iptables writes what kube-proxy's iptables mode does: one rule after the other for all services, in a
// service's chain one for each endpoint. Left out is the same as of nftables, and comments.
func iptables(o options, from, to int, w io.Writer) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
	p("*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n")
	p(":KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n")
	for i := from; i < to; i++ {
		p(":KUBE-SVC-%d - [0:0]\n", i)
		for k := range o.endpoints {
			p(":KUBE-SEP-%d-%d - [0:0]\n", i, k)
		}
	}
	p("-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n")
	p("-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n")
	p("-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n-A KUBE-POSTROUTING -j MASQUERADE --random-fully\n")
	for i := from; i < to; i++ {
		p("-A KUBE-SERVICES -d %s/32 -p tcp -m tcp --dport %d -j KUBE-SVC-%d\n", vip(i).Addr(), vip(i).Port(), i)
		for k := range o.endpoints {
			pick := fmt.Sprintf("-m statistic --mode random --probability %.10f ", 1/float64(o.endpoints-k))
			if k == o.endpoints-1 {
				pick = ""
			}
			p("-A KUBE-SVC-%d %s-j KUBE-SEP-%d-%d\n", i, pick, i, k)
			iptablesEndpoint(w, i, k, o.backend(i, k))
		}
	}
	p("COMMIT\n")
}

func iptablesEndpoint(w io.Writer, i, k int, at netip.AddrPort) {
	chain := fmt.Sprintf("KUBE-SEP-%d-%d", i, k)
	_, _ = fmt.Fprintf(w, "-A %s -s %s/32 -j KUBE-MARK-MASQ\n-A %[1]s -p tcp -m tcp -j DNAT --to-destination %[3]s\n", chain, at.Addr(), at)
}

func iptablesChange(i int, at netip.AddrPort, w io.Writer) {
	_, _ = fmt.Fprintf(w, "*nat\n:KUBE-SEP-%d-0 - [0:0]\n", i)
	iptablesEndpoint(w, i, 0, at)
	_, _ = fmt.Fprint(w, "COMMIT\n")
}
