package resolve

import (
	"context"
	"fmt"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// However many clusters want a name, it is one question, as often as the most eager of them wants it; the
// family and the servers asked are part of what makes a lookup.
func TestOneQuestionForAThousandClusters(t *testing.T) {
	runClusters(t, func(c *clusters) {
		var all []mesh.Cluster
		for i := range 1000 {
			rate := time.Duration(60+i%10*60) * time.Second
			all = append(all, cluster(fmt.Sprintf("c%d", i), mesh.StrictDNS, mesh.Schedule{RefreshRate: rate}, fmt.Sprintf("A.test.:%d", 1000+i)))
		}
		six, tcp, own := cluster("six", mesh.StrictDNS, mesh.Schedule{RefreshRate: time.Minute}, "a.test:80"), all[0], all[0]
		six.DNS.Family = mesh.V6Only
		tcp.Name, tcp.DNS = "tcp", &mesh.DNS{Family: mesh.V4Only, UseTCP: true, Schedule: mesh.Schedule{RefreshRate: time.Hour}}
		own.Name, own.DNS = "own", &mesh.DNS{Family: mesh.V4Only, Resolvers: nodeServers, Schedule: mesh.Schedule{RefreshRate: time.Hour}}
		c.set("a.test. A", records("a.test", 30, "10.0.0.1"))
		c.set("a.test. AAAA", records("a.test", 30, "2001:db8::1"))
		c.push(append(all, six, tcp, own)...)
		time.Sleep(10*time.Minute + time.Second)
		c.expect(t, "c0", "10.0.0.1:1000")
		c.expect(t, "c999", "10.0.0.1:1999")
		c.expect(t, "six", "[2001:db8::1]:80")
		if n := c.count("a.test. A"); n != 11+2 {
			t.Errorf("A was asked %d times in 10 minutes, want 11, and once each over TCP and of the cluster's own servers", n)
		}
		if n := c.count("a.test. AAAA"); n != 11 {
			t.Errorf("AAAA was asked %d times in 10 minutes, want 11", n)
		}
		if n := c.emissions(); n > 4 {
			t.Errorf("%d emissions", n)
		}
	})
}

// Idle, the questions are as many as the TTLs say, and nobody hears of the answers: other TTLs and another
// order are no news.
func TestIdleCostIsTheSumOfOneOverTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const names, span = 200, 10 * time.Minute
		w := newWorld()
		var list []mesh.Watch
		want := 0
		for i := range names {
			name, ttl := fmt.Sprintf("n%d.test", i), 5+i%60
			n := 0
			w.set(name+". A", func(context.Context) any {
				if n++; n%2 == 0 {
					return records(name, ttl, "10.0.0.2", "10.0.0.1")
				}
				return records(name, ttl, "10.0.0.1", "10.0.0.2")
			})
			list = append(list, watch(v4(name), mesh.Schedule{RefreshRate: time.Minute, RespectTTL: true}))
			want += int(span/time.Second)/ttl + 1
		}
		run(t, w, func(r *Resolver) {
			r.Watch(list)
			time.Sleep(emitEvery)
			synctest.Wait()
			settled := w.emissions()
			time.Sleep(span)
			synctest.Wait()
			got := 0
			for _, l := range list {
				got += w.count(l.Lookup.Name + ". A")
			}
			if got != want {
				t.Errorf("%d questions in %v, want %d", got, span, want)
			}
			if n := w.emissions() - settled; n != 0 {
				t.Errorf("%d emissions of answers that did not change", n)
			}
		})
	})
}

// interval is how often a crowd's names want to be asked, in seconds.
const interval = 30

func crowdName(i int) string { return fmt.Sprintf("n%d.test", i) }

