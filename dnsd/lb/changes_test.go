package lb

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// TestChangesAddUp applies plans that differ a little from each other: the kernel must hold what it would
// if it were told everything each time, also after errors.
func TestChangesAddUp(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			var some, all recorder
			b, whole := New(&some, Options{}), New(&all, Options{})
			plan := &mesh.Plan{}
			for step := range 25 {
				plan = another(rnd, plan)
				if rnd.IntN(10) == 0 {
					some.err = errors.New("full")
				}
				next, err := b.Apply(plan)
				if some.err = nil; err != nil {
					next = apply(t, b, plan)
				}
				whole.sound = false
				if due := apply(t, whole, plan); due != next {
					t.Fatalf("seed %d, step %d: due %s, with everything %s", seed, step, next, due)
				}
				if some.String() != all.String() {
					t.Fatalf("seed %d, step %d: the kernel has\n%s\nwith everything\n%s", seed, step, &some, &all)
				}
				time.Sleep(time.Duration(rnd.IntN(20)) * time.Second)
			}
		})
	}
}

// another is a plan that shares with p what it does not change.
func another(rnd *rand.Rand, p *mesh.Plan) *mesh.Plan {
	next := &mesh.Plan{Partial: rnd.IntN(8) == 0}
	for _, name := range []string{"a", "b", "c"} {
		i := slices.IndexFunc(p.Assignments, func(a *mesh.Assignment) bool { return a.Name == name })
		switch kind := rnd.IntN(8); {
		case kind == 0:
			next.Assignments = append(next.Assignments, &mesh.Assignment{Name: name, Warming: true})
		case kind == 1:
			next.Assignments = append(next.Assignments, &mesh.Assignment{Name: name})
		case kind == 2 || i < 0:
			next.Assignments = append(next.Assignments, assignment(name, locality(0, 1, fmt.Sprintf("10.0.0.%d:80 [2001:db8::%[1]d]:80", 1+rnd.IntN(9)))))
		default:
			next.Assignments = append(next.Assignments, p.Assignments[i])
		}
	}
	for _, addr := range []string{"240.241.0.1:80", "240.241.0.1:81", "240.241.0.2:80", "[2001:2::1]:80"} {
		old := slices.IndexFunc(p.Frontends, func(f *mesh.Frontend) bool { return *f == *front(addr, f.Assignment) })
		switch kind := rnd.IntN(4); {
		case kind == 0:
		case kind == 1 || old < 0:
			next.Frontends = append(next.Frontends, front(addr, next.Assignments[rnd.IntN(3)].Name))
		default:
			next.Frontends = append(next.Frontends, p.Frontends[old])
		}
	}
	return sorted(next)
}
