package names

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// Where every name of the zone is known, what nobody declared is told apart from what does not exist, and
// both without asking anybody.
func TestWholeZone(t *testing.T) {
	p := sample()
	p.Zones = []mesh.Zone{{Source: "kube", Name: "cluster.local", Namespaces: []string{"shop", "empty"}}}
	p.Names = append(p.Names, &mesh.Name{Host: "mine.wh.svc.cluster.local", View: "wh", Kubernetes: true, Addr4: addrs("10.96.5.5")})
	o := Options{
		Elsewhere: []string{"nodes.cluster.local"},
		Endpoint: func(row *Row, addr netip.Addr) bool {
			return row.Host == "cart.shop.svc.cluster.local" && addr == netip.MustParseAddr("10.244.1.5")
		},
	}
	table := Build(p, o)
	c := &Client{Namespace: "shop", Search: []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}}
	for name, want := range map[string]string{
		"cart.shop.svc.cluster.local.":                          "10.96.1.10, for 30 s",
		"gone.shop.svc.cluster.local.":                          "no such name for 5 s",
		"www.example.com.shop.svc.cluster.local.":               "no such name for 5 s",
		"www.example.com.svc.cluster.local.":                    "no such name for 5 s",
		"www.example.com.cluster.local.":                        "no such name for 5 s",
		"www.example.com.":                                      "upstream's answer",
		"cluster.local.":                                        "NODATA for 5 s",
		"svc.cluster.local.":                                    "NODATA for 5 s",
		"shop.svc.cluster.local.":                               "NODATA for 5 s",
		"empty.svc.cluster.local.":                              "NODATA for 5 s",
		"empty.pod.cluster.local.":                              "NODATA for 5 s",
		"nowhere.svc.cluster.local.":                            "no such name for 5 s",
		"10-244-1-9.empty.pod.cluster.local.":                   "10.244.1.9, for 30 s",
		"10-244-1-9.nowhere.pod.cluster.local.":                 "no such name for 5 s",
		"10-244-1-999.empty.pod.cluster.local.":                 "no such name for 5 s",
		"2001-db8--9.empty.pod.cluster.local.":                  "NODATA for 5 s",
		"10-244-1-5.cart.shop.svc.cluster.local.":               "10.244.1.5, for 30 s",
		"10-244-1-6.cart.shop.svc.cluster.local.":               "no such name for 5 s",
		"10-244-1-5.cart.shop.svc.cluster.local.cluster.local.": "no such name for 5 s",
		// Somebody else's: others are told of it as if we were not here.
		"mine.wh.svc.cluster.local.": "upstream's answer",
		// Configured to be asked of servers of its own.
		"a.nodes.cluster.local.": "upstream's answer",
	} {
		a := table.Lookup(c, name, dns.TypeA)
		if got := a.describe(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		other := table.Lookup(c, name, dns.TypeAAAA)
		if other.Kind != a.Kind || other.NoName != a.NoName {
			t.Errorf("%s: AAAA goes another way than A: %+v", name, other)
		}
	}
	if a := table.Lookup(c, "2001-db8--9.empty.pod.cluster.local.", dns.TypeAAAA); len(a.Addresses) != 1 {
		t.Errorf("an IPv6 pod: %+v", a)
	}
	if a := table.Lookup(c, "dns-version.cluster.local.", dns.TypeTXT); len(a.Texts) != 1 || a.Texts[0] != "1.1.0" {
		t.Errorf("dns-version: %+v", a)
	}
	if a := Build(sample(), o).Lookup(c, "gone.shop.svc.cluster.local.", dns.TypeA); a.Kind != NotOurs {
		t.Errorf("where nobody knows every name, one is denied: %+v", a)
	}
}
