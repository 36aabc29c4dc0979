package names

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

func addrs(texts ...string) (all []netip.Addr) {
	for _, s := range texts {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

// sample is a plan with one row of every sort.
func sample() *mesh.Plan {
	http := mesh.Port{Name: "http", Number: 80, Protocol: mesh.TCP}
	return &mesh.Plan{Names: []*mesh.Name{
		{Host: "api.partner.test", Source: "file", Object: "ServiceEntry shop/api", Virtual: true,
			Addr4: addrs("240.240.0.1"), Addr6: addrs("2001:2::1"), Ports: []mesh.Port{{Name: "mongodb", Number: 27017, Protocol: mesh.TCP}}},
		{Host: "plain.partner.test", Addr4: addrs("192.0.2.1", "192.0.2.2"), Addr6: addrs("2001:db8::1")},
		{Host: "*.wild.test", Virtual: true, Addr4: addrs("198.51.100.1"), Ports: []mesh.Port{http}},
		{Host: "*.b.wild.test", Addr4: addrs("198.51.100.2")},
		{Host: "x.wild.test", Addr6: addrs("2001:db8::2")},
		{Host: "cart.shop.svc.cluster.local", Kubernetes: true, Namespace: "shop", Addr4: addrs("10.96.1.10"), Ports: []mesh.Port{http}},
		{Host: "stock.wh.svc.cluster.local", Kubernetes: true, Namespace: "wh", Addr4: addrs("10.96.2.20"), Addr6: addrs("fd00::20")},
		{Host: "nothing.shop.svc.cluster.local", Kubernetes: true, Namespace: "shop"},
		{Host: "db.shop.svc.cluster.local", Kubernetes: true, Namespace: "shop", Addr4: addrs("10.244.3.10", "10.244.3.11"),
			Records: []mesh.Record{
				{Label: "db-0", Addresses: addrs("10.244.3.10", "fd00::10"), Ports: []mesh.Port{{Name: "sql", Number: 3306, Protocol: mesh.TCP}}},
				{Label: "db-1", Addresses: addrs("10.244.3.11"), Ports: []mesh.Port{{Name: "sql", Number: 3307, Protocol: mesh.TCP}}},
			}},
		{Host: "cache.shop.svc.cluster.local", Kubernetes: true, Namespace: "shop", Addr4: addrs("10.244.4.1"),
			Records: []mesh.Record{{Label: "db-0", Addresses: addrs("10.244.4.1")}}},
		{Host: "db-0.cache.svc.cluster.local", Kubernetes: true, Namespace: "cache", Addr4: addrs("10.96.7.7")},
		{Host: "entry.shop.svc.cluster.local", Addr4: addrs("192.0.2.99")},
		{Host: "out.shop.svc.cluster.local", Kubernetes: true, Namespace: "shop", CNAME: "db.example.com"},
		{Host: "in.shop.svc.cluster.local", Kubernetes: true, Namespace: "shop", CNAME: "cart.shop.svc.cluster.local"},
		{Host: "far.shop.svc.cluster.local", Kubernetes: true, Namespace: "shop", CNAME: "in.shop.svc.cluster.local"},
		{Host: "toapi.shop.svc.cluster.local", Kubernetes: true, Namespace: "shop", CNAME: "API.partner.test"},
		{Host: "loop1.shop.svc.cluster.local", CNAME: "loop2.shop.svc.cluster.local"},
		{Host: "loop2.shop.svc.cluster.local", CNAME: "loop1.shop.svc.cluster.local"},
		{Host: "two.test", Addr4: addrs("192.0.2.50")},
		{Host: "two.test", View: "shop", Addr4: addrs("192.0.2.51")},
		{Host: "private.test", View: "wh", Addr4: addrs("192.0.2.52"), Virtual: true},
		{Host: "*.deep.private.test", View: "wh", Addr4: addrs("192.0.2.53")},
		{Host: "*.private.test", Addr4: addrs("192.0.2.54")},
	}}
}

var (
	kubelet = []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}
	shop    = &Client{Namespace: "shop", Search: kubelet}
	shop6   = &Client{Namespace: "shop", Search: kubelet, IPv6: true}
	wh      = &Client{Namespace: "wh", Search: []string{"wh.svc.cluster.local.", "Corp.Example"}}
	bare    = &Client{}
)

// TestLookup compares answers in the words of Explain.
func TestLookup(t *testing.T) {
	table := Build(sample(), Options{})
	for _, tc := range []struct {
		name   string
		client *Client
		q      string // "name type"
		want   string
	}{
		{"exact", shop, "api.partner.test. A", "240.240.0.1, for 30 s"},
		{"any case, no final dot", shop, "API.Partner.TEST A", "240.240.0.1, for 30 s"},
		{"virtual IPv6 to a pod without", shop, "api.partner.test. AAAA", "NODATA for 5 s"},
		{"virtual IPv6 to a pod with", shop6, "api.partner.test. AAAA", "2001:2::1, for 30 s"},
		{"real IPv6 to a pod without", shop, "plain.partner.test. AAAA", "2001:db8::1, for 30 s"},
		{"below an exact name", shop, "sub.api.partner.test. A", "upstream's answer"},
		{"unknown", shop, "public.example. A", "upstream's answer"},
		{"root", shop, ". A", "upstream's answer"},
		{"escaped dot is no dot", shop, `a\.wild.test. A`, "upstream's answer"},

		{"record of an endpoint", shop, "db-0.db.shop.svc.cluster.local. AAAA", "fd00::10, for 30 s"},
		{"record of an endpoint, short", shop, "db-0.db.shop. A", "10.244.3.10, for 30 s"},
		{"own namespace before another's", shop, "db-0.cache. A", "10.244.4.1, for 30 s"},
		{"exact before what the search list leaves", shop, "db-0.cache.shop.svc.cluster.local. A", "10.244.4.1, for 30 s"},

		{"wildcard", shop, "foo.wild.test. A", "198.51.100.1, for 30 s"},
		{"wildcard, deep", shop, "a.c.foo.wild.test. A", "198.51.100.1, for 30 s"},
		{"most specific wildcard", shop, "a.b.wild.test. A", "198.51.100.2, for 30 s"},
		{"wildcard's own suffix", shop, "wild.test. A", "upstream's answer"},
		{"the suffix of one is below the other", shop, "b.wild.test. A", "198.51.100.1, for 30 s"},
		{"exact hides the wildcard for every type", shop, "x.wild.test. A", "NODATA for 5 s"},

		{"short name", shop, "cart. A", "10.96.1.10, for 30 s"},
		{"short name of another namespace", wh, "cart. A", "upstream's answer"},
		{"service and namespace", wh, "cart.shop. A", "10.96.1.10, for 30 s"},
		{"all but the domain", wh, "cart.shop.svc. A", "10.96.1.10, for 30 s"},
		{"half the domain", wh, "cart.shop.svc.cluster. A", "upstream's answer"},
		{"only Kubernetes names have short forms", shop, "entry.shop. A", "upstream's answer"},
		{"short name, no namespace", bare, "cart. A", "upstream's answer"},
		{"short name, zone type", shop, "cart.shop. NS", "upstream's answer"},
		{"short name, HTTPS", shop, "cart. HTTPS", "NODATA for 5 s"},

		{"search list, full name", shop, "api.partner.test.shop.svc.cluster.local. A", "CNAME api.partner.test., 240.240.0.1, for 30 s"},
		{"search list, second domain", shop, "api.partner.test.svc.cluster.local. A", "CNAME api.partner.test., 240.240.0.1, for 30 s"},
		{"search list, NODATA", shop, "api.partner.test.shop.svc.cluster.local. AAAA", "NODATA for 5 s"},
		{"search list, other type", shop, "api.partner.test.shop.svc.cluster.local. MX", "CNAME api.partner.test., upstream's answer for api.partner.test., NODATA if it has none"},
		{"search list, wildcard", shop, "Foo.wild.test.shop.svc.cluster.local. A", "CNAME foo.wild.test., 198.51.100.1, for 30 s"},
		{"search list, expansion", shop, "stock.wh.shop.svc.cluster.local. A", "CNAME stock.wh.svc.cluster.local., 10.96.2.20, for 30 s"},
		{"search list, full name in the cluster", shop, "cart.shop.svc.cluster.local.shop.svc.cluster.local. A", "CNAME cart.shop.svc.cluster.local., 10.96.1.10, for 30 s"},
		{"search list, another's", shop, "stock.wh.svc.cluster.local.wh.svc.cluster.local. A", "upstream's answer"},
		{"search list, final dot and case", wh, "api.partner.test.CORP.example. A", "CNAME api.partner.test., 240.240.0.1, for 30 s"},
		{"search list, CNAME", shop, "api.partner.test.svc.cluster.local. CNAME", "CNAME api.partner.test., for 30 s"},
		{"no search list", bare, "api.partner.test.shop.svc.cluster.local. A", "upstream's answer"},

		{"no address at all", shop, "nothing.shop.svc.cluster.local. A", "NODATA for 5 s"},
		{"other type, in the cluster", shop, "cart.shop.svc.cluster.local. MX", "NODATA for 5 s"},
		{"other type, outside", shop, "plain.partner.test. MX", "upstream's answer for plain.partner.test., NODATA if it has none"},
		{"HTTPS beside a virtual address", shop, "api.partner.test. HTTPS", "NODATA for 5 s"},
		{"HTTPS of another port", shop, "_8443._https.api.partner.test. HTTPS", "NODATA for 5 s"},
		{"HTTPS of another port, real", shop, "_8443._https.plain.partner.test. HTTPS", "upstream's answer"},
		{"SVCB beside a virtual address", shop, "foo.wild.test. SVCB", "NODATA for 5 s"},
		{"HTTPS beside real ones", shop, "plain.partner.test. HTTPS", "upstream's answer for plain.partner.test., NODATA if it has none"},
		{"CNAME, outside", shop, "plain.partner.test. CNAME", "upstream's answer for plain.partner.test., NODATA if it has none"},
		{"CNAME, outside, below a wildcard", shop, "_acme-challenge.wild.test. CNAME", "upstream's answer for _acme-challenge.wild.test., NODATA if it has none"},
		{"CNAME, in the cluster", shop, "cart.shop.svc.cluster.local. CNAME", "NODATA for 5 s"},
		{"ANY", shop, "plain.partner.test. ANY", "NODATA for 5 s"},
		{"PTR of a name outside", shop, "plain.partner.test. PTR", "upstream's answer"},
		{"PTR of a name in the cluster", shop, "cart.shop.svc.cluster.local. PTR", "NODATA for 5 s"},

		{"ExternalName out of the table", shop, "out.shop.svc.cluster.local. A", "CNAME db.example.com., then upstream's answer for db.example.com."},
		{"ExternalName, any type", shop, "out.shop.svc.cluster.local. TXT", "CNAME db.example.com., then upstream's answer for db.example.com."},
		{"ExternalName, CNAME", shop, "out.shop.svc.cluster.local. CNAME", "CNAME db.example.com., for 30 s"},
		{"ExternalName, short", shop, "out. AAAA", "CNAME db.example.com., then upstream's answer for db.example.com."},
		{"ExternalName, search list", shop, "out.shop.svc.svc.cluster.local. A", "CNAME out.shop.svc.cluster.local., CNAME db.example.com., then upstream's answer for db.example.com."},
		{"ExternalName within", shop, "far.shop.svc.cluster.local. A", "CNAME in.shop.svc.cluster.local., CNAME cart.shop.svc.cluster.local., 10.96.1.10, for 30 s"},
		{"ExternalName within, NODATA", shop, "in.shop.svc.cluster.local. AAAA", "CNAME cart.shop.svc.cluster.local., NODATA for 5 s"},
		{"ExternalName to a VIP, HTTPS", shop, "toapi.shop.svc.cluster.local. HTTPS", "CNAME api.partner.test., NODATA for 5 s"},
		{"ExternalName in a loop", shop, "loop1.shop.svc.cluster.local. A", "CNAME loop2.shop.svc.cluster.local., CNAME loop1.shop.svc.cluster.local., NODATA for 5 s"},

		{"SRV", shop, "_http._tcp.cart.shop.svc.cluster.local. SRV", "cart.shop.svc.cluster.local. port 80, for 30 s"},
		{"SRV, short", shop, "_http._tcp.cart.shop. SRV", "cart.shop.svc.cluster.local. port 80, for 30 s"},
		{"SRV, search list", shop, "_mongodb._tcp.api.partner.test.svc.cluster.local. SRV", "CNAME _mongodb._tcp.api.partner.test., api.partner.test. port 27017, for 30 s"},
		{"SRV, wildcard", shop, "_http._tcp.foo.wild.test. SRV", "foo.wild.test. port 80, for 30 s"},
		{"SRV, headless", shop, "_sql._tcp.db.shop.svc.cluster.local. SRV", "db-0.db.shop.svc.cluster.local. port 3306, db-1.db.shop.svc.cluster.local. port 3307, for 30 s"},
		{"SRV, no such port", shop, "_ftp._tcp.cart.shop.svc.cluster.local. SRV", "upstream's answer"},
		{"SRV, other protocol", shop, "_http._udp.cart.shop.svc.cluster.local. SRV", "upstream's answer"},
		{"SRV of the host itself", shop, "cart.shop.svc.cluster.local. SRV", "NODATA for 5 s"},
		{"address of a service's name", shop, "_http._tcp.cart.shop.svc.cluster.local. A", "NODATA for 5 s"},
		{"an underscore is no service", shop, "_dmarc.api.partner.test. TXT", "upstream's answer"},

		{"PTR of a VIP", shop, "1.0.240.240.in-addr.arpa. PTR", "api.partner.test., for 30 s"},
		{"PTR of a VIP, IPv6", shop, "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.1.0.0.2.ip6.arpa. PTR", "api.partner.test., for 30 s"},
		{"PTR of a service", shop, "10.1.96.10.in-addr.arpa. PTR", "cart.shop.svc.cluster.local., for 30 s"},
		{"PTR of an endpoint", shop, "10.3.244.10.in-addr.arpa. PTR", "db-0.db.shop.svc.cluster.local., for 30 s"},
		{"PTR of an address of the outside", shop, "1.2.0.192.in-addr.arpa. PTR", "upstream's answer"},
		{"PTR of what another sees", shop, "52.2.0.192.in-addr.arpa. PTR", "upstream's answer"},
		{"PTR of what it sees", wh, "52.2.0.192.in-addr.arpa. PTR", "private.test., for 30 s"},
		{"PTR of three labels", shop, "2.0.192.in-addr.arpa. PTR", "upstream's answer"},

		{"own view before everybody's", shop, "two.test. A", "192.0.2.51, for 30 s"},
		{"everybody's view", wh, "two.test. A", "192.0.2.50, for 30 s"},
		{"another's view", shop, "deep.private.test. A", "192.0.2.54, for 30 s"},
		{"another's view, exact", shop, "private.test. A", "upstream's answer"},
		{"own view", wh, "private.test. A", "192.0.2.52, for 30 s"},
		{"wildcards of both views", wh, "a.deep.private.test. A", "192.0.2.53, for 30 s"},
	} {
		t.Run(strings.ReplaceAll(tc.name, " ", "-"), func(t *testing.T) {
			name, qtype, _ := strings.Cut(tc.q, " ")
			a := table.Lookup(tc.client, name, dns.StringToType[qtype])
			if got := a.describe(name); got != tc.want {
				t.Errorf("%s\n got %s\nwant %s", tc.q, got, tc.want)
			}
		})
	}
}

func TestZone(t *testing.T) {
	table := Build(sample(), Options{})
	for q, want := range map[string]string{
		"cart.shop.svc.cluster.local.":               "cluster.local.",
		"API.partner.test.":                          "api.partner.test.",
		"api.partner.test.shop.svc.cluster.local.":   "cluster.local.",
		"toapi.shop.svc.cluster.local.":              "api.partner.test.",
		"cart.":                                      "cart.",
		"xcluster.local.shop.svc.cluster.local.nope": "",
	} {
		if a := table.Lookup(shop, q, dns.TypeAAAA); a.Zone != want {
			t.Errorf("%s: zone %q, want %q", q, a.Zone, want)
		}
	}
}

// A and AAAA of one name always take the same decision, whatever the table and whoever asks.
func TestFamiliesDecideAlike(t *testing.T) {
	labels := []string{"a", "b", "shop", "svc", "cluster", "local", "test"}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		name := func() string {
			var parts []string
			for range 1 + r.IntN(4) {
				parts = append(parts, labels[r.IntN(len(labels))])
			}
			if r.IntN(2) == 0 {
				parts = append(parts, "svc", "cluster", "local")
			}
			return strings.Join(parts, ".")
		}
		plan := &mesh.Plan{}
		for range 12 {
			n := &mesh.Name{Host: name(), Kubernetes: r.IntN(2) == 0, Virtual: r.IntN(2) == 0, View: []string{"", "shop", "a"}[r.IntN(3)]}
			switch r.IntN(6) {
			case 0:
				n.Host = "*." + n.Host
			case 1:
				n.CNAME = name()
			}
			if n.CNAME == "" && r.IntN(3) > 0 {
				n.Addr4 = addrs("192.0.2.1")
			}
			if n.CNAME == "" && r.IntN(3) == 0 {
				n.Addr6 = addrs("2001:db8::1")
			}
			plan.Names = append(plan.Names, n)
		}
		table := Build(plan, Options{})
		for range 200 {
			q := name()
			c := &Client{Namespace: []string{"shop", "a", ""}[r.IntN(3)], Search: []string{name(), "svc.cluster.local"}, IPv6: r.IntN(2) == 0}
			a, aaaa := table.Lookup(c, q, dns.TypeA), table.Lookup(c, q, dns.TypeAAAA)
			if a.Kind != aaaa.Kind {
				t.Fatalf("seed %d, %s of %+v: A %s, AAAA %s\n%s", seed, q, c, a.describe(q), aaaa.describe(q),
					strings.Join(table.Explain(c, q), "\n"))
			}
		}
	}
}

