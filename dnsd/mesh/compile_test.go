package mesh

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

var (
	testV4 = netip.MustParsePrefix("240.241.0.0/16")
	testV6 = netip.MustParsePrefix("2001:2::/48")
)

// newVIPs returns an empty memory of pairs that is never written down.
func newVIPs(t testing.TB) *VIPs {
	t.Helper()
	v, err := OpenVIPs("", testV4, testV6)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// show writes a plan as one line per fact. The addresses given to a host are written host/4 and
// host/6, or host/46 where both do the same, since which ones they are does not matter.
func show(p *Plan, vips *VIPs) string {
	var b strings.Builder
	addr := func(a netip.Addr) string {
		switch host := vips.holder(a); {
		case host == "":
			return a.String()
		case a.Is4():
			return host + "/4"
		default:
			return host + "/6"
		}
	}
	for _, n := range p.Names {
		fmt.Fprintf(&b, "name %s%s =", n.Host, at(n.View))
		for _, a := range append(append([]netip.Addr{}, n.Addr4...), n.Addr6...) {
			fmt.Fprintf(&b, " %s", addr(a))
		}
		if n.CNAME != "" {
			fmt.Fprintf(&b, " CNAME %s", n.CNAME)
		}
		for _, rec := range n.Records {
			fmt.Fprintf(&b, " %s:%v", rec.Label, rec.Addresses)
		}
		if n.Virtual {
			b.WriteString(" virtual")
		}
		b.WriteByte('\n')
	}
	b.WriteString(showFrontends(p.Frontends, addr))
	for _, a := range p.Assignments {
		fmt.Fprintf(&b, "serve %s %s:%s\n", a.Name, a.LbPolicy, showLocalities(a.Localities))
	}
	for _, w := range p.Watch {
		fmt.Fprintf(&b, "watch %s %s", w.Lookup.Name, w.Lookup.Family)
		if w.Ordered {
			b.WriteString(" first")
		}
		for _, s := range w.Schedules {
			fmt.Fprintf(&b, " every %s", s.RefreshRate)
		}
		b.WriteByte('\n')
	}
	for _, pr := range p.Problems {
		fmt.Fprintf(&b, "problem %s %s: %s\n", pr.Source, pr.Object, pr.Reason)
	}
	return b.String()
}

func showFrontends(frontends []*Frontend, addr func(netip.Addr) string) string {
	lines := make(map[string]bool)
	for _, f := range frontends {
		lines[fmt.Sprintf("front %s:%d/%s%s -> %s\n", addr(f.Address), f.Port, f.Protocol, at(f.View), f.Assignment)] = true
	}
	for line := range lines {
		if other := strings.Replace(line, "/4:", "/6:", 1); other != line && lines[other] {
			delete(lines, line)
			delete(lines, other)
			lines[strings.Replace(line, "/4:", "/46:", 1)] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(lines)), "")
}

func at(view string) string {
	if view == "" {
		return ""
	}
	return "@" + view
}

func showLocalities(localities []AssignedLocality) string {
	var b strings.Builder
	for _, loc := range localities {
		if loc.Priority > 0 || loc.Weight > 1 || loc.Region != "" {
			fmt.Fprintf(&b, " [%s p%d w%d]", loc.Region, loc.Priority, loc.Weight)
		}
		for _, e := range loc.Endpoints {
			fmt.Fprintf(&b, " %s", e.Address)
			if e.Weight > 1 {
				fmt.Fprintf(&b, "*%d", e.Weight)
			}
			if e.Unhealthy {
				b.WriteString("!")
			}
		}
	}
	return b.String()
}

// compare fails the test with the lines that differ.
func compare(t *testing.T, got, want string) {
	t.Helper()
	trim := func(s string) []string {
		lines := strings.Split(strings.TrimSpace(s), "\n")
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		return lines
	}
	g, w := trim(got), trim(want)
	if strings.Join(g, "\n") != strings.Join(w, "\n") {
		t.Errorf("got:\n\t%s\nwant:\n\t%s", strings.Join(g, "\n\t"), strings.Join(w, "\n\t"))
	}
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func ips(list ...string) []netip.Addr {
	var addrs []netip.Addr
	for _, s := range list {
		addrs = append(addrs, ip(s))
	}
	return addrs
}

// auto is a host that wants a virtual address, with one TCP port per cluster "outbound|port||name".
func auto(name string, ports ...uint16) Host {
	return Host{Name: name, Object: "ServiceEntry ns1/" + name, Namespace: "ns1", Allocate: true, Ports: tcp(name, ports...)}
}

func tcp(name string, numbers ...uint16) []Port {
	var ports []Port
	for _, n := range numbers {
		ports = append(ports, Port{Name: "tcp", Number: n, Protocol: TCP, Cluster: outbound(name, n)})
	}
	return ports
}

func outbound(name string, port uint16) string { return fmt.Sprintf("outbound|%d||%s", port, name) }

// static is a cluster of addresses written "192.0.2.1:80".
func static(name string, addrs ...string) Cluster {
	return Cluster{Name: name, Discovery: Static, Balancing: Balancing{LbPolicy: LeastRequest}, Localities: []Locality{{Endpoints: endpoints(addrs...)}}}
}

func endpoints(addrs ...string) []Endpoint {
	var list []Endpoint
	for _, a := range addrs {
		ap := netip.MustParseAddrPort(a)
		list = append(list, Endpoint{Address: ap.Addr().String(), Port: ap.Port()})
	}
	return list
}

// strict is a STRICT_DNS cluster that looks up name.
func strict(cluster, name string, port uint16) Cluster {
	return Cluster{
		Name: cluster, Discovery: StrictDNS, Balancing: Balancing{LbPolicy: LeastRequest},
		Localities: []Locality{{Endpoints: []Endpoint{{Address: name, Port: port}}}},
		DNS:        &DNS{Family: V4Only},
	}
}

func resolved(name string, addrs ...string) Resolution {
	return Resolution{Lookup: Lookup{Name: name, Family: V4Only}, Addresses: ips(addrs...)}
}

func input(source string, parts ...any) Input {
	in := Input{Source: source}
	for _, p := range parts {
		switch p := p.(type) {
		case Host:
			in.Hosts = append(in.Hosts, p)
		case Listener:
			in.Listeners = append(in.Listeners, p)
		case Cluster:
			in.Clusters = append(in.Clusters, p)
		case Resolution:
			in.Resolutions = append(in.Resolutions, p)
		default:
			panic(fmt.Sprintf("%T is no part of an input", p))
		}
	}
	return in
}

// with returns a changed copy of a host or cluster.
func with[T any](v T, change func(*T)) T {
	change(&v)
	return v
}

type compileCase struct {
	name   string
	inputs []Input
	want   string
}

func runCases(t *testing.T, cases []compileCase) {
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			vips := newVIPs(t)
			compare(t, show(Compile(tc.inputs, vips), vips), tc.want)
		})
	}
}

