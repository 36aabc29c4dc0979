package names

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// TestUndeclared compares what is answered for names that no row has, in the words of Explain.
func TestUndeclared(t *testing.T) {
	plan := sample()
	plan.Names = append(plan.Names,
		&mesh.Name{Host: "localhost.shop.svc.cluster.local", Kubernetes: true, Addr4: addrs("10.96.9.9")},
		&mesh.Name{Host: "web.onion.svc.cluster.local", Kubernetes: true, Addr4: addrs("10.96.9.10")},
		&mesh.Name{Host: "declared.invalid", Addr4: addrs("192.0.2.77")},
		&mesh.Name{Host: "secret.wh.svc.cluster.local", View: "wh", Kubernetes: true, Addr4: addrs("240.241.0.9")})
	table := Build(plan, Options{VIPs: []netip.Prefix{netip.MustParsePrefix("240.240.0.0/15"), netip.MustParsePrefix("2001:2::/48")}})
	nibbles := strings.Repeat("0.", 19)
	for _, tc := range []struct {
		name   string
		client *Client
		q      string
		want   string
	}{
		{"localhost", shop, "LocalHost. A", "127.0.0.1, for 30 s"},
		{"localhost, IPv6", shop, "localhost. AAAA", "::1, for 30 s"},
		{"localhost, ANY", shop, "localhost. ANY", "127.0.0.1, for 30 s"},
		{"localhost, other type", shop, "localhost. MX", "NODATA for 5 s"},
		{"below localhost", bare, "a.b.localhost. A", "127.0.0.1, for 30 s"},
		{"not below localhost", shop, "notlocalhost. A", "upstream's answer"},
		{"a service called localhost", shop, "localhost.shop.svc.cluster.local. A", "10.96.9.9, for 30 s"},
		{"localhost of a search list", wh, "localhost.corp.example. A", "upstream's answer"},
		{"invalid", shop, "foo.invalid. AAAA", "no such name for 5 s"},
		{"declared all the same", shop, "declared.invalid. A", "192.0.2.77, for 30 s"},
		{"onion", shop, "example.onion. A", "no such name for 5 s"},
		{"a namespace called onion", shop, "web.onion. A", "10.96.9.10, for 30 s"},
		{"test may be somebody's", shop, "foo.test. A", "upstream's answer"},
		{"local may be somebody's", shop, "printer.local. A", "upstream's answer"},

		{"above names of the cluster", shop, "wh.svc.cluster.local. A", "upstream's answer, NODATA if it knows no such name"},
		{"and not of their own view only", shop, "SVC.cluster.local. AAAA", "upstream's answer, NODATA if it knows no such name"},
		{"the cluster's domain", shop, "cluster.local. SOA", "upstream's answer, NODATA if it knows no such name"},
		{"above the cluster's domain", shop, "local. A", "upstream's answer"},
		{"above names of others", shop, "partner.test. A", "upstream's answer"},
		{"below names of the cluster", shop, "a.cart.shop.svc.cluster.local. A", "upstream's answer"},

		{"pointer of loopback", shop, "1.0.0.127.in-addr.arpa. PTR", "localhost., for 30 s"},
		{"no pointer", shop, "1.0.0.127in-addr.arpa. PTR", "upstream's answer"},
		{"no pointer of a VIP", shop, "1.0.240.240in-addr.arpa. PTR", "upstream's answer"},
		{"no pointer, IPv6", shop, "1." + strings.Repeat("0.", 30) + "0ip6.arpa. PTR", "upstream's answer"},
		{"no address", shop, ".0.0.127.in-addr.arpa. PTR", "upstream's answer"},
		{"five labels", shop, "1.1.0.0.127.in-addr.arpa. PTR", "upstream's answer"},
		{"pointer of loopback, other type", shop, "1.0.0.127.in-addr.arpa. TXT", "NODATA for 5 s"},
		{"pointer of loopback, IPv6", shop, "1." + strings.Repeat("0.", 31) + "ip6.arpa. PTR", "localhost., for 30 s"},
		{"pointer of a VIP", shop, "1.0.240.240.in-addr.arpa. PTR", "api.partner.test., for 30 s"},
		{"pointer of a VIP, other type", shop, "1.0.240.240.in-addr.arpa. A", "NODATA for 5 s"},
		{"pointer of a VIP that nobody has", shop, "2.0.240.240.in-addr.arpa. PTR", "no such name for 5 s"},
		{"pointer of a VIP that nobody has, IPv6", shop, "f." + nibbles + "0.0.0.0.2.0.0.0.1.0.0.2.ip6.arpa. PTR", "no such name for 5 s"},
		{"pointer of a VIP of another's view", shop, "9.0.241.240.in-addr.arpa. PTR", "no such name for 5 s"},
		{"pointer of a VIP of one's own view", wh, "9.0.241.240.in-addr.arpa. PTR", "secret.wh.svc.cluster.local., for 30 s"},
		{"pointer beside the range", shop, "1.0.242.240.in-addr.arpa. PTR", "upstream's answer"},
		{"pointer of a service, other type", shop, "10.1.96.10.in-addr.arpa. TXT", "upstream's answer, NODATA if it knows no such name"},
		{"part of an address", shop, "240.240.in-addr.arpa. PTR", "upstream's answer"},
		{"too much of an address", shop, "1.1.0.240.240.in-addr.arpa. PTR", "upstream's answer"},
		{"no byte", shop, "256.0.240.240.in-addr.arpa. PTR", "upstream's answer"},
		{"no number", shop, "01.0.240.240.in-addr.arpa. PTR", "upstream's answer"},
		{"no nibble", shop, "g." + strings.Repeat("0.", 31) + "ip6.arpa. PTR", "upstream's answer"},
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

func TestReverseZone(t *testing.T) {
	table := Build(&mesh.Plan{}, Options{VIPs: []netip.Prefix{netip.MustParsePrefix("240.241.0.0/16"), netip.MustParsePrefix("240.128.0.0/9"),
		netip.MustParsePrefix("2001:2::/48")}})
	for q, want := range map[string]string{
		"4.3.241.240.in-addr.arpa.":                                    "241.240.in-addr.arpa.",
		"4.3.200.240.in-addr.arpa.":                                    "240.in-addr.arpa.",
		strings.Repeat("0.", 20) + "0.0.0.0.2.0.0.0.1.0.0.2.ip6.arpa.": "0.0.0.0.2.0.0.0.1.0.0.2.ip6.arpa.",
	} {
		if a := table.Lookup(bare, q, dns.TypePTR); a.Zone != want || !a.NoName {
			t.Errorf("%s: %+v, want zone %q", q, a, want)
		}
	}
}
