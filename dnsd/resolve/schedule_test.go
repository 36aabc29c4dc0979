package resolve

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/nodens-dns/nodens/dnsd/mesh"
)

func TestRefresh(t *testing.T) {
	const s = time.Second
	for _, test := range []struct {
		what     string
		schedule []mesh.Schedule
		ttl      time.Duration
		low      time.Duration
		high     time.Duration // exclusive; 0 means exactly low
	}{
		{"nothing set", nil, 30 * s, 5 * s, 0},
		{"the rate", []mesh.Schedule{{RefreshRate: 60 * s}}, 30 * s, 60 * s, 0},
		{"the TTL", []mesh.Schedule{{RefreshRate: 60 * s, RespectTTL: true}}, 30 * s, 30 * s, 0},
		{"a longer TTL", []mesh.Schedule{{RefreshRate: 5 * s, RespectTTL: true}}, 300 * s, 300 * s, 0},
		{"no TTL", []mesh.Schedule{{RefreshRate: 60 * s, RespectTTL: true}}, 0, 60 * s, 0},
		{"a TTL below the floor", []mesh.Schedule{{RespectTTL: true, MinRefresh: 10 * s}}, 2 * s, 10 * s, 0},
		{"a rate below the floor", []mesh.Schedule{{RefreshRate: 2 * s, MinRefresh: 10 * s}}, 1 * s, 2 * s, 0},
		{"jitter", []mesh.Schedule{{RefreshRate: 4 * s, Jitter: 512 * time.Millisecond}}, 0, 4 * s, 4*s + 512*time.Millisecond},
		{"jitter on a TTL", []mesh.Schedule{{RespectTTL: true, Jitter: s}}, 6 * s, 6 * s, 7 * s},
		{"extreme jitter", []mesh.Schedule{{RefreshRate: s, Jitter: math.MaxInt64}}, 0, s, maxInterval + 1},
		{"negative jitter", []mesh.Schedule{{RefreshRate: s, Jitter: -s}}, 0, s, 0},
		{"extreme rate", []mesh.Schedule{{RefreshRate: math.MaxInt64}}, 0, maxInterval, 0},
		{"the earliest", []mesh.Schedule{{RefreshRate: 60 * s}, {RefreshRate: 7 * s}, {RespectTTL: true}}, 30 * s, 7 * s, 0},
	} {
		for range 200 {
			got := refresh(test.schedule, test.ttl)
			if got < test.low || got > max(test.low, test.high-1) {
				t.Fatalf("%s: %v, want from %v below %v", test.what, got, test.low, test.high)
			}
		}
	}
}

func TestBackOff(t *testing.T) {
	const s = time.Second
	for _, test := range []struct {
		what     string
		schedule mesh.Schedule
		want     []time.Duration // what the waits double up to
	}{
		{"nothing set", mesh.Schedule{}, []time.Duration{s, 2 * s, 4 * s, 5 * s, 5 * s}},
		{"Istio's rate", mesh.Schedule{RefreshRate: 60 * s}, []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s, 60 * s}},
		{"a rate below a second", mesh.Schedule{RefreshRate: s / 2}, []time.Duration{s / 2, s / 2}},
		{"a base", mesh.Schedule{FailureBase: 2 * s}, []time.Duration{2 * s, 4 * s, 8 * s, 16 * s, 20 * s, 20 * s}},
		{"base and maximum", mesh.Schedule{FailureBase: 7 * s, FailureMax: 10 * s}, []time.Duration{7 * s, 10 * s, 10 * s}},
		{"maximum below base", mesh.Schedule{FailureBase: 7 * s, FailureMax: s}, []time.Duration{7 * s, 7 * s}},
		{"extreme", mesh.Schedule{FailureBase: math.MaxInt64, FailureMax: math.MaxInt64}, []time.Duration{maxInterval, maxInterval}},
	} {
		for i, want := range test.want {
			for range 200 {
				if got := backOff([]mesh.Schedule{test.schedule}, i); got <= want/2-1 || got > want {
					t.Fatalf("%s, failure %d: %v, want between %v and %v", test.what, i+1, got, want/2, want)
				}
			}
		}
	}
	if got := backOff([]mesh.Schedule{{}}, math.MaxInt32); got > 5*s || got < 5*s/2 {
		t.Errorf("after very many failures %v", got)
	}
}

