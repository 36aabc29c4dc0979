package lb

import (
	"net/netip"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/ebpf"
)

// What a service's name ends in, after its assignment's.
const family4, family6 = "|v4", "|v6"

// translate returns the kernel's words for a plan. Both maps are the caller's.
func translate(plan *mesh.Plan) (map[ebpf.Frontend]string, map[string]ebpf.Service) {
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
			services[name] = service(assignments[f.Assignment], is4)
		}
	}
	return frontends, services
}

func frontend(f *mesh.Frontend) ebpf.Frontend {
	return ebpf.Frontend{Addr: f.Address, Port: f.Port, Protocol: ebpf.Protocol(f.Protocol), View: ebpf.ViewOf(f.View)}
}

// service returns how connections of one address family are spread over an assignment. An endpoint of
// the other family cannot serve them; with none left they are refused.
func service(a *mesh.Assignment, is4 bool) ebpf.Service {
	first := firstChoice(a.Localities, is4)
	return ebpf.Service{
		Policy:   policy(a.LbPolicy),
		Backends: backends(weigh(first, a.LocalityWeighted, is4)),
		Standby:  standby(a.Localities, first, is4),
		Lasting:  a.Discovery == mesh.LogicalDNS, // its address is one of many, and all of them are good
	}
}

// standby are the endpoints of one family that get no connections, but have not left either.
func standby(localities, first []mesh.AssignedLocality, is4 bool) []netip.AddrPort {
	var all []netip.AddrPort
	for _, loc := range localities {
		chosen := len(first) > 0 && loc.Priority == first[0].Priority
		for _, e := range loc.Endpoints {
			if e.Address.Addr().Is4() == is4 && (!chosen || !takes(e, is4)) {
				all = append(all, e.Address)
			}
		}
	}
	return all
}

// firstChoice returns the localities of the lowest priority that has an endpoint of the family.
func firstChoice(localities []mesh.AssignedLocality, is4 bool) []mesh.AssignedLocality {
	for i, loc := range localities { // sorted by priority
		if sumOf(loc.Endpoints, is4) == 0 {
			continue
		}
		n := i + 1
		for n < len(localities) && localities[n].Priority == loc.Priority {
			n++
		}
		return localities[i:n]
	}
	return nil
}

func policy(p mesh.LbPolicy) ebpf.Policy {
	switch p {
	case mesh.RoundRobin:
		return ebpf.RoundRobin
	case mesh.Random:
		return ebpf.Random
	}
	return ebpf.LeastRequest // mesh has reported any other
}
