package show

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/nodens-dns/nodens/dnsd/admin"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/resolve"
	"github.com/nodens-dns/nodens/ebpf"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// answered is a lookup that was answered at noon, for 30 s.
func answered(l mesh.Lookup, addresses ...string) resolve.Status {
	s := resolve.Status{Resolution: mesh.Resolution{Lookup: l}, Success: noon, TTL: 30 * time.Second, Due: noon.Add(30 * time.Second)}
	for _, a := range addresses {
		s.Addresses = append(s.Addresses, netip.MustParseAddr(a))
	}
	return s
}

// Each address is once there, with all names it comes from and what the kernel knows of it; also those
// that get no connections, and those that are no endpoints any more.
func TestClusterRow(t *testing.T) {
	a, b := mesh.Lookup{Name: "a.test", Family: mesh.V4Only}, mesh.Lookup{Name: "b.test", Family: mesh.V4Only}
	failing := answered(b, "10.0.0.1", "10.0.0.2")
	failing.Error = "SERVFAIL"
	lookups := map[mesh.Lookup]resolve.Status{a: answered(a, "10.0.0.1"), b: failing}
	endpoint := func(addr string, weight uint32, unhealthy bool) mesh.AssignedEndpoint {
		return mesh.AssignedEndpoint{Address: netip.MustParseAddrPort(addr), Weight: weight, Unhealthy: unhealthy}
	}
	row := clusterRow(&mesh.Assignment{
		Name: "xds/c", Source: "xds", Discovery: mesh.StrictDNS, Balancing: mesh.Balancing{LbPolicy: mesh.Random},
		Lookups: []mesh.Lookup{a, b},
		Localities: []mesh.AssignedLocality{
			{Endpoints: []mesh.AssignedEndpoint{endpoint("10.0.0.1:80", 2, false), endpoint("10.0.0.1:80", 3, false), endpoint("10.0.0.8:80", 1, true)}},
			{Priority: 1, Endpoints: []mesh.AssignedEndpoint{endpoint("10.0.0.2:0", 1, false), endpoint("10.0.0.9:80", 1, false)}},
		},
	}, []string{"240.240.0.1:80/TCP"}, lookups, []ebpf.BackendState{
		{Addr: netip.MustParseAddrPort("10.0.0.1:80"), Weight: 1, Active: 4, Connections: 40, Failures: 1},
		{Addr: netip.MustParseAddrPort("10.0.0.9:80"), Weight: 1, Failures: 5, Ejected: true, EjectedUntil: noon},
		{Addr: netip.MustParseAddrPort("10.0.0.77:80"), Weight: 1, Active: 1},
	})
	end := noon.Add(30 * time.Second)
	ofB := admin.Origin{Name: "b.test", Expires: end, Error: "SERVFAIL"}
	want := []admin.EndpointRow{
		{Address: "10.0.0.1:80", From: []admin.Origin{{Name: "a.test", Expires: end}, ofB}, Weight: 5, Active: 4, Connections: 40, Failures: 1, State: admin.Serving},
		{Address: "10.0.0.8:80", Weight: 1, State: admin.Unhealthy},
		{Address: "10.0.0.2", From: []admin.Origin{ofB}, Priority: 1, Weight: 1, State: admin.Standby},
		{Address: "10.0.0.9:80", Priority: 1, Weight: 1, Failures: 5, State: admin.Ejected, EjectedUntil: noon},
		{Address: "10.0.0.77:80", Weight: 1, Active: 1, State: admin.Serving},
	}
	if len(row.Endpoints) != len(want) || row.Problem != "" {
		t.Fatalf("got %+v", row)
	}
	for i := range want {
		if !reflect.DeepEqual(row.Endpoints[i], want[i]) {
			t.Errorf("endpoint %d is\n%+v, want\n%+v", i, row.Endpoints[i], want[i])
		}
	}
}

// Two clusters of one name and different families, or different servers: each shows its own lookup.
func TestClustersOfOneNameShowTheirOwnLookups(t *testing.T) {
	lookups := make(map[mesh.Lookup]resolve.Status)
	for _, c := range []struct {
		lookup  mesh.Lookup
		address string
	}{
		{mesh.Lookup{Name: "a.test", Family: mesh.V4Only}, "10.0.0.1"},
		{mesh.Lookup{Name: "a.test", Family: mesh.V6Only}, "2001:db8::1"},
		{mesh.Lookup{Name: "a.test", Family: mesh.V4Only, Resolvers: "192.0.2.53:53", UseTCP: true}, "10.0.0.2"},
	} {
		lookups[c.lookup] = answered(c.lookup, c.address)
	}
	for l, status := range lookups {
		at := netip.AddrPortFrom(status.Addresses[0], 80)
		row := clusterRow(&mesh.Assignment{Lookups: []mesh.Lookup{l},
			Localities: []mesh.AssignedLocality{{Endpoints: []mesh.AssignedEndpoint{{Address: at, Weight: 1}}}}}, nil, lookups, nil)
		if len(row.Lookups) != 1 || row.Lookups[0].Family != string(l.Family) || row.Lookups[0].Resolvers != l.Resolvers ||
			row.Lookups[0].TCP != l.UseTCP || row.Lookups[0].Addresses[0] != status.Addresses[0].String() {
			t.Errorf("%+v shows %+v", l, row.Lookups)
		}
		if len(row.Endpoints[0].From) != 1 || row.Problem == "" {
			t.Errorf("%+v shows %+v", l, row)
		}
	}
}
