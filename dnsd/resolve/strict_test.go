package resolve

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/nodens-dns/nodens/dnsd/mesh"
)

const servfail = dns.RcodeServerFailure

// A STRICT_DNS cluster has every address of every name, each once, whatever their order; a name that is
// gone takes its own addresses with it and no others; a failure takes none.
func TestStrictClusterHasAllAddressesOfAllNames(t *testing.T) {
	runClusters(t, func(c *clusters) {
		schedule := mesh.Schedule{RefreshRate: 4 * time.Second}
		c.set("a.test. A", records("a.test", 30, "10.1.0.1", "10.1.0.2"))
		c.set("b.test. A", records("b.test", 30, "10.2.0.1", "10.2.0.1"))
		c.push(cluster("c", mesh.StrictDNS, schedule, "a.test:11001", "b.test:11002"))
		time.Sleep(emitEvery)
		c.expect(t, "c", "10.1.0.1:11001 10.1.0.2:11001 10.2.0.1:11002")
		for _, step := range []struct {
			what  string
			a, b  any
			want  string
			emits int
		}{
			{"another order", records("a.test", 30, "10.1.0.2", "10.1.0.1"), records("b.test", 30, "10.2.0.1"), "10.1.0.1:11001 10.1.0.2:11001 10.2.0.1:11002", 0},
			{"that order again", records("a.test", 30, "10.1.0.2", "10.1.0.1"), records("b.test", 30, "10.2.0.1"), "10.1.0.1:11001 10.1.0.2:11001 10.2.0.1:11002", 0},
			{"others", records("a.test", 30, "10.1.0.3"), records("b.test", 30, "10.2.0.1"), "10.1.0.3:11001 10.2.0.1:11002", 1},
			{"one fails", servfail, records("b.test", 30, "10.2.0.1"), "10.1.0.3:11001 10.2.0.1:11002", 0},
			{"one has none", records("a.test", 30, "10.1.0.3"), "", "10.1.0.3:11001", 1},
			{"it fails then", records("a.test", 30, "10.1.0.3"), errors.New("timeout"), "10.1.0.3:11001", 0},
			{"none is there", nil, nil, "", 1},
			{"all are back", records("a.test", 30, "10.1.0.1"), records("b.test", 30, "10.2.0.2"), "10.1.0.1:11001 10.2.0.2:11002", 1},
		} {
			before := c.emissions()
			c.set("a.test. A", step.a)
			c.set("b.test. A", step.b)
			time.Sleep(4100 * time.Millisecond)
			t.Log(step.what)
			c.expect(t, "c", step.want)
			if n := c.emissions() - before; n > step.emits+1 || (n == 0) != (step.emits == 0) {
				t.Errorf("%s: %d emissions", step.what, n)
			}
		}
	})
}

// Weight, health and locality of an endpoint are those of every address of its name, the weight undivided;
// two names with one address are two endpoints, and each goes for itself.
func TestAddressesInheritFromTheirEndpoint(t *testing.T) {
	runClusters(t, func(c *clusters) {
		cl := cluster("c", mesh.StrictDNS, mesh.Schedule{})
		heavy := locality(0, "a.test:80", "b.test:80", "10.9.0.9:81")
		heavy.Region, heavy.Weight = "r1", 3
		heavy.Endpoints[0].Weight = 2
		sick := locality(0, "sick.test:80")
		sick.Region, sick.Endpoints[0].Unhealthy = "r2", true
		cl.Localities = []mesh.Locality{heavy, sick}
		c.set("a.test. A", records("a.test", 30, "10.1.0.1", "10.1.0.2", "10.1.0.3"))
		c.set("b.test. A", records("b.test", 30, "10.1.0.1"))
		c.set("sick.test. A", records("sick.test", 30, "10.3.0.1", "10.3.0.2"))
		c.push(cl)
		time.Sleep(emitEvery)
		const sickOnes = " [r2 p0 w1] 10.3.0.1:80! 10.3.0.2:80!"
		c.expect(t, "c", "[r1 p0 w3] 10.1.0.1:80 10.1.0.1:80*2 10.1.0.2:80*2 10.1.0.3:80*2 10.9.0.9:81"+sickOnes)
		c.set("a.test. A", records("a.test", 30, "10.1.0.2"))
		time.Sleep(6 * time.Second)
		c.expect(t, "c", "[r1 p0 w3] 10.1.0.1:80 10.1.0.2:80*2 10.9.0.9:81"+sickOnes)
		c.set("b.test. A", nil)
		time.Sleep(6 * time.Second)
		c.expect(t, "c", "[r1 p0 w3] 10.1.0.2:80*2 10.9.0.9:81"+sickOnes)
	})
}