// TestSeeds compiles the objects the project began with, as a source reads them.
func TestSeeds(t *testing.T) {
	address := Host{
		Name: "address.internal", Object: "ServiceEntry default/external-address", Namespace: "default",
		Addresses: ips("198.51.100.1"), Ports: []Port{{Name: "http", Number: 80, Protocol: TCP}},
	}
	rds := func(n string) string { return "mysql-instance" + n + ".us-east-1.rds.amazonaws.com" }
	runCases(t, []compileCase{{
		"one name with three addresses, and another not looked up yet",
		[]Input{
			input("file", auto("news.google.com", 80), strict("outbound|80||news.google.com", "news.google.com", 80),
				auto("auto.internal", 80), strict("outbound|80||auto.internal", "auto.internal", 80)),
			input("resolve", resolved("news.google.com", "203.0.113.3", "203.0.113.1", "203.0.113.2")),
		},
		`name auto.internal = auto.internal/4 auto.internal/6 virtual
		name news.google.com = news.google.com/4 virtual
		front auto.internal/46:0/any -> file/auto.internal:any
		front auto.internal/46:80/TCP -> file/outbound|80||auto.internal
		front news.google.com/46:0/any -> file/news.google.com:any
		front news.google.com/46:80/TCP -> file/outbound|80||news.google.com
		serve file/auto.internal:any LEAST_REQUEST:
		serve file/news.google.com:any LEAST_REQUEST: 203.0.113.1:0 203.0.113.2:0 203.0.113.3:0
		serve file/outbound|80||auto.internal LEAST_REQUEST:
		serve file/outbound|80||news.google.com LEAST_REQUEST: 203.0.113.1:80 203.0.113.2:80 203.0.113.3:80
		watch auto.internal V4_ONLY every 5s
		watch news.google.com V4_ONLY every 5s`,
	}, {
		"an address that is announced and served by nobody is a name and nothing more",
		[]Input{input("file", address)},
		`name address.internal = 198.51.100.1`,
	}, {
		"two databases on one port",
		[]Input{
			input("file", auto(rds("1"), 3306), strict(outbound(rds("1"), 3306), rds("1"), 3306),
				auto(rds("2"), 3306), strict(outbound(rds("2"), 3306), rds("2"), 3306)),
			input("resolve", resolved(rds("1"), "192.0.2.1"), resolved(rds("2"), "192.0.2.2")),
		},
		`name mysql-instance1.us-east-1.rds.amazonaws.com = mysql-instance1.us-east-1.rds.amazonaws.com/4 virtual
		name mysql-instance2.us-east-1.rds.amazonaws.com = mysql-instance2.us-east-1.rds.amazonaws.com/4 virtual
		front mysql-instance1.us-east-1.rds.amazonaws.com/46:0/any -> file/mysql-instance1.us-east-1.rds.amazonaws.com:any
		front mysql-instance1.us-east-1.rds.amazonaws.com/46:3306/TCP -> file/outbound|3306||mysql-instance1.us-east-1.rds.amazonaws.com
		front mysql-instance2.us-east-1.rds.amazonaws.com/46:0/any -> file/mysql-instance2.us-east-1.rds.amazonaws.com:any
		front mysql-instance2.us-east-1.rds.amazonaws.com/46:3306/TCP -> file/outbound|3306||mysql-instance2.us-east-1.rds.amazonaws.com
		serve file/mysql-instance1.us-east-1.rds.amazonaws.com:any LEAST_REQUEST: 192.0.2.1:0
		serve file/mysql-instance2.us-east-1.rds.amazonaws.com:any LEAST_REQUEST: 192.0.2.2:0
		serve file/outbound|3306||mysql-instance1.us-east-1.rds.amazonaws.com LEAST_REQUEST: 192.0.2.1:3306
		serve file/outbound|3306||mysql-instance2.us-east-1.rds.amazonaws.com LEAST_REQUEST: 192.0.2.2:3306
		watch mysql-instance1.us-east-1.rds.amazonaws.com V4_ONLY every 5s
		watch mysql-instance2.us-east-1.rds.amazonaws.com V4_ONLY every 5s`,
	}})
}