// On the wire: the intervals between questions are the schedule's, and a failure in between starts small.
func TestScheduleIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set(db, one)
		run(t, w, func(r *Resolver) {
			r.Watch([]mesh.Watch{watch(v4("db.example"), mesh.Schedule{RefreshRate: 10 * time.Second})})
			time.Sleep(35 * time.Second)
			const s = time.Second
			if got := w.times(db); !slices.Equal(got, []time.Duration{0, 10 * s, 20 * s, 30 * s}) {
				t.Errorf("asked at %v", got)
			}
			w.set(db, dns.RcodeServerFailure)
			time.Sleep(7 * s) // fails at 40, again after 0.5 to 1 s, after 1 to 2 s more
			if n := w.count(db); n < 6 || n > 7 {
				t.Errorf("asked %d times", n)
			}
			if st := r.Status()[0]; st.Failures < 2 || st.Error == "" || !st.Success.Equal(w.began.Add(30*s)) || len(st.Addresses) != 1 {
				t.Errorf("status %+v", st)
			}
			w.set(db, one)
			time.Sleep(20 * s)
			n := w.count(db)
			time.Sleep(100 * s)
			if got := w.count(db) - n; got != 10 {
				t.Errorf("asked %d times in 100 s after recovery", got)
			}
			w.set(db, dns.RcodeServerFailure)
			time.Sleep(10 * s)
			if st := r.Status()[0]; st.Failures == 0 || st.Due.After(time.Now().Add(10*s)) {
				t.Errorf("back-off did not start again: %+v", st)
			}
		})
	})
}

// "No such name" with respect_dns_ttl must not be a busy loop: it has no TTL.
func TestNegativeIsAskedAtTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		run(t, w, func(r *Resolver) {
			r.Watch([]mesh.Watch{watch(v4("db.example"), mesh.Schedule{RespectTTL: true})})
			time.Sleep(51 * time.Second)
			if n := w.count(db); n != 11 {
				t.Errorf("asked %d times in 51 s", n)
			}
		})
	})
}

// Names that nobody answers for, however many, do not delay those somebody does.
func TestBlackHoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var list []mesh.Watch
		for i := range 500 {
			name := fmt.Sprintf("hole%d.example", i)
			w.set(name+". A", silent)
			list = append(list, watch(v4(name)))
		}
		w.set(db, one)
		run(t, w, func(r *Resolver) {
			r.Watch(list)
			time.Sleep(2 * time.Minute)
			w.mu.Lock()
			most := w.most
			w.mu.Unlock()
			if most != maxRunning {
				t.Errorf("%d queries at once, want up to %d", most, maxRunning)
			}
			r.Watch(append(list, watch(v4("db.example"))))
			w.expect(t, v4("db.example"), false, "192.0.2.1")
			n := w.count(db)
			time.Sleep(51 * time.Second)
			if got := w.count(db) - n; got < 10 || got > 11 { // among many the first interval is shorter
				t.Errorf("asked %d times in 50 s", got)
			}
		})
	})
}

// A burst of answers is emitted together, the first of them at once.
func TestCoalescing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var list []mesh.Watch
		for i := range 1000 {
			name := fmt.Sprintf("n%d.example", i)
			delay := time.Duration(i%50) * 100 * time.Microsecond
			w.set(name+". A", func(context.Context) any {
				time.Sleep(delay)
				return name + ". 30 IN A 192.0.2.1"
			})
			list = append(list, watch(v4(name), mesh.Schedule{RefreshRate: time.Hour}))
		}
		run(t, w, func(r *Resolver) {
			r.Watch(list)
			time.Sleep(5 * time.Second)
			if n := w.emissions(); n > 12 {
				t.Errorf("%d emissions for answers within 80 ms", n)
			}
			last := w.emitted[len(w.emitted)-1].Resolutions
			if len(last) != 1000 || !slices.IsSortedFunc(last, func(a, b mesh.Resolution) int { return compare(a.Lookup, b.Lookup) }) {
				t.Errorf("%d resolutions, or not sorted", len(last))
			}
		})
	})
}

func TestResolvers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set(db, one)
		l := v4("db.example")
		l.Resolvers, l.UseTCP = "198.51.100.1:53,[2001:db8::53]:5353", true
		bad := v4("db.example")
		bad.Resolvers = "ns.example"
		run(t, w, func(r *Resolver) {
			r.Watch([]mesh.Watch{watch(l), watch(bad), watch(v4("db.example"))})
			time.Sleep(emitEvery)
			w.expect(t, l, false, "192.0.2.1")
			w.expect(t, v4("db.example"), false, "192.0.2.1")
			w.expect(t, bad, false)
			if w.count(db) != 2 {
				t.Errorf("asked %d times", w.count(db))
			}
			for _, s := range w.servers {
				if s.TCP && fmt.Sprint(s.Addrs) != "[198.51.100.1:53 [2001:db8::53]:5353]" {
					t.Errorf("asked %v", s.Addrs)
				}
			}
		})
		nobody := New(Options{Servers: func() []netip.AddrPort { return nil }})
		l = mesh.Lookup{Name: "db.example", Family: mesh.AllFamilies}
		if o := nobody.look(t.Context(), l, false); o.err() == nil {
			t.Error("asked nobody and got an answer")
		}
	})
}

