package resolve

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// What other resolvers of DNS-type clusters have been seen to get wrong, unless another test here has it.

// The first answer is in the plan without another push, and so is every later one, within its TTL.
func TestAnswersAreAppliedWithoutAnotherPush(t *testing.T) {
	runClusters(t, func(c *clusters) {
		c.set("a.test. A", records("a.test", 1, "10.0.0.1"))
		c.push(cluster("c", mesh.StrictDNS, mesh.Schedule{RefreshRate: time.Minute, RespectTTL: true}, "a.test:80"))
		c.expect(t, "c", "10.0.0.1:80")
		c.set("a.test. A", records("a.test", 1, "10.0.0.2"))
		time.Sleep(time.Second)
		c.expect(t, "c", "10.0.0.2:80")
	})
}

// A name that fails is asked until it works, also if it never worked, and whatever is pushed meanwhile.
func TestFailureIsRetriedForEver(t *testing.T) {
	runClusters(t, func(c *clusters) {
		c.set("a.test. A", servfail)
		all := []mesh.Cluster{cluster("c", mesh.StrictDNS, mesh.Schedule{RefreshRate: time.Minute}, "a.test:80")}
		c.push(all...)
		for range 60 {
			time.Sleep(time.Minute)
			c.push(all...)
		}
		c.expect(t, "c", "warming")
		if n := c.count("a.test. A"); n < 60 || n > 130 {
			t.Errorf("asked %d times in an hour", n)
		}
		c.set("a.test. A", records("a.test", 30, "10.0.0.1"))
		time.Sleep(time.Minute)
		c.expect(t, "c", "10.0.0.1:80")
	})
}

// A name with IPv6 addresses only, behind every family that may have them.
func TestNameWithIPv6AddressesOnly(t *testing.T) {
	for family, want := range map[mesh.LookupFamily]string{
		mesh.Auto: "[2001:db8::1]:80", mesh.V6Only: "[2001:db8::1]:80", mesh.V4Preferred: "[2001:db8::1]:80",
		mesh.AllFamilies: "[2001:db8::1]:80", mesh.V4Only: "",
	} {
		runClusters(t, func(c *clusters) {
			cl := cluster("c", mesh.StrictDNS, mesh.Schedule{}, "a.test:80")
			cl.DNS.Family = family
			c.set("a.test. A", "")
			c.set("a.test. AAAA", records("a.test", 30, "2001:db8::1"))
			c.push(cl)
			c.expect(t, "c", want)
		})
	}
}

// A name is asked as it is, whatever its case and final dot, and once: no search list is tried.
func TestNamesAreAskedAsTheyAre(t *testing.T) {
	runClusters(t, func(c *clusters) {
		c.push(cluster("c", mesh.StrictDNS, mesh.Schedule{RefreshRate: time.Hour}, "single:80", "A.Test:80", "b.test.:80"))
		time.Sleep(time.Minute)
		synctest.Wait()
		c.world.mu.Lock()
		defer c.world.mu.Unlock()
		for _, question := range []string{"single. A", "a.test. A", "b.test. A"} {
			if n := len(c.asked[question]); n != 1 {
				t.Errorf("%s asked %d times", question, n)
			}
		}
		if len(c.asked) != 3 {
			t.Errorf("asked %v", c.asked)
		}
	})
}

// Whom to ask is found out for each lookup, so that a resolv.conf that changes is followed.
func TestServersAreFoundForEachLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set(db, one)
		run(t, w, func(r *Resolver) {
			r.Watch([]mesh.Watch{watch(v4("db.example"))})
			time.Sleep(time.Second)
			w.setServers("192.0.2.99:53")
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if last := w.servers[len(w.servers)-1].Addrs; !slices.Equal(last, []netip.AddrPort{netip.MustParseAddrPort("192.0.2.99:53")}) {
				t.Errorf("asked %v", last)
			}
		})
	})
}