func TestNilTableKnowsNothing(t *testing.T) {
	var table *Table
	if a := table.Lookup(shop, "cart.", dns.TypeA); a.Kind != NotOurs {
		t.Errorf("nil table: %s", a.describe("cart."))
	}
	if table.Len() != 0 || len(slices.Collect(table.All())) != 0 || len(table.Explain(shop, "cart.")) == 0 {
		t.Error("nil table has names, or explains nothing")
	}
}

func TestOptions(t *testing.T) {
	plan := &mesh.Plan{Names: []*mesh.Name{{Host: "cart.shop.svc.corp.test", Kubernetes: true, Addr4: addrs("10.0.0.1")}}}
	table := Build(plan, Options{ClusterDomain: "corp.test", TTL: 7})
	if a := table.Lookup(shop, "cart.shop.", dns.TypeA); a.describe("") != "10.0.0.1, for 7 s" {
		t.Error(a.describe(""))
	}
	if table.Len() != 1 || slices.Collect(table.All())[0].Host != "cart.shop.svc.corp.test" {
		t.Error("the rows are not those of the plan")
	}
}

func TestExplain(t *testing.T) {
	table := Build(sample(), Options{VIPs: []netip.Prefix{netip.MustParsePrefix("240.240.0.0/16")}})
	for q, want := range map[string][]string{
		"api.partner.test.svc.cluster.local": {"unknown as it stands; known without search domain svc.cluster.local",
			"api.partner.test. is declared (ServiceEntry shop/api of source file", "A: CNAME api.partner.test., 240.240.0.1",
			"HTTPS: NODATA", "other types: CNAME api.partner.test., upstream's answer for api.partner.test., NODATA if it has none"},
		"foo.svc.cluster.local": {"without search domain svc.cluster.local: foo. is unknown too", "it is not ours"},
		"cart":                  {"cart.shop.svc.cluster.local. is the Kubernetes service that the name is short for", "A: 10.96.1.10"},
		"x.y.wild.test":         {"x.y.wild.test. is below the wildcard *.wild.test."},
		"db-1.db.shop":          {"short"},
		"out.shop.svc":          {"it stands for db.example.com."},
		"1.0.240.240.in-addr.arpa": {"address of api.partner.test. (ServiceEntry shop/api of source file",
			"PTR: api.partner.test."},
		`a\.b`:                     {"escaped"},
		"x.localhost":              {"special name", "A: 127.0.0.1", "AAAA: ::1"},
		"shop.svc.cluster.local":   {"declared names are below it", "NODATA if it knows no such name"},
		"9.9.240.240.in-addr.arpa": {"belongs to nobody", "PTR: no such name"},
	} {
		text := strings.Join(table.Explain(shop, q), "\n")
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no %q in\n%s", q, w, text)
			}
		}
	}
}

