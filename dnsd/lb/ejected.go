package lb

import (
	"fmt"
	"maps"
	"net/netip"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/ebpf"
)

// ejections are the ejected endpoints of services, where they change how connections are spread.
type ejections map[string]map[netip.AddrPort]bool

// service returns how connections of one family are spread over an assignment at present.
func (b *Balancer) service(a *mesh.Assignment, family string) ebpf.Service {
	return service(a, family == family4, b.ejected[a.Name+family])
}

// Look notices which endpoints the kernel leaves alone now, since their handshakes failed, and tells it if
// that moves connections to other priorities or localities, or makes or ends a panic. It is cheap, and
// meant to be called about once a second. After an error Apply must be called, as after one of its own.
func (b *Balancer) Look() error {
	seen := make(ejections)
	services := make(map[string]ebpf.Service)
	for _, a := range b.plan.Assignments {
		if !ejectionMatters(a) {
			continue
		}
		for _, family := range []string{family4, family6} {
			name := a.Name + family
			for _, addr := range b.kernel.Ejected(name) {
				if seen[name] == nil {
					seen[name] = make(map[netip.AddrPort]bool)
				}
				seen[name][addr] = true
			}
			if _, cold := b.standIns[name]; !cold && !maps.Equal(seen[name], b.ejected[name]) {
				services[name] = service(a, family == family4, seen[name])
			}
		}
	}
	b.ejected = seen
	if len(services) == 0 || !b.sound {
		return nil
	}
	if _, err := b.kernel.Change(nil, services); err != nil {
		b.sound = false
		return fmt.Errorf("write what follows from ejections to the kernel: %w", first(err))
	}
	return nil
}
