package resolve

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// A LOGICAL_DNS cluster has the first address there is, and keeps it over failures and over a name that is
// gone.
func TestLogicalClusterHasTheFirstAddress(t *testing.T) {
	runClusters(t, func(c *clusters) {
		c.set("a.test. A", records("a.test", 30, "10.0.0.1", "10.0.0.2"))
		c.push(cluster("c", mesh.LogicalDNS, mesh.Schedule{RefreshRate: 4 * time.Second}, "a.test:11001"))
		c.expect(t, "c", "10.0.0.1:11001")
		for _, step := range []struct {
			what   string
			answer any
			want   string
		}{
			{"one more behind it", records("a.test", 30, "10.0.0.1", "10.0.0.2", "10.0.0.3"), "10.0.0.1:11001"},
			{"another order behind it", records("a.test", 30, "10.0.0.1", "10.0.0.3", "10.0.0.2"), "10.0.0.1:11001"},
			{"another first", records("a.test", 30, "10.0.0.3", "10.0.0.1", "10.0.0.2"), "10.0.0.3:11001"},
			{"a failure", servfail, "10.0.0.3:11001"},
			{"a timeout", errors.New("timeout"), "10.0.0.3:11001"},
			{"NODATA", "", "10.0.0.3:11001"},
			{"NXDOMAIN", nil, "10.0.0.3:11001"},
			{"the same in another order", records("a.test", 30, "10.0.0.1", "10.0.0.3", "10.0.0.2"), "10.0.0.1:11001"},
		} {
			c.set("a.test. A", step.answer)
			time.Sleep(8 * time.Second)
			t.Log(step.what)
			c.expect(t, "c", step.want)
		}
	})
}

// With both families the first address of each is used: which one a client can reach is not ours to say.
func TestLogicalClusterHasTheFirstOfEachFamily(t *testing.T) {
	runClusters(t, func(c *clusters) {
		cl := cluster("c", mesh.LogicalDNS, mesh.Schedule{}, "a.test:80")
		cl.DNS.Family = mesh.AllFamilies
		c.set("a.test. A", records("a.test", 30, "10.0.0.2", "10.0.0.1"))
		c.set("a.test. AAAA", records("a.test", 30, "2001:db8::2", "2001:db8::1"))
		c.push(cl)
		c.expect(t, "c", "10.0.0.2:80 [2001:db8::2]:80")
		c.set("a.test. AAAA", records("a.test", 30, "2001:db8::1", "2001:db8::2"))
		time.Sleep(6 * time.Second)
		c.expect(t, "c", "10.0.0.2:80 [2001:db8::1]:80")
	})
}

// Envoy rejects a LOGICAL_DNS cluster of two endpoints; here the first is served, and the rest is said to
// be left out.
func TestLogicalClusterOfTwoEndpointsServesTheFirst(t *testing.T) {
	runClusters(t, func(c *clusters) {
		c.set("a.test. A", records("a.test", 30, "10.0.0.1"))
		c.set("b.test. A", records("b.test", 30, "10.0.0.2"))
		c.push(cluster("c", mesh.LogicalDNS, mesh.Schedule{}, "a.test:80", "b.test:80"))
		c.expect(t, "c", "10.0.0.1:80")
		if len(c.plan.Problems) != 1 || c.count("b.test. A") != 0 {
			t.Errorf("problems %v, b.test asked %d times", c.plan.Problems, c.count("b.test. A"))
		}
	})
}

// A cluster that is removed while its name is being asked: the question is given up, nothing is emptied by
// that, and nothing is asked any more.
func TestRemovedClusterCancelsItsQuestion(t *testing.T) {
	for _, kind := range []mesh.DiscoveryType{mesh.StrictDNS, mesh.LogicalDNS} {
		t.Run(string(kind), func(t *testing.T) {
			runClusters(t, func(c *clusters) {
				var at time.Time
				c.set("a.test. A", cancelled(&at))
				c.set("b.test. A", records("b.test", 30, "10.0.0.2"))
				stays := cluster("stays", mesh.StrictDNS, mesh.Schedule{}, "b.test:80")
				c.push(cluster("goes", kind, mesh.Schedule{}, "a.test:80"), stays)
				time.Sleep(time.Second)
				c.push(stays)
				synctest.Wait()
				if time.Since(at) != 0 {
					t.Errorf("given up at %v", at)
				}
				time.Sleep(time.Minute)
				c.expect(t, "stays", "10.0.0.2:80")
				if n := c.count("a.test. A"); n != 1 {
					t.Errorf("asked %d times", n)
				}
			})
		})
	}
}

// One name behind clusters of both kinds is asked once, and each kind takes of it what it wants.
func TestBothKindsShareALookup(t *testing.T) {
	runClusters(t, func(c *clusters) {
		strict := cluster("strict", mesh.StrictDNS, mesh.Schedule{}, "a.test:80")
		logical := cluster("logical", mesh.LogicalDNS, mesh.Schedule{}, "a.test:80")
		c.set("a.test. A", records("a.test", 30, "10.0.0.1", "10.0.0.2"))
		c.push(strict)
		c.set("a.test. A", records("a.test", 30, "10.0.0.2", "10.0.0.1"))
		time.Sleep(6 * time.Second)
		c.push(strict, logical) // from now on it matters which is first
		time.Sleep(5 * time.Second)
		c.expect(t, "strict", "10.0.0.1:80 10.0.0.2:80")
		c.expect(t, "logical", "10.0.0.2:80")
		c.set("a.test. A", nil)
		time.Sleep(5 * time.Second)
		c.expect(t, "strict", "")
		c.expect(t, "logical", "10.0.0.2:80")
		if n := c.count("a.test. A"); n != 4 {
			t.Errorf("asked %d times", n)
		}
	})
}
