package lb

import (
	"cmp"
	"slices"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/ebpf"
)

// changes is what the kernel is to be told of a new plan: frontends by the name of their service, "" for
// those that go, and services.
type changes struct {
	frontends map[ebpf.Frontend]string
	services  map[string]ebpf.Service
}

// family is the end of the name of a frontend's service.
func family(f *mesh.Frontend) string {
	if f.Address.Is4() {
		return family4
	}
	return family6
}

// find returns where in a plan the assignment of that name is.
func find(plan *mesh.Plan, name string) (int, bool) {
	return slices.BinarySearchFunc(plan.Assignments, name, func(a *mesh.Assignment, name string) int { return cmp.Compare(a.Name, name) })
}

// of returns the assignment that serves a frontend of a plan.
func of(plan *mesh.Plan, f *mesh.Frontend) *mesh.Assignment {
	i, _ := find(plan, f.Assignment) // it is there
	return plan.Assignments[i]
}

// before returns what has served an assignment's frontends of one family so far.
func (b *Balancer) before(a *mesh.Assignment, family string) ebpf.Service {
	if standIn, ok := b.standIns[a.Name+family]; ok {
		return standIn
	}
	return b.service(a, family)
}

// compare finds out what differs from the plan before, and puts it in the kernel's words. What is the same
// memory in both plans is the same.
func (b *Balancer) compare(plan *mesh.Plan) *changes {
	c := &changes{frontends: make(map[ebpf.Frontend]string), services: make(map[string]ebpf.Service)}
	standIns := make(map[string]ebpf.Service)
	serve := func(a *mesh.Assignment, family string, was ebpf.Service) {
		name := a.Name + family
		if _, settled := standIns[name]; settled {
			return
		}
		s := b.service(a, family)
		if standIn, ok := b.standIns[name]; ok {
			was = standIn
		}
		if a.Warming && len(s.Backends) == 0 && len(was.Backends) > 0 {
			standIns[name] = was
			s = was
		}
		c.services[name] = s
	}
	for old, a := range mesh.ChangedAssignments(b.plan, plan) {
		if old != nil && a != nil {
			serve(a, family4, b.before(old, family4))
			serve(a, family6, b.before(old, family6))
		}
	}
	for old, f := range mesh.ChangedFrontends(b.plan, plan) {
		var was ebpf.Service
		if old != nil {
			was = b.before(of(b.plan, old), family(old))
		}
		if f == nil {
			b.lingering[frontend(old)] = &lingering{name: old.Assignment + family(old), service: was}
			continue
		}
		key := frontend(f)
		if l := b.lingering[key]; l != nil {
			was = l.service
			delete(b.lingering, key)
		}
		c.frontends[key] = f.Assignment + family(f)
		serve(of(plan, f), family(f), was)
	}
	b.keepStandIns(plan, standIns)
	return c
}

// keepStandIns replaces the stand-ins by new ones, and those of assignments that are not warm yet.
func (b *Balancer) keepStandIns(plan *mesh.Plan, standIns map[string]ebpf.Service) {
	if len(b.standIns) > 0 {
		for _, a := range plan.Assignments {
			for _, name := range []string{a.Name + family4, a.Name + family6} {
				old, ok := b.standIns[name]
				if _, renewed := standIns[name]; ok && !renewed && a.Warming {
					standIns[name] = old
				}
			}
		}
	}
	b.standIns = standIns
}
