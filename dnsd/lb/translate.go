package lb

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/ebpf"
)

// What a service's name ends in, after its assignment's.
const family4, family6 = "|v4", "|v6"

// translate returns the kernel's words for a plan while these endpoints are ejected. Both maps are the
// caller's.
func translate(plan *mesh.Plan, ejected ejections) (map[ebpf.Frontend]string, map[string]ebpf.Service) {
	assignments := make(map[string]*mesh.Assignment, len(plan.Assignments))
	for i := range plan.Assignments {
		assignments[plan.Assignments[i].Name] = plan.Assignments[i]
	}
	frontends := make(map[ebpf.Frontend]string, len(plan.Frontends))
	services := make(map[string]ebpf.Service, len(plan.Assignments))
	for _, f := range plan.Frontends {
		name, is4 := f.Assignment+family6, f.Address.Is4()
		if is4 {
			name = f.Assignment + family4
		}
		frontends[frontend(f)] = name
		if _, done := services[name]; !done {
			services[name] = service(assignments[f.Assignment], is4, ejected[name])
		}
	}
	return frontends, services
}

func frontend(f *mesh.Frontend) ebpf.Frontend {
	return ebpf.Frontend{Addr: f.Address, Port: f.Port, Protocol: ebpf.Protocol(f.Protocol), View: ebpf.ViewOf(f.View)}
}

// service returns how connections of one address family are spread over an assignment. An endpoint of
// the other family cannot serve them; with none left they are refused. ejected are the endpoints the
// kernel leaves alone at present.
func service(a *mesh.Assignment, is4 bool, ejected map[netip.AddrPort]bool) ebpf.Service {
	parts := weigh(newChoice(a, is4, ejected).groups())
	return ebpf.Service{
		Policy:         policy(a.Balancing),
		Backends:       backends(parts),
		Standby:        standby(a.Localities, parts, is4),
		Lasting:        a.Discovery == mesh.LogicalDNS, // its address is one of many, and all of them are good
		TableSize:      a.HashTable,
		Affinity:       a.Affinity,
		MaxConnections: a.MaxConnections,
		Outlier:        outlier(a.Outlier),
	}
}

// standby are the endpoints of one family that get no connections, but have not left either.
func standby(localities []mesh.AssignedLocality, parts []part, is4 bool) []netip.AddrPort {
	var all []netip.AddrPort
	for _, loc := range localities {
		for _, e := range loc.Endpoints {
			_, used := slices.BinarySearchFunc(parts, e.Address, func(p part, a netip.AddrPort) int { return p.addr.Compare(a) })
			if e.Address.Addr().Is4() == is4 && !used {
				all = append(all, e.Address)
			}
		}
	}
	return all
}

func policy(b mesh.Balancing) ebpf.Policy {
	switch b.LbPolicy {
	case mesh.RoundRobin:
		return ebpf.RoundRobin
	case mesh.Random:
		return ebpf.Random
	case mesh.RingHash, mesh.Maglev:
		switch {
		case !b.HashSource:
			return ebpf.Random // nothing to hash, as in Envoy
		case b.LbPolicy == mesh.Maglev:
			return ebpf.Maglev
		}
		return ebpf.RingHash
	}
	return ebpf.LeastRequest // mesh has reported any other
}

// outlier fills in Envoy's defaults. Without any settings it is the kernel's side's own.
func outlier(o *mesh.Outlier) ebpf.Outlier {
	if o == nil {
		return ebpf.Outlier{}
	}
	return ebpf.Outlier{
		Consecutive: cmp.Or(o.Consecutive, 5),
		Ejection:    cmp.Or(o.BaseEjection, 30*time.Second),
		// As Envoy says: no shorter than the first.
		MaxEjection: max(cmp.Or(o.MaxEjection, 300*time.Second), o.BaseEjection),
		MaxPercent:  cmp.Or(o.MaxPercent, 10),
		Linear:      true,
	}
}

// ejectionMatters says whether connections go elsewhere when an endpoint is ejected, other than by the
// kernel's own choice of another.
func ejectionMatters(a *mesh.Assignment) bool {
	places := len(a.Localities) > 1 && (a.LocalityWeighted || a.Localities[0].Priority != a.Localities[len(a.Localities)-1].Priority)
	panics := a.Outlier != nil && (a.PanicThreshold == nil || *a.PanicThreshold > 0)
	return places || panics
}
