package routes

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

func TestSites(t *testing.T) {
	addr := netip.MustParseAddr
	to := func(p, address, service string, port uint16) mesh.RoutePath {
		r := mesh.RoutePath{Path: p, Service: service, Port: port}
		if address != "" {
			r.Address = addr(address)
		}
		return r
	}
	endpoint := func(s string, unhealthy bool) mesh.AssignedEndpoint {
		return mesh.AssignedEndpoint{Address: netip.MustParseAddrPort(s), Unhealthy: unhealthy}
	}
	plan := &mesh.Plan{
		Routes: []mesh.Route{
			{Object: "DNS a", Host: "node1.com", Paths: []mesh.RoutePath{to("/x/", "10.0.0.1", "", 80), to("/cart/", "", "cart.shop", 80)}},
			{Object: "DNS b", Host: "node1.com", Paths: []mesh.RoutePath{to("/x/", "10.0.0.2", "", 80), to("/x/y/", "10.0.0.3", "", 80), to("/", "", "headless", 81)}},
			{Object: "DNS c", Host: "a.com", Paths: []mesh.RoutePath{to("/gone/", "", "gone", 80), to("/udp/", "", "cart.shop", 53), to("/other/", "", "cart.shop", 9)}},
			{Object: "DNS d", Host: "a.com; }", Paths: []mesh.RoutePath{to("/", "10.0.0.1", "", 80)}},
		},
		Names: []*mesh.Name{
			{Host: "cart.shop.svc.cluster.local", Addr4: []netip.Addr{addr("10.96.0.1")}, Virtual: true},
			{Host: "headless.default.svc.cluster.local", Headless: true, Addr4: []netip.Addr{addr("10.0.1.2"), addr("10.0.1.1")}, Addr6: []netip.Addr{addr("2001:db8::1")}},
		},
		Frontends: []*mesh.Frontend{
			{Address: addr("10.96.0.1"), Port: 80, Protocol: mesh.TCP, Host: "cart.shop.svc.cluster.local", Assignment: "c"},
			{Address: addr("10.96.0.1"), Port: 53, Protocol: mesh.UDP, Host: "cart.shop.svc.cluster.local", Assignment: "c"},
		},
		Assignments: []*mesh.Assignment{{Name: "c", Localities: []mesh.AssignedLocality{
			{Endpoints: []mesh.AssignedEndpoint{endpoint("10.0.2.2:8080", false), endpoint("10.0.2.1:0", false), endpoint("10.0.2.3:8080", true)}},
			{Priority: 1, Endpoints: []mesh.AssignedEndpoint{endpoint("10.0.2.9:8080", false)}},
		}}},
	}
	all, problems := sites(plan, "cluster.local")
	var got strings.Builder
	for _, s := range all {
		fmt.Fprintf(&got, "%s (%s)\n", s.host, strings.Join(s.objects, ", "))
		for _, l := range s.paths {
			fmt.Fprintf(&got, "  %s %v of %s\n", l.path, l.to, l.object)
		}
	}
	for _, p := range problems {
		fmt.Fprintf(&got, "%s: %s\n", p.Object, p.Reason)
	}
	want := `a.com (DNS c)
  /other/ [] of DNS c
  /gone/ [] of DNS c
  /udp/ [] of DNS c
node1.com (DNS a, DNS b)
  /cart/ [10.0.2.1:80 10.0.2.2:8080] of DNS a
  /x/y/ [10.0.0.3:80] of DNS b
  /x/ [10.0.0.1:80] of DNS a
  / [10.0.1.1:81 10.0.1.2:81 [2001:db8::1]:81] of DNS b
DNS b: path /x/ of node1.com is DNS a's, which comes first
DNS c: path /gone/ of a.com: service gone is no host of the mesh, and has no address
DNS c: path /udp/ of a.com: nothing is behind port 53 of cart.shop.svc.cluster.local
DNS c: path /other/ of a.com: nothing is behind port 9 of cart.shop.svc.cluster.local
DNS d: host "a.com; }" is no DNS name such as node1.com
`
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", &got, want)
	}
}