// Several names in several priorities: each address is in that of its endpoint.
func TestAddressesAreInThePriorityOfTheirEndpoint(t *testing.T) {
	runClusters(t, func(c *clusters) {
		cl := cluster("c", mesh.StrictDNS, mesh.Schedule{})
		cl.Localities = []mesh.Locality{locality(0, "a.test:80", "b.test:81"), locality(1, "c.test:82", "10.9.0.9:83")}
		for i, name := range []string{"a", "b", "c"} {
			c.set(name+".test. A", records(name+".test", 30, []string{"10.1.0.1", "10.2.0.1", "10.3.0.1"}[i]))
		}
		c.push(cl)
		time.Sleep(emitEvery)
		c.expect(t, "c", "10.1.0.1:80 10.2.0.1:81 [ p1 w1] 10.3.0.1:82 10.9.0.9:83")
		c.set("a.test. A", nil)
		c.set("b.test. A", nil)
		time.Sleep(6 * time.Second)
		c.expect(t, "c", "[ p1 w1] 10.3.0.1:82 10.9.0.9:83")
	})
}

// A cluster without names is ready at once, and asks nothing.
func TestClusterWithoutNamesIsReadyAtOnce(t *testing.T) {
	runClusters(t, func(c *clusters) {
		c.push(cluster("empty", mesh.StrictDNS, mesh.Schedule{}), cluster("literals", mesh.StrictDNS, mesh.Schedule{}, "10.0.0.1:80", "10.0.0.2:80"))
		c.expect(t, "empty", "")
		c.expect(t, "literals", "10.0.0.1:80 10.0.0.2:80")
		if len(c.plan.Watch) != 0 || c.plan.Partial {
			t.Errorf("partial %v, waits for %v", c.plan.Partial, c.plan.Watch)
		}
	})
}

// A cluster is ready with the first definite outcome of any of its names, also with none; and what is not
// there is asked again.
func TestClusterIsReadyWithTheFirstOutcome(t *testing.T) {
	runClusters(t, func(c *clusters) {
		c.set("slow.test. A", silent)
		c.set("a.test. A", records("a.test", 30, "10.1.0.1"))
		c.push(cluster("some", mesh.StrictDNS, mesh.Schedule{}, "slow.test:80", "a.test:80"),
			cluster("none", mesh.StrictDNS, mesh.Schedule{}, "none.test:80"),
			cluster("warming", mesh.StrictDNS, mesh.Schedule{}, "slow.test:80"))
		time.Sleep(emitEvery)
		c.expect(t, "some", "10.1.0.1:80")
		c.expect(t, "none", "")
		c.expect(t, "warming", "warming")
		if c.plan.Partial {
			t.Error("a slow name holds up the whole plan")
		}
		c.set("none.test. A", records("none.test", 30, "10.2.0.1"))
		time.Sleep(5 * time.Second)
		c.expect(t, "none", "10.2.0.1:80")
	})
}

// An address that is gone is gone at once, whatever its endpoint's health: nobody probes it here who could
// find it still alive.
func TestRemovedAddressIsGoneAtOnce(t *testing.T) {
	runClusters(t, func(c *clusters) {
		cl := cluster("c", mesh.StrictDNS, mesh.Schedule{}, "a.test:80", "b.test:80")
		cl.Localities[0].Endpoints[1].Unhealthy = true
		c.set("a.test. A", records("a.test", 30, "10.1.0.1", "10.1.0.2"))
		c.set("b.test. A", records("b.test", 30, "10.2.0.1", "10.2.0.2"))
		c.push(cl)
		time.Sleep(emitEvery)
		c.expect(t, "c", "10.1.0.1:80 10.1.0.2:80 10.2.0.1:80! 10.2.0.2:80!")
		c.set("a.test. A", records("a.test", 30, "10.1.0.2"))
		c.set("b.test. A", records("b.test", 30, "10.2.0.2"))
		time.Sleep(5*time.Second + 2*emitEvery)
		c.expect(t, "c", "10.1.0.2:80 10.2.0.2:80!")
	})
}

