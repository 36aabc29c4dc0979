package mesh

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// tenant is what a slot's addresses were told to clients for, and since when not any more.
type tenant struct {
	host string
	left time.Time // zero: still there
}

// TestPairsNeverMove adds and deletes hosts 100,000 times, more of them than there are pairs, and starts
// anew every now and then, often without having saved. No host that is wanted loses what clients were
// told, no pair is told for a second host before it has rested, and who gets none gets one once it can.
func TestPairsNeverMove(t *testing.T) {
	const prefix, slots, hosts, steps = "240.241.0.0/26", 62, 140, 100_000
	path := filepath.Join(t.TempDir(), "vips.json")
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(5, 5))
		v := openVIPs(t, path, prefix)
		wanted, told := map[string]bool{}, map[uint32]tenant{}
		full, starts := 0, 0
		for step := range steps {
			host := fmt.Sprintf("host%d.test", rnd.IntN(hosts))
			if wanted[host] = !wanted[host]; !wanted[host] {
				delete(wanted, host)
			}
			if rnd.IntN(1000) == 0 {
				starts++
				v = openVIPs(t, path, prefix)
			}
			settle(v, wanted)
			if rnd.IntN(250) == 0 {
				save(t, v)
			}
			unsaved := v.Unsaved()
			for slot, was := range told {
				if _, has := v.given[was.host]; was.left.IsZero() && (!wanted[was.host] || !has) {
					told[slot] = tenant{was.host, time.Now()}
				}
			}
			for host, slot := range v.given {
				switch was := told[slot]; {
				case unsaved[host]: // nobody is told
				case was.host != "" && was.host != host && (was.left.IsZero() || time.Since(was.left) < rest):
					t.Fatalf("step %d: %s has the pair of %s, which left it %s ago", step, host, was.host, time.Since(was.left))
				default:
					told[slot] = tenant{host: host}
				}
			}
			if len(v.given) < len(wanted) {
				full++
				if idle := slots - len(v.given) - v.Usage().Resting; idle > 0 {
					t.Fatalf("step %d: %d hosts have no pair though %d are idle", step, len(wanted)-len(v.given), idle)
				}
			}
			time.Sleep(time.Duration(rnd.IntN(30)) * time.Second)
		}
		if full < steps/100 || starts < 50 {
			t.Errorf("pairs ran out %d times in %d starts: too few to tell", full, starts)
		}
	})
}

func settle(v *VIPs, wanted map[string]bool) {
	var fresh []string
	for host := range wanted {
		if !v.has(host) {
			fresh = append(fresh, host)
		}
	}
	v.settle(func(host string) bool { return wanted[host] }, fresh, maps.Keys(map[netip.Addr]bool{}), false)
}

// TestExhaustionEnds has two hosts too many: there is a problem for each until others have left and their
// pairs have rested, which Due foretells.
func TestExhaustionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := openVIPs(t, "", "240.241.0.0/30")
		c := NewCompiler(v, []string{"file"})
		c.Take(input("file", auto("a.test"), auto("b.test"), auto("c.test"), auto("d.test")))
		if plan := c.Compile(); len(plan.Problems) != 2 || len(plan.Names) != 2 || !v.Due().IsZero() {
			t.Fatalf("%d names, %d problems, due %s; want 2, 2, and no time as nobody leaves", len(plan.Names), len(plan.Problems), v.Due())
		}
		left := time.Now()
		c.Take(input("file", auto("c.test"), auto("d.test")))
		if plan := c.Compile(); len(plan.Names) != 0 || !v.Due().Equal(left.Add(rest)) {
			t.Fatalf("%d names, due %s; want none before %s", len(plan.Names), v.Due(), left.Add(rest))
		}
		time.Sleep(time.Until(v.Due()))
		if plan := c.Compile(); len(plan.Names) != 2 || len(plan.Problems) != 0 || !v.Due().IsZero() {
			t.Errorf("once they have rested: %d names, problems %v", len(plan.Names), plan.Problems)
		}
	})
}

// BenchmarkNearlyFull gives the last 1000 pairs of a range to new hosts.
func BenchmarkNearlyFull(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		v := openVIPs(b, "", "240.241.0.0/16")
		wanted := map[string]bool{}
		for i := range int(v.slots) {
			if wanted[fmt.Sprintf("host%d.test", i)] = true; i == int(v.slots)-1001 {
				settle(v, wanted)
			}
		}
		b.StartTimer()
		if settle(v, wanted); len(v.given) != int(v.slots) {
			b.Fatalf("%d of %d are given", len(v.given), v.slots)
		}
	}
}
