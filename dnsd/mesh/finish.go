package mesh

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
)

// finish makes the next plan of the last one and of what the parts gone and come tell.
func (r *run) finish() *Plan {
	last := r.plan
	if last == nil {
		last = &Plan{}
	}
	var names change[Name]
	var frontends change[Frontend]
	var assignments change[Assignment]
	for _, p := range r.gone {
		names.gone = append(names.gone, p.names...)
		frontends.gone = append(frontends.gone, p.frontends...)
	}
	for _, p := range r.come {
		names.add(p.names)
		frontends.add(p.frontends)
	}
	for _, a := range r.former {
		assignments.gone = append(assignments.gone, a.Assignment)
	}
	for _, a := range r.active {
		assignments.come = append(assignments.come, &a.Assignment)
	}
	r.parts = append(slices.DeleteFunc(r.parts, func(p *part) bool { return p.gone }), r.come...)
	plan := &Plan{
		Partial:     r.partial,
		Names:       names.apply(last.Names, compareNames, func(a, b *Name) bool { return reflect.DeepEqual(a, b) }),
		Frontends:   frontends.apply(last.Frontends, compareFrontends, func(a, b *Frontend) bool { return *a == *b }),
		Assignments: assignments.apply(last.Assignments, compareAssignments, func(_, _ *Assignment) bool { return false }),
		Watch:       r.watch(last.Watch),
		Routes:      r.routes(last.Routes),
		Zones:       r.zones(last.Zones),
		Problems:    r.problems(last.Problems),
	}
	for _, s := range r.sources {
		s.news = news{}
	}
	return plan
}

// watch returns the lookups that the assignments need: the last ones, unless other names are behind them.
func (r *run) watch(last []Watch) []Watch {
	differs := r.plan == nil
	for _, a := range r.active {
		old := r.former[a.Name]
		differs = differs || old == nil && len(a.wants) > 0 || old != nil && !slices.Equal(a.wants, old.wants)
	}
	for name, old := range r.former {
		differs = differs || r.assigned[name] == nil && len(old.wants) > 0
	}
	if !differs {
		return last
	}
	return watches(r.wanters)
}

// problems returns those of all sources and our own, each once and sorted: the last ones, unless anybody
// who had or has any is news.
func (r *run) problems(last []Problem) []Problem {
	differs := r.plan == nil
	for _, s := range r.sources {
		differs = differs || s.news.problems
	}
	for _, parts := range [][]*part{r.gone, r.come} {
		differs = differs || slices.ContainsFunc(parts, func(p *part) bool { return len(p.problems) > 0 })
	}
	for _, a := range r.former {
		differs = differs || len(a.all) > 0
	}
	for _, a := range r.active {
		differs = differs || len(a.all) > 0
	}
	if !differs {
		return last
	}
	problems := slices.Clone(r.vips.problems)
	for _, s := range r.sources {
		problems = append(problems, s.problems...)
	}
	for _, p := range r.parts {
		problems = append(problems, p.problems...)
	}
	for a := range maps.Values(r.assigned) {
		problems = append(problems, a.all...)
	}
	slices.SortFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Reason, b.Reason))
	})
	return slices.Compact(problems)
}

// change is what goes out of a sorted list of the plan, and what comes in.
type change[T any] struct {
	gone []*T
	come []**T // where their parts have them
}

func (c *change[T]) add(list []*T) {
	for i := range list {
		c.come = append(c.come, &list[i])
	}
}

// apply returns the changed list, or list itself if nothing differs. Of what comes in the place of the same
// that part is taken which was there already.
func (c *change[T]) apply(list []*T, compare func(a, b *T) int, same func(a, b *T) bool) []*T {
	slices.SortFunc(c.gone, compare)
	slices.SortFunc(c.come, func(a, b **T) int { return compare(*a, *b) })
	gone, come := c.gone[:0], c.come[:0]
	for len(c.gone) > 0 && len(c.come) > 0 {
		order := compare(c.gone[0], *c.come[0])
		if order == 0 && same(c.gone[0], *c.come[0]) {
			*c.come[0] = c.gone[0]
			c.gone, c.come = c.gone[1:], c.come[1:]
			continue
		}
		if order <= 0 {
			gone, c.gone = append(gone, c.gone[0]), c.gone[1:]
		}
		if order >= 0 {
			come, c.come = append(come, c.come[0]), c.come[1:]
		}
	}
	gone, come = append(gone, c.gone...), append(come, c.come...)
	if len(gone) == 0 && len(come) == 0 {
		return list
	}
	return merge(list, gone, come, compare)
}

// merge returns list without what is gone, and with what has come; all three are sorted.
func merge[T any](list, gone []*T, come []**T, compare func(a, b *T) int) []*T {
	size := len(list) - len(gone) + len(come)
	if size == 0 {
		return nil
	}
	merged := make([]*T, 0, size)
	for len(gone) > 0 || len(come) > 0 {
		leave := len(come) == 0 || len(gone) > 0 && compare(gone[0], *come[0]) <= 0
		var next *T
		if leave {
			next, gone = gone[0], gone[1:]
		} else {
			next, come = *come[0], come[1:]
		}
		n, _ := slices.BinarySearchFunc(list, next, compare)
		merged = append(merged, list[:n]...)
		list = list[n:]
		if leave {
			list = list[1:]
		} else {
			merged = append(merged, next)
		}
	}
	return append(merged, list...)
}

func compareNames(a, b *Name) int {
	return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.View, b.View))
}

func compareFrontends(a, b *Frontend) int {
	return cmp.Or(
		a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port),
		cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.View, b.View),
	)
}

func compareAssignments(a, b *Assignment) int { return cmp.Compare(a.Name, b.Name) }