// A cluster that comes, and one that goes, change nothing for the others: not what they have, not when
// they are asked.
func TestOtherClustersAreLeftAlone(t *testing.T) {
	runClusters(t, func(c *clusters) {
		var all []mesh.Cluster
		for _, name := range []string{"a", "b", "c"} {
			c.set(name+".test. A", records(name+".test", 30, "10.0.0.1"))
			all = append(all, cluster(name, mesh.StrictDNS, mesh.Schedule{RefreshRate: 10 * time.Second}, name+".test:80"))
		}
		c.push(all[:2]...)
		time.Sleep(3 * time.Second)
		c.push(all...)
		time.Sleep(3 * time.Second)
		c.push(all[1:]...)
		time.Sleep(16 * time.Second)
		c.expect(t, "a", "not there")
		c.expect(t, "b", "10.0.0.1:80")
		c.expect(t, "c", "10.0.0.1:80")
		const s = time.Second
		for question, want := range map[string][]time.Duration{
			"a.test. A": {0}, "b.test. A": {0, 10 * s, 20 * s}, "c.test. A": {3 * s, 13 * s},
		} {
			if got := c.times(question); !slices.Equal(got, want) {
				t.Errorf("%s asked at %v, want %v", question, got, want)
			}
		}
	})
}

// Nobody who pushes waits for a lookup, and one that takes long is applied when it is done.
func TestWatchDoesNotWaitForLookups(t *testing.T) {
	runClusters(t, func(c *clusters) {
		c.set("a.test. A", func(context.Context) any {
			time.Sleep(4 * time.Second)
			return records("a.test", 30, "10.0.0.1")
		})
		c.push(cluster("c", mesh.StrictDNS, mesh.Schedule{}, "a.test:80", "none.test:80"))
		if took := time.Since(c.began); took != 0 {
			t.Errorf("the push took %v", took)
		}
		time.Sleep(4*time.Second + emitEvery)
		c.expect(t, "c", "10.0.0.1:80")
	})
}

// Two objects of one name in two namespaces, each with endpoints of its own: each namespace has all of
// its own and none of the other's.
func TestOneHostInTwoNamespaces(t *testing.T) {
	runClusters(t, func(c *clusters) {
		c.set("a.test. A", records("a.test", 30, "10.1.0.1", "10.1.0.2", "10.1.0.3"))
		c.set("b.test. A", records("b.test", 30, "10.2.0.1", "10.2.0.2"))
		in := mesh.Input{Source: "xds", Clusters: []mesh.Cluster{
			cluster("one", mesh.StrictDNS, mesh.Schedule{}, "a.test:80"), cluster("two", mesh.StrictDNS, mesh.Schedule{}, "b.test:80"),
		}}
		for i, ns := range []string{"ns1", "ns2"} {
			in.Hosts = append(in.Hosts, mesh.Host{
				Name: "db.host", Object: "ServiceEntry " + ns + "/db", Namespace: ns, ExportTo: []string{"."}, Allocate: true,
				Ports: []mesh.Port{{Number: 80, Protocol: mesh.TCP, Cluster: in.Clusters[i].Name}},
			})
		}
		c.mu.Lock()
		c.pushed = in
		c.compile()
		c.mu.Unlock()
		time.Sleep(emitEvery)
		c.expect(t, "one", "10.1.0.1:80 10.1.0.2:80 10.1.0.3:80")
		c.expect(t, "two", "10.2.0.1:80 10.2.0.2:80")
	})
}

// A host whose name exists nowhere has its virtual address all the same: it is the mesh's own name.
func TestHostThatExistsNowhereElseHasAnAddress(t *testing.T) {
	runClusters(t, func(c *clusters) {
		c.push(cluster("made-up", mesh.StrictDNS, mesh.Schedule{}, "made-up.host:80"))
		c.expect(t, "made-up", "")
		if n := c.plan.Names; len(n) != 1 || n[0].Host != "made-up.host" || len(n[0].Addr4) != 1 || !n[0].Virtual {
			t.Errorf("names %+v", n)
		}
	})
}

// Run ends while everything waits, and while everything is being asked.
func TestRunEnds(t *testing.T) {
	for name, answer := range map[string]any{"waiting": one, "asking": silent} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.set(db, answer)
				var since time.Time
				run(t, w, func(r *Resolver) {
					r.Watch([]mesh.Watch{watch(v4("db.example"), mesh.Schedule{RefreshRate: time.Hour})})
					time.Sleep(time.Second)
					since = time.Now()
				})
				if took := time.Since(since); took != 0 {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}
