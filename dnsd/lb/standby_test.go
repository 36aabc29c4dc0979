package lb

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/ebpf"
)

// An endpoint that gets no connections for now has not left: the kernel is told of it. So is a former
// dnsd's word that connections outlast their endpoints.
func TestStandby(t *testing.T) {
	var k recorder
	b := New(&k, Options{})
	first := locality(0, 1, "10.0.0.1:80 10.0.0.2:80 [2001:db8::1]:80")
	first.Endpoints[1].Unhealthy = true
	a := assignment("a", first, locality(1, 1, "10.0.1.1:80"))
	a.Overprovisioning = 200 // the healthy one can take all
	logical := assignment("logical", locality(0, 1, "10.0.2.1:80"))
	logical.Discovery = mesh.LogicalDNS
	apply(t, b, &mesh.Plan{
		Frontends:   []*mesh.Frontend{front("240.241.0.1:80", "a"), front("240.241.0.2:80", "logical")},
		Assignments: []*mesh.Assignment{a, logical},
	})
	if got, want := fmt.Sprint(k.services["a|v4"].Standby), "[10.0.0.2:80 10.0.1.1:80]"; got != want {
		t.Errorf("on standby are %s, want %s", got, want)
	}
	if k.services["a|v4"].Lasting || !k.services["logical|v4"].Lasting {
		t.Errorf("lasting are the wrong ones: %+v", k.services)
	}

	back, rest := netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.0.1.1:80")
	former := recorder{held: []ebpf.ServiceState{{
		Service:   ebpf.Service{Lasting: true, Backends: []ebpf.Backend{{Addr: back, Weight: 1}}, Standby: []netip.AddrPort{rest}},
		Frontends: []ebpf.Frontend{{Addr: netip.MustParseAddr("240.241.0.1"), Port: 80, Protocol: ebpf.TCP}},
	}}}
	apply(t, New(&former, Options{}), &mesh.Plan{Partial: true})
	if s := former.services["formerly 0"]; !s.Lasting || len(s.Backends) != 1 || len(s.Standby) != 1 || s.Standby[0] != rest {
		t.Errorf("adopted as %+v", s)
	}
}