// big is a table of n services and as many outside hosts.
func big(n int) *Table {
	plan := &mesh.Plan{}
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})
		plan.Names = append(plan.Names,
			&mesh.Name{Host: fmt.Sprintf("svc-%d.ns%d.svc.cluster.local", i, i%100), Kubernetes: true, Addr4: []netip.Addr{a}},
			&mesh.Name{Host: fmt.Sprintf("api-%d.example.test", i), Virtual: true, Addr4: []netip.Addr{a}})
	}
	return Build(plan, Options{})
}

var lookups = []struct{ name, q string }{
	{"exact", "svc-77.ns77.svc.cluster.local."},
	{"short", "svc-77.ns77."},
	{"search", "api-77.example.test.ns1.svc.cluster.local."},
	{"search-expanded", "svc-77.ns77.ns1.svc.cluster.local."},
	{"miss", "www.public.example.ns1.svc.cluster.local."},
}

var benchClient = &Client{Namespace: "ns1", Search: []string{"ns1.svc.cluster.local", "svc.cluster.local", "cluster.local"}}

// Nor does it keep the name: it may lie on the caller's stack.
func TestLookupAllocatesNothing(t *testing.T) {
	table := big(100)
	for _, l := range lookups {
		if n := testing.AllocsPerRun(100, func() {
			var space [64]byte
			n := copy(space[:], l.q)
			table.Lookup(benchClient, unsafe.String(&space[0], n), dns.TypeA)
		}); n != 0 {
			t.Errorf("%s: %v allocations", l.name, n)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	table := big(10_000)
	for _, l := range lookups {
		b.Run(l.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				table.Lookup(benchClient, l.q, dns.TypeA)
			}
		})
	}
}

func BenchmarkBuild(b *testing.B) {
	plan := &mesh.Plan{Names: big(10_000).rows}
	b.ReportAllocs()
	for b.Loop() {
		Build(plan, Options{})
	}
}

func TestCheck(t *testing.T) {
	long := strings.Repeat(strings.Repeat("a", 63)+".", 3)
	for name, want := range map[string]string{
		".": "", "": "", "a.": "", "_http._tcp.a.test": "", "*.wild.test": "", long + strings.Repeat("b", 61): "",
		"a..b": "empty label", ".a": "empty label", "a..": "empty label", strings.Repeat("a", 64) + ".test": "64 bytes",
		long + strings.Repeat("b", 62): "256 bytes", "bücher.test": "xn--", "a b.test": "blanks",
	} {
		err := Check(name)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
}
