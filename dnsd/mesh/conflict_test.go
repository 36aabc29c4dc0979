package mesh

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// What an object claims of a host that another one has is a conflict, and is told of that host.
func TestConflicts(t *testing.T) {
	addr := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
	port := []Port{{Number: 80, Protocol: TCP, Cluster: "c"}}
	static := func(e string) []Cluster {
		return []Cluster{{Name: "c", Discovery: Static, Localities: []Locality{{Endpoints: []Endpoint{{Address: e, Port: 80}}}}}}
	}
	plan := Compile([]Input{
		{Source: "file", Clusters: static("203.0.113.1"), Hosts: []Host{
			{Name: "a.test", Object: "ServiceEntry ns/a", Addresses: addr("192.0.2.1"), Ports: port},
			{Name: "agreed.test", Object: "ServiceEntry ns/agreed", Addresses: addr("192.0.2.3")},
		}},
		{Source: "kube", Clusters: static("203.0.113.2"), Hosts: []Host{
			{Name: "a.test", Object: "ServiceEntry ns/other", Addresses: addr("192.0.2.9")},          // the same host
			{Name: "b.test", Object: "ServiceEntry ns/b", Addresses: addr("192.0.2.1"), Ports: port}, // the same address and port
			{Name: "agreed.test", Object: "ServiceEntry ns/agreed", Addresses: addr("192.0.2.3")},    // the same in all
			{Name: "mixed.test", Object: "ServiceEntry ns/mixed1", ExternalName: "a.test"},           // two kinds of host
			{Name: "mixed.test", Object: "ServiceEntry ns/mixed2", Headless: true, Addresses: addr("192.0.2.5")},
		}},
	}, newVIPs(t))
	var got []string
	for _, p := range plan.Problems {
		if p.Conflict != "" {
			got = append(got, p.Conflict+": "+p.Object+" of "+p.Source)
		}
	}
	slices.Sort(got)
	want := []string{
		"a.test: ServiceEntry ns/other of kube", "b.test: ServiceEntry ns/b of kube", "mixed.test: ServiceEntry ns/mixed2 of kube",
	}
	if !slices.Equal(got, want) {
		t.Errorf("conflicts %q, want %q", got, want)
	}
	for _, n := range plan.Names {
		var also []Declarer
		switch n.Host {
		case "a.test":
			also = []Declarer{{"kube", "ServiceEntry ns/other"}}
		case "agreed.test":
			also = []Declarer{{"kube", "ServiceEntry ns/agreed"}}
		}
		if !slices.Equal(n.Also, also) {
			t.Errorf("%s: %v declare it, too, want %v", n.Host, n.Also, also)
		}
	}
}

// Who announces the address of a service for a host of his own, or another address for the service, has not
// taken it over.
func TestServicesKeepTheirAddresses(t *testing.T) {
	addr := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
	cluster := func(name, e string) Cluster {
		return Cluster{Name: name, Discovery: Static, Localities: []Locality{{Endpoints: []Endpoint{{Address: e, Port: 80}}}}}
	}
	port := func(cluster string) []Port { return []Port{{Number: 80, Protocol: TCP, Cluster: cluster}} }
	const service = "cart.shop.svc.cluster.local"
	plan := Compile([]Input{{
		Source: "kube", Clusters: []Cluster{cluster("cart", "203.0.113.1"), cluster("evil", "203.0.113.66")},
		Hosts: []Host{
			{Name: "aaa.test", Object: "ServiceEntry evil/a", Addresses: addr("10.96.0.7"), Ports: port("evil")},
			{Name: service, Object: "Service shop/cart", Kubernetes: true, Addresses: addr("10.96.0.7"), Ports: port("cart")},
			{Name: service, Object: "ServiceEntry evil/b", Addresses: addr("198.51.100.66"), Ports: port("cart")},
		},
	}}, newVIPs(t))
	for _, f := range plan.Frontends {
		if f.Address == addr("10.96.0.7")[0] && f.Host != service {
			t.Errorf("%+v", *f)
		}
	}
	for _, n := range plan.Names {
		if n.Host == service && !slices.Equal(n.Addr4, addr("10.96.0.7")) {
			t.Errorf("the service is answered as %v", n.Addr4)
		}
	}
	conflicts := 0
	for _, p := range plan.Problems {
		if p.Conflict != "" {
			conflicts++
		}
	}
	if len(plan.Names) != 2 || conflicts != 2 {
		t.Errorf("%d names, problems %v", len(plan.Names), plan.Problems)
	}
}

// Nor has he who does so for some namespaces only, in whichever the service is seen, and whether it is the
// cluster's or a set of clusters'.
func TestServicesKeepTheirAddressesInViews(t *testing.T) {
	addr := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
	cluster := func(name, e string) Cluster {
		return Cluster{Name: name, Discovery: Static, Localities: []Locality{{Endpoints: []Endpoint{{Address: e, Port: 80}}}}}
	}
	port := func(cluster string) []Port { return []Port{{Number: 80, Protocol: TCP, Cluster: cluster}} }
	for _, at := range []string{"10.96.0.7", "240.9.9.9"} { // the latter has a frontend for all ports, too
		for _, imported := range []bool{false, true} {
			for _, seen := range [][]string{nil, {"till"}} {
				for _, to := range [][]string{nil, {"shop"}, {"till"}} {
					service := Host{
						Name: "cart.shop.svc.test", Object: "ServiceX shop/cart", Kubernetes: !imported, Imported: imported,
						Addresses: addr(at), Ports: port("cart"), ExportTo: seen,
					}
					plan := Compile([]Input{{
						Source: "kube", Clusters: []Cluster{cluster("cart", "203.0.113.1"), cluster("evil", "203.0.113.66")},
						Hosts: []Host{
							{Name: "aaa.test", Object: "ServiceEntry evil/a", Namespace: "evil", Addresses: addr(at), Ports: port("evil"), ExportTo: to},
							{Name: service.Name, Object: "ServiceEntry evil/b", Namespace: "evil", Ports: port("evil"), ExportTo: to},
							{Name: service.Name, Object: "ServiceEntry evil/c", Namespace: "evil", Headless: true, Addresses: addr("203.0.113.66"), ExportTo: to},
							service,
						},
					}}, newVIPs(t))
					for _, f := range plan.Frontends {
						if f.Port == 80 && (f.Host != service.Name || f.Address == addr(at)[0] && strings.Contains(f.Assignment, "evil")) {
							t.Errorf("imported %t, seen by %v, claimed for %v: %+v", imported, seen, to, *f)
						}
					}
					for _, n := range plan.Names {
						if known := n.View == "" && seen == nil || n.View == "till" && seen != nil; n.Host == service.Name && known && !slices.Equal(n.Addr4, addr(at)) {
							t.Errorf("imported %t, seen by %v, claimed for %v: it is answered as %v", imported, seen, to, n.Addr4)
						} else if n.Host == service.Name && seen == nil && n.View != "" {
							t.Errorf("imported %t, claimed for %v: %s has a row of its own: %+v", imported, to, n.View, *n)
						}
					}
					if !slices.ContainsFunc(plan.Problems, func(p Problem) bool { return p.Conflict == "aaa.test" }) {
						t.Errorf("imported %t, seen by %v, claimed for %v: problems %v", imported, seen, to, plan.Problems)
					}
				}
			}
		}
	}
}
