package lb

import (
	"net/netip"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/ebpf"
)

// TestWarming replaces what serves a frontend only once there is something to replace it by: a cluster
// whose names nobody has looked up yet is not an empty one.
func TestWarming(t *testing.T) {
	held := ebpf.ServiceState{
		Frontends: []ebpf.Frontend{{Addr: netip.MustParseAddr("240.241.0.1"), Port: 80, Protocol: ebpf.TCP}},
		Service:   ebpf.Service{Backends: []ebpf.Backend{{Addr: netip.MustParseAddrPort("10.0.0.1:80"), Weight: 1}}},
	}
	k := recorder{held: []ebpf.ServiceState{held}}
	b := New(&k, Options{})
	plan := mesh.Plan{
		Frontends:   []*mesh.Frontend{front("240.241.0.1:80", "a")},
		Assignments: []*mesh.Assignment{{Name: "a", Warming: true}},
	}
	apply(t, b, &plan)
	wantKernel(t, &k, "240.241.0.1:80 6 -> a|v4 by 0: 10.0.0.1:80*1")

	plan.Assignments = []*mesh.Assignment{assignment("a", locality(0, 1, "10.0.0.2:80"))}
	apply(t, b, &plan)
	wantKernel(t, &k, "240.241.0.1:80 6 -> a|v4 by 1: 10.0.0.2:80*1")

	plan.Frontends = []*mesh.Frontend{front("240.241.0.1:80", "b")} // another cluster, not looked up
	plan.Assignments = []*mesh.Assignment{{Name: "b", Warming: true}}
	apply(t, b, &plan)
	wantKernel(t, &k, "240.241.0.1:80 6 -> b|v4 by 1: 10.0.0.2:80*1")

	plan.Assignments = []*mesh.Assignment{{Name: "b"}} // it has been, and there is nothing
	apply(t, b, &plan)
	wantKernel(t, &k, "240.241.0.1:80 6 -> b|v4 by 2:")
}
