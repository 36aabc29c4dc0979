package resolve

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// However often the same list is pushed, nothing is asked more often, or later.
func TestPushesChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set(db, one)
		run(t, w, func(r *Resolver) {
			list := []mesh.Watch{watch(v4("db.example")), watch(v4("gone.example")), watch(v4("broken.example"))}
			w.set("broken.example. A", dns.RcodeServerFailure)
			for range 200 {
				r.Watch(slices.Clone(list))
				time.Sleep(100 * time.Millisecond)
			}
			time.Sleep(50 * time.Millisecond)
			for question, most := range map[string]int{db: 5, "gone.example. A": 5, "broken.example. A": 16} {
				if n := w.count(question); n < 5 || n > most {
					t.Errorf("%s asked %d times in 20 s of pushes, want up to %d", question, n, most)
				}
			}
			if n := w.emissions(); n > 3 {
				t.Errorf("%d emissions", n)
			}
		})
	})
}

func TestChangedSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set(db, one)
		run(t, w, func(r *Resolver) {
			at := func(rates ...time.Duration) {
				var s []mesh.Schedule
				for _, rate := range rates {
					s = append(s, mesh.Schedule{RefreshRate: rate})
				}
				r.Watch([]mesh.Watch{watch(v4("db.example"), s...)})
			}
			const s = time.Second
			at(60 * s)
			time.Sleep(10 * s)
			at(20*s, 60*s) // another cluster wants it sooner
			time.Sleep(31 * s)
			at(60 * s) // and goes: what is due stays due
			time.Sleep(100 * s)
			if got := w.times(db); !slices.Equal(got, []time.Duration{0, 20 * s, 40 * s, 60 * s, 120 * s}) {
				t.Errorf("asked at %v", got)
			}
		})
	})
}

// That there is nothing to look up is an answer, too: as long as there is none a plan counts as partial,
// and nothing is ever removed.
func TestNothingToLookUp(t *testing.T) {
	for name, before := range map[string][]mesh.Watch{
		"from the start":               nil,
		"before the first answer came": {watch(v4("slow.example"))},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.set("slow.example. A", silent)
				run(t, w, func(r *Resolver) {
					if before != nil {
						r.Watch(before)
						time.Sleep(2 * emitEvery)
					}
					for range 3 {
						r.Watch(nil)
						time.Sleep(2 * emitEvery)
					}
					if n := w.emissions(); n != 1 {
						t.Errorf("%d emissions, want one", n)
					}
				})
			})
		})
	}
}

func TestRemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set(db, one)
		cancelled := false
		w.set("slow.example. A", func(ctx context.Context) any {
			<-ctx.Done()
			cancelled = true
			return "slow.example. 30 IN A 192.0.2.9"
		})
		run(t, w, func(r *Resolver) {
			r.Watch([]mesh.Watch{watch(v4("db.example")), watch(v4("slow.example"))})
			w.expect(t, v4("db.example"), false, "192.0.2.1")
			time.Sleep(time.Second)
			r.Watch(nil)
			synctest.Wait()
			time.Sleep(time.Minute)
			if !cancelled || w.count(db) != 1 || len(r.Status()) != 0 {
				t.Errorf("cancelled %v, asked %d times, %d lookups left", cancelled, w.count(db), len(r.Status()))
			}
			if last := w.emitted[len(w.emitted)-1]; len(last.Resolutions) != 0 {
				t.Errorf("still known: %+v", last)
			}
			r.Watch([]mesh.Watch{watch(v4("db.example"))})
			synctest.Wait()
			if w.count(db) != 2 {
				t.Errorf("wanted again and asked %d times", w.count(db))
			}
			expectIdle(t, r, 1)
		})
	})
}

// Removed and wanted again while it is being asked: the old answer is not taken for the new one.
func TestRemovalAndReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		n := 0
		w.set(db, func(ctx context.Context) any {
			n++
			if n > 1 {
				time.Sleep(time.Second)
				return two
			}
			<-ctx.Done()
			time.Sleep(time.Second / 2) // late, although cancelled
			return one
		})
		run(t, w, func(r *Resolver) {
			list := []mesh.Watch{watch(v4("db.example"))}
			r.Watch(list)
			synctest.Wait()
			r.Watch(nil)
			synctest.Wait()
			r.Watch(list)
			time.Sleep(700 * time.Millisecond)
			if res, ok := w.known(v4("db.example")); ok {
				t.Errorf("took the cancelled answer: %+v", res)
			}
			time.Sleep(time.Second)
			w.expect(t, v4("db.example"), false, "192.0.2.2")
		})
	})
}

func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		known := mesh.Resolution{Lookup: v4("db.example"), Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
		gone := mesh.Resolution{Lookup: v4("gone.example"), Addresses: known.Addresses, Negative: true}
		late := mesh.Resolution{Lookup: v4("late.example"), Addresses: known.Addresses}
		w.set(db, silent)
		w.set("late.example. A", silent)
		run(t, w, func(r *Resolver) {
			w.expect(t, v4("db.example"), false, "192.0.2.1") // before anybody watches
			r.Watch([]mesh.Watch{watch(v4("db.example")), watch(v4("gone.example"))})
			synctest.Wait()
			if w.count(db) != 1 {
				t.Errorf("asked %d times", w.count(db))
			}
			time.Sleep(30 * time.Second)
			w.expect(t, v4("db.example"), false, "192.0.2.1")
			w.expect(t, v4("gone.example"), true, "192.0.2.1")
			w.expect(t, v4("late.example"), false, "192.0.2.1")
			r.Watch([]mesh.Watch{watch(v4("db.example")), watch(v4("late.example"))})
			time.Sleep(initialFor)
			w.expect(t, v4("late.example"), false, "192.0.2.1")
			w.set(db, two)
			time.Sleep(20 * time.Second)
			w.expect(t, v4("db.example"), false, "192.0.2.2")
		}, known, gone, late)
	})
}

// What nobody takes up in time is forgotten.
func TestInitialIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set(db, one)
		old := mesh.Resolution{Lookup: v4("old.example"), Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7")}}
		run(t, w, func(r *Resolver) {
			r.Watch([]mesh.Watch{watch(v4("db.example"))})
			time.Sleep(initialFor + time.Minute)
			if res, ok := w.known(v4("old.example")); ok {
				t.Errorf("still known: %+v", res)
			}
		}, old)
	})
}

// Everything at once, for the race detector: pushes, results, status.
func TestConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		run(t, w, func(r *Resolver) {
			var list []mesh.Watch
			for i := range 300 {
				name := fmt.Sprintf("n%d.example", i)
				switch i % 3 {
				case 0:
					w.set(name+". A", silent)
				case 1:
					w.set(name+". A", name+". 1 IN A 192.0.2.1")
				}
				list = append(list, watch(v4(name), mesh.Schedule{RespectTTL: true, Jitter: time.Second}))
			}
			for i := range 1000 {
				r.Watch(list[i%200 : 100+i%200])
				go r.Status()
				time.Sleep(10 * time.Millisecond)
			}
			r.Watch(nil)
			time.Sleep(time.Second)
			expectIdle(t, r, 0)
		})
	})
}
