package resolve

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// clusters is a node in small: what is pushed is compiled, what that asks for is looked up, and each
// answer is compiled in.
type clusters struct {
	*world
	r *Resolver

	mu       sync.Mutex
	vips     *mesh.VIPs
	pushed   mesh.Input
	resolved mesh.Input
	plan     *mesh.Plan
}

// runClusters starts one in a bubble, and sees to it that nothing is left of it.
func runClusters(t *testing.T, f func(c *clusters), initial ...mesh.Resolution) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		vips, err := mesh.OpenVIPs("", netip.MustParsePrefix("240.241.0.0/16"), netip.MustParsePrefix("2001:2::/48"))
		if err != nil {
			t.Fatal(err)
		}
		c := &clusters{world: newWorld(), vips: vips, resolved: mesh.Input{Source: "resolve", Pending: true, Resolutions: initial}}
		c.then = func(in mesh.Input) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.resolved = in
			c.compile()
		}
		run(t, c.world, func(r *Resolver) {
			c.r = r
			f(c)
		}, initial...)
	})
}

// push replaces all clusters, each behind a host of its own.
func (c *clusters) push(all ...mesh.Cluster) {
	in := mesh.Input{Source: "xds", Clusters: all}
	for _, cl := range all {
		in.Hosts = append(in.Hosts, mesh.Host{
			Name: cl.Name + ".host", Object: "cluster " + cl.Name, Allocate: true,
			Ports: []mesh.Port{{Number: 80, Protocol: mesh.TCP, Cluster: cl.Name}},
		})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pushed = in
	c.compile()
}

func (c *clusters) compile() {
	c.plan = mesh.Compile([]mesh.Input{c.pushed, c.resolved}, c.vips)
	c.r.Watch(c.plan.Watch)
}

// serving is what connections to a cluster are spread over, once everything has come to rest: localities in
// brackets, then addresses with their weights.
func (c *clusters) serving(cluster string) string {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.plan.Assignments {
		if a.Name != "xds/"+cluster {
			continue
		}
		if a.Warming {
			return "warming"
		}
		var words []string
		for _, loc := range a.Localities {
			if loc.Priority > 0 || loc.Weight > 1 || loc.Region != "" {
				words = append(words, fmt.Sprintf("[%s p%d w%d]", loc.Region, loc.Priority, loc.Weight))
			}
			for _, e := range loc.Endpoints {
				word := e.Address.String()
				if e.Weight > 1 {
					word += fmt.Sprintf("*%d", e.Weight)
				}
				if e.Unhealthy {
					word += "!"
				}
				words = append(words, word)
			}
		}
		return strings.Join(words, " ")
	}
	return "not there"
}

func (c *clusters) expect(t *testing.T, cluster, want string) {
	t.Helper()
	if got := c.serving(cluster); got != want {
		t.Fatalf("after %v %s has %q, want %q", time.Since(c.began), cluster, got, want)
	}
}

// cluster makes one of endpoints written "name:port", all in one locality, looked up for IPv4 only.
func cluster(name string, d mesh.DiscoveryType, s mesh.Schedule, endpoints ...string) mesh.Cluster {
	return mesh.Cluster{
		Name: name, Discovery: d, Balancing: mesh.Balancing{LbPolicy: mesh.RoundRobin},
		DNS:        &mesh.DNS{Family: mesh.V4Only, Schedule: s},
		Localities: []mesh.Locality{locality(0, endpoints...)},
	}
}

func locality(priority uint32, endpoints ...string) mesh.Locality {
	loc := mesh.Locality{Priority: priority}
	for _, text := range endpoints {
		i := strings.LastIndexByte(text, ':')
		e := mesh.Endpoint{Address: text[:i]}
		if _, err := fmt.Sscan(text[i+1:], &e.Port); err != nil {
			panic(err)
		}
		loc.Endpoints = append(loc.Endpoints, e)
	}
	return loc
}

// cancelled answers nothing, and notes when the asker gives up.
func cancelled(at *time.Time) func(context.Context) any {
	return func(ctx context.Context) any {
		<-ctx.Done()
		*at = time.Now()
		return ctx.Err()
	}
}
