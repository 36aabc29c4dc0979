package mesh

import (
	"net/netip"
	"testing"
)

func TestSpreads(t *testing.T) {
	plan := Compile([]Input{{
		Source: "kube",
		Hosts: []Host{
			{Name: "web.test", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Ports: []Port{{Number: 80, Protocol: TCP, Cluster: "c"}}},
			{Name: "other.test", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}},
		},
		Clusters: []Cluster{{Name: "c", Discovery: Static, Localities: []Locality{{Endpoints: []Endpoint{
			{Address: "10.1.0.1", Port: 80}, {Address: "10.1.0.2", Port: 80, Unhealthy: true},
		}}}}},
	}}, newVIPs(t))
	for _, n := range plan.Names {
		for addr, want := range map[string]bool{"10.1.0.1": n.Host == "web.test", "10.1.0.2": false, "10.0.0.1": false} {
			if got := plan.Spreads(n, netip.MustParseAddr(addr)); got != want {
				t.Errorf("%s over %s: %v", n.Host, addr, got)
			}
		}
	}
}