// When the next question comes after an answer, after "there is none" and after a failure.
func TestIntervalAfterEachOutcome(t *testing.T) {
	const s = time.Second
	for _, test := range []struct {
		what      string
		schedule  mesh.Schedule
		answer    any
		low, high time.Duration // until the next question, high exclusive unless equal
	}{
		{"the TTL", mesh.Schedule{RefreshRate: 4 * s, RespectTTL: true}, records("a.test", 5, "10.0.0.1"), 5 * s, 5 * s},
		{"no TTL asked for", mesh.Schedule{RefreshRate: 4 * s}, records("a.test", 5, "10.0.0.1"), 4 * s, 4 * s},
		{"the rate unset", mesh.Schedule{}, records("a.test", 3600, "10.0.0.1"), 5 * s, 5 * s},
		{"Istio's rate", mesh.Schedule{RefreshRate: 60 * s}, records("a.test", 3600, "10.0.0.1"), 60 * s, 60 * s},
		{"the TTL and jitter", mesh.Schedule{RefreshRate: 4 * s, RespectTTL: true, Jitter: s}, records("a.test", 6, "10.0.0.1"), 6 * s, 7 * s},
		{"the rate and jitter", mesh.Schedule{RefreshRate: 4 * s, Jitter: 512 * time.Millisecond}, records("a.test", 6, "10.0.0.1"), 4 * s, 4*s + 512*time.Millisecond},
		{"a TTL of 0", mesh.Schedule{RefreshRate: 4 * s, RespectTTL: true}, records("a.test", 0, "10.0.0.1"), 4 * s, 4 * s},
		{"a TTL below the floor", mesh.Schedule{RefreshRate: 4 * s, RespectTTL: true, MinRefresh: 3 * s}, records("a.test", 1, "10.0.0.1"), 3 * s, 3 * s},
		{"the least TTL of several", mesh.Schedule{RespectTTL: true}, records("a.test", 60, "10.0.0.1") + records("a.test", 7, "10.0.0.2"), 7 * s, 7 * s},
		{"the TTL of an alias", mesh.Schedule{RespectTTL: true}, "a.test. 6 IN CNAME b.test.;" + records("b.test", 60, "10.0.0.1"), 6 * s, 6 * s},
		{"NODATA", mesh.Schedule{RefreshRate: 4 * s, RespectTTL: true}, "", 4 * s, 4 * s},
		{"NXDOMAIN", mesh.Schedule{RefreshRate: 4 * s, RespectTTL: true}, nil, 4 * s, 4 * s},
		{"a failure", mesh.Schedule{RefreshRate: 60 * s, RespectTTL: true}, servfail, s / 2, s},
		{"a failure with a base", mesh.Schedule{RefreshRate: s, FailureBase: 7 * s, FailureMax: 10 * s}, servfail, 7 * s / 2, 7 * s},
	} {
		t.Run(test.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.set("a.test. A", test.answer)
				run(t, w, func(r *Resolver) {
					r.Watch([]mesh.Watch{watch(v4("a.test"), test.schedule)})
					for w.count("a.test. A") < 2 {
						time.Sleep(10 * time.Millisecond)
					}
					if at := w.times("a.test. A")[1]; at < test.low || at > test.high {
						t.Errorf("asked again after %v, want from %v to %v", at, test.low, test.high)
					}
				})
			})
		})
	}
}

// Failure, success, failure: the second failure's wait is the first one's again, for both kinds of cluster,
// and no wait is longer than the maximum.
func TestBackOffStartsAnewAfterSuccess(t *testing.T) {
	for _, kind := range []mesh.DiscoveryType{mesh.StrictDNS, mesh.LogicalDNS} {
		t.Run(string(kind), func(t *testing.T) {
			runClusters(t, func(c *clusters) {
				const base = 7 * time.Second
				waits := func(n int) (all []time.Duration) {
					asked := c.count("a.test. A")
					for c.count("a.test. A") < asked+n {
						time.Sleep(10 * time.Millisecond)
					}
					at := c.times("a.test. A")[asked-1:]
					for i := range n {
						all = append(all, at[i+1]-at[i])
					}
					return all
				}
				c.set("a.test. A", servfail)
				c.push(cluster("c", kind, mesh.Schedule{RefreshRate: 4 * time.Second, FailureBase: base, FailureMax: 10 * time.Second}, "a.test:80"))
				synctest.Wait()
				for i, wait := range waits(4) {
					if limit := []time.Duration{base, 10 * time.Second}[min(i, 1)]; wait < limit/2 || wait > limit {
						t.Errorf("wait %d is %v, want up to %v", i, wait, limit)
					}
				}
				c.set("a.test. A", records("a.test", 30, "10.0.0.1"))
				waits(1)
				if wait := waits(1)[0]; wait != 4*time.Second {
					t.Errorf("after success %v", wait)
				}
				c.set("a.test. A", servfail)
				waits(1)
				if wait := waits(1)[0]; wait < base/2 || wait > base {
					t.Errorf("after the next failure %v", wait)
				}
				c.expect(t, "c", "10.0.0.1:80")
			})
		})
	}
}
