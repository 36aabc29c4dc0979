package routes

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// site is one host with the paths of all objects about it.
type site struct {
	host    string
	objects []string
	paths   []location // the longest first
}

// location is one path of a site.
type location struct {
	path   string
	object string
	to     []netip.AddrPort // none: nobody is there
}

// sites unites routes by host, and by path within it: where two objects have the same path, the first
// counts, of a stronger source or by its name.
func sites(plan *mesh.Plan, domain string) (all []*site, problems []mesh.Problem) {
	report := func(r *mesh.Route, format string, args ...any) {
		problems = append(problems, mesh.Problem{Source: sourceName, Object: r.Object, Reason: fmt.Sprintf(format, args...)})
	}
	found := newFinder(plan, domain)
	byHost := map[string]*site{}
	for i := range plan.Routes {
		r := &plan.Routes[i]
		if err := check(r); err != nil { // it may come from a disk
			report(r, "%v", err)
			continue
		}
		s := byHost[r.Host]
		if s == nil {
			s = &site{host: r.Host}
			byHost[r.Host] = s
			all = append(all, s)
		}
		if !slices.Contains(s.objects, r.Object) {
			s.objects = append(s.objects, r.Object)
		}
		for _, p := range r.Paths {
			if i := slices.IndexFunc(s.paths, func(l location) bool { return l.path == p.Path }); i >= 0 {
				report(r, "path %s of %s is %s's, which comes first", p.Path, r.Host, s.paths[i].object)
				continue
			}
			to, err := found.endpoints(p)
			if err != nil {
				report(r, "path %s of %s: %v", p.Path, r.Host, err)
			}
			s.paths = append(s.paths, location{p.Path, r.Object, to})
		}
	}
	slices.SortFunc(all, func(a, b *site) int { return strings.Compare(a.host, b.host) })
	for _, s := range all {
		slices.SortFunc(s.paths, func(a, b location) int {
			return cmp.Or(cmp.Compare(len(b.path), len(a.path)), strings.Compare(a.path, b.path))
		})
	}
	return all, problems
}

// finder finds what is behind the services that routes name. A proxy on the node cannot be told their
// virtual addresses: those are balanced for pods alone. It gets the very endpoints, and new ones when
// they change.
type finder struct {
	domain      string
	names       map[string]*mesh.Name
	assignments map[string]*mesh.Assignment
	frontends   map[string][]*mesh.Frontend // by host
}

func newFinder(plan *mesh.Plan, domain string) *finder {
	f := &finder{domain: domain, names: map[string]*mesh.Name{}, assignments: map[string]*mesh.Assignment{}, frontends: map[string][]*mesh.Frontend{}}
	wanted := map[string]bool{}
	for _, r := range plan.Routes {
		for _, p := range r.Paths {
			if !p.Address.IsValid() {
				for _, name := range f.forms(p.Service) {
					wanted[name] = true
				}
			}
		}
	}
	if len(wanted) == 0 {
		return f
	}
	for _, n := range plan.Names {
		if wanted[n.Host] && n.View == "" {
			f.names[n.Host] = n
		}
	}
	for _, at := range plan.Frontends {
		if wanted[at.Host] && at.View == "" {
			f.frontends[at.Host] = append(f.frontends[at.Host], at)
		}
	}
	for _, a := range plan.Assignments {
		f.assignments[a.Name] = a
	}
	return f
}

// forms are the names that a service may mean, the likeliest first.
func (f *finder) forms(service string) []string {
	name := strings.ToLower(service)
	forms := []string{name}
	switch strings.Count(name, ".") {
	case 0:
		forms = append(forms, name+".default.svc."+f.domain)
	case 1:
		forms = append(forms, name+".svc."+f.domain)
	case 2:
		forms = append(forms, name+"."+f.domain)
	}
	return forms
}

// endpoints returns where a path leads, sorted.
func (f *finder) endpoints(p mesh.RoutePath) ([]netip.AddrPort, error) {
	if p.Address.IsValid() {
		return []netip.AddrPort{netip.AddrPortFrom(p.Address, p.Port)}, nil
	}
	for _, name := range f.forms(p.Service) {
		n := f.names[name]
		if n == nil {
			continue
		}
		to, declared := f.behind(name, p.Port)
		if !declared && !n.Virtual {
			for _, addr := range slices.Concat(n.Addr4, n.Addr6) {
				to = append(to, netip.AddrPortFrom(addr, p.Port))
			}
		}
		if len(to) == 0 {
			return nil, fmt.Errorf("nothing is behind port %d of %s", p.Port, name)
		}
		slices.SortFunc(to, netip.AddrPort.Compare)
		return slices.Compact(to), nil
	}
	return nil, fmt.Errorf("service %s is no host of the mesh, and has no address", p.Service)
}

// healthy returns the endpoints of the first priority that has any; those without a port have the one asked.
func healthy(a *mesh.Assignment, port uint16) (to []netip.AddrPort) {
	first := uint32(math.MaxUint32)
	for _, l := range a.Localities {
		for _, e := range l.Endpoints {
			if e.Unhealthy || l.Priority > first {
				continue
			}
			if l.Priority < first {
				first, to = l.Priority, nil
			}
			to = append(to, netip.AddrPortFrom(e.Address.Addr(), cmp.Or(e.Address.Port(), port)))
		}
	}
	return to
}

// behind returns the healthy endpoints that connections to a port of a host are balanced over, and
// whether they are at all.
func (f *finder) behind(host string, port uint16) (to []netip.AddrPort, declared bool) {
	for _, at := range f.frontends[host] {
		if at.Port != port || at.Protocol != mesh.TCP {
			continue
		}
		a := f.assignments[at.Assignment]
		if declared = true; a == nil {
			continue
		}
		to = append(to, healthy(a, port)...)
	}
	return to, declared
}