// Whom to ask has changed: what the servers of before said holds no longer than it takes to ask again,
// also if they are being asked just now.
func TestReask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set(db, nil)
		w.set("slow.example. A", silent)
		own := v4("db.example")
		own.Resolvers = "198.51.100.1:53"
		run(t, w, func(r *Resolver) {
			r.Watch([]mesh.Watch{watch(v4("db.example")), watch(own), watch(v4("slow.example"))})
			time.Sleep(emitEvery)
			w.expect(t, v4("db.example"), true)
			w.set(db, one)
			w.set("slow.example. A", "slow.example. 30 IN A 192.0.2.3")
			w.setServers("192.0.2.54:53", "192.0.2.53:53")
			r.Reask()
			time.Sleep(2 * emitEvery)
			w.expect(t, v4("db.example"), false, "192.0.2.1")
			w.expect(t, own, true)
			time.Sleep(maxLook + emitEvery)
			w.expect(t, v4("slow.example"), false, "192.0.2.3")
		})
	})
}

// A pod with nameservers of its own comes and goes: what the first server said holds, and only what fails
// is tried with the others at once.
func TestReaskOfTheSameServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set(db, one)
		w.set("broken.example. A", dns.RcodeServerFailure)
		run(t, w, func(r *Resolver) {
			r.Watch([]mesh.Watch{watch(v4("db.example")), watch(v4("broken.example"))})
			time.Sleep(emitEvery)
			for range 10 {
				w.setServers("192.0.2.53:53", "198.51.100.7:53")
				r.Reask()
				time.Sleep(emitEvery)
				w.setServers("192.0.2.53:53")
				r.Reask()
				time.Sleep(emitEvery)
			}
			if n := w.count(db); n != 1 {
				t.Errorf("asked %d times, want once", n)
			}
			if n := w.count("broken.example. A"); n != 21 {
				t.Errorf("what fails was asked %d times, want 21", n)
			}
		})
	})
}

// Thousands of names that nobody answers for do not keep a new one waiting for minutes, not even the
// first time, when nothing is known of them.
func TestNewNameInAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set(db, one)
		var list []mesh.Watch
		for i := range 3000 {
			name := fmt.Sprintf("silent%d.example", i)
			w.set(name+". A", silent)
			list = append(list, watch(v4(name)))
		}
		run(t, w, func(r *Resolver) {
			r.Watch(list)
			time.Sleep(time.Second)
			r.Watch(append(slices.Clone(list), watch(v4("db.example"))))
			time.Sleep(time.Minute)
			w.expect(t, v4("db.example"), false, "192.0.2.1")
		})
	})
}

// There are servers that have no answer for AAAA, ever: a name that has addresses all the same does not fail.
func TestSecondChoiceIsKeptToTheSchedule(t *testing.T) {
	for family, first := range map[mesh.LookupFamily]string{mesh.Auto: "db.example. AAAA", mesh.V4Preferred: "db.example. A"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			second, answer := db, "db.example. 30 IN A 192.0.2.1"
			if family == mesh.V4Preferred {
				second, answer = "db.example. AAAA", "db.example. 30 IN AAAA 2001:db8::1"
			}
			w.set(first, dns.RcodeServerFailure)
			w.set(second, answer)
			run(t, w, func(r *Resolver) {
				l := mesh.Lookup{Name: "db.example", Family: family}
				r.Watch([]mesh.Watch{watch(l, mesh.Schedule{RefreshRate: 5 * time.Second, RespectTTL: true})})
				time.Sleep(95 * time.Second)
				const s = time.Second
				if got := w.times(second); !slices.Equal(got, []time.Duration{0, 30 * s, 60 * s, 90 * s}) {
					t.Errorf("%s: asked at %v", family, got)
				}
				if st := r.Status()[0]; st.Failures != 0 || st.Error == "" || !st.Success.Equal(w.began.Add(90*s)) {
					t.Errorf("%s: status %+v", family, st)
				}
				// Once it has had an address of the first family, the failure of that is one.
				w.set(first, map[bool]string{true: "db.example. 30 IN AAAA 2001:db8::2", false: "db.example. 30 IN A 192.0.2.2"}[family == mesh.Auto])
				time.Sleep(30 * s)
				w.set(first, dns.RcodeServerFailure)
				time.Sleep(35 * s)
				if st := r.Status()[0]; st.Failures == 0 {
					t.Errorf("%s: status %+v", family, st)
				}
			})
		})
	}
}