// crowd watches n names.
func crowd(w *world, n int) []mesh.Watch {
	list := make([]mesh.Watch, n)
	for i := range list {
		answer := new(dns.Msg)
		answer.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: crowdName(i) + ".", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: interval}, A: net.IPv4(10, 0, 0, 1),
		}}
		w.set(crowdName(i)+". A", answer)
		list[i] = watch(v4(crowdName(i)), mesh.Schedule{RefreshRate: interval * time.Second, RespectTTL: true})
	}
	return list
}

// expectEven fails if from a second on, up to now, any has more than twice the mean of questions.
func expectEven(t *testing.T, w *world, n, from int) {
	t.Helper()
	even := float64(n) / interval
	perSecond := make([]int, int(time.Since(w.began)/time.Second)+1)
	for i := range n {
		for _, at := range w.times(crowdName(i) + ". A") {
			perSecond[int(at/time.Second)]++
		}
	}
	whole := perSecond[from : len(perSecond)-1]
	if most := slices.Max(whole); float64(most) > 2*even {
		t.Errorf("%d questions in second %d, the mean is %.0f", most, from+slices.Index(whole, most), even)
	}
	total := 0
	for _, n := range whole {
		total += n
	}
	if mean := float64(total) / float64(len(whole)); mean < 0.9*even || mean > 1.3*even {
		t.Errorf("%.0f questions a second, want %.0f", mean, even)
	}
}

// Ten thousand names that were all asked at one moment, since nothing was known of them, are not asked at
// one moment again.
func TestNoBurst(t *testing.T) {
	const s = time.Second
	for _, test := range []struct {
		what  string
		names int
		do    func(r *Resolver, w *world, list []mesh.Watch)
		from  int // the first second that counts
	}{
		{"new names", 10000, func(r *Resolver, _ *world, list []mesh.Watch) {
			r.Watch(list)
		}, 1},
		{"pushed beside others, again and again", 3000, func(r *Resolver, _ *world, list []mesh.Watch) {
			r.Watch(list[:50])
			time.Sleep(5 * s)
			for range 20 {
				r.Watch(slices.Clone(list))
				time.Sleep(s)
			}
		}, 6},
		{"asked anew of other servers", 3000, func(r *Resolver, w *world, list []mesh.Watch) {
			r.Watch(list)
			time.Sleep(10 * s)
			w.setServers("192.0.2.54:53")
			r.Reask()
		}, 10},
		{"wanted more often", 3000, func(r *Resolver, _ *world, list []mesh.Watch) {
			rare := slices.Clone(list)
			for i := range rare {
				rare[i].Schedules = []mesh.Schedule{{RefreshRate: 10 * interval * s}}
			}
			r.Watch(rare)
			time.Sleep(2 * interval * s)
			r.Watch(list)
		}, 2*interval + 1},
		{"after an outage", 3000, func(r *Resolver, w *world, list []mesh.Watch) {
			r.Watch(list)
			time.Sleep(interval * s)
			for i := range list {
				w.set(crowdName(i)+". A", servfail)
			}
			time.Sleep(2 * interval * s)
			crowd(w, len(list))
			time.Sleep(interval * s)
		}, 4 * interval},
	} {
		t.Run(test.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				list := crowd(w, test.names)
				run(t, w, func(r *Resolver) {
					test.do(r, w, list)
					time.Sleep(2 * interval * s)
					expectEven(t, w, test.names, test.from)
				})
			})
		})
	}
}

// After a restart all have addresses already, and not even the first question comes in a burst; what has
// none is asked at once.
func TestNoBurstAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const names = 10000
		w := newWorld()
		list := crowd(w, names)
		var known []mesh.Resolution
		for _, l := range list[1:] {
			known = append(known, mesh.Resolution{Lookup: l.Lookup, Addresses: addrs("10.0.0.1")})
		}
		run(t, w, func(r *Resolver) {
			r.Watch(list)
			synctest.Wait()
			if n := w.count(crowdName(0) + ". A"); n != 1 {
				t.Errorf("the unknown one was asked %d times", n)
			}
			time.Sleep(2 * interval * time.Second)
			expectEven(t, w, names, 0)
		}, known...)
	})
}
