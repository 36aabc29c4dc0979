package mesh

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestBadInput mixes one bad object with a good one: the bad one is named, the good one works.
func TestBadInput(t *testing.T) {
	good := []any{announced("good.test", "good", []string{"192.0.2.1"}, 80), static(outbound("good.test", 80), "10.0.0.1:80")}
	works := `name good.test = 192.0.2.1 virtual
		front 192.0.2.1:80/TCP -> file/outbound|80||good.test
		serve file/outbound|80||good.test LEAST_REQUEST: 10.0.0.1:80
		`
	named := func(name string) Host { return Host{Name: name, Object: "bad", Addresses: ips("192.0.2.9")} }
	for _, tc := range []struct {
		bad     any
		problem string
	}{
		{named(""), "file bad: host an empty name"},
		{named("*"), `file bad: host "*" has the character '*', which no host name has`},
		{named("*.*.test"), `file bad: host "*.test" has the character '*', which no host name has`},
		{named("a..test"), `file bad: host "a..test" has an empty label`},
		{named("a.test.."), `file bad: host "a.test." ends in an empty label`},
		{named("bücher.test"), `file bad: host "bücher.test" is not ASCII: write it in its xn-- form`},
		{named("http://a.test"), `file bad: host "http://a.test" has the character ':', which no host name has`},
		{named("10.0.0.1"), `file bad: host "10.0.0.1" is an address, not a name`},
		{named(strings.Repeat("a", 64) + ".test"), `file bad: host "` + strings.Repeat("a", 64) + `.test" has a label of more than 63 bytes`},
		{named(strings.Repeat("a.", 130) + "test"), "file bad: host a name of 264 bytes, more than the 253 DNS allows"},
		{Host{Name: "a.test", Object: "bad", ExternalName: "b c"}, `file bad: external name "b c" has the character ' ', which no host name has`},
		{Host{Name: "a.test", Object: "bad", Addresses: []netip.Addr{ip("127.0.0.1")}}, "file bad: address 127.0.0.1 cannot belong to a host; it is left out"},
		{Host{Name: "a.test", Object: "bad", Addresses: []netip.Addr{ip("0.0.0.0")}}, "file bad: address 0.0.0.0 cannot belong to a host; it is left out"},
		{Host{Name: "a.test", Object: "bad", Addresses: []netip.Addr{{}}}, "file bad: an address that is none; it is left out"},
		{Host{Name: "a.test", Object: "bad", Addresses: []netip.Addr{ip("fe80::1%eth0")}}, "file bad: address fe80::1%eth0 has a zone, which means nothing to another node; it is left out"},
		{Host{Name: "a.test", Object: "bad", Ports: []Port{{Number: 0, Protocol: TCP}, {Number: 80}}}, "file bad: a.test has ports that are not TCP or UDP ports from 1 to 65535; they are left out"},
		{Host{Name: "a.test", Object: "bad", Records: []Record{{Label: "web 0"}}}, `file bad: record "web 0" below a.test: not a name that can be asked for`},
		{listener("l", "0.0.0.0", 80, to("x", 1)), "file listener \"l\": address 0.0.0.0 cannot belong to a host; it is left out"},
		{listener("l", "192.0.2.9", 80), "file listener \"l\": it needs a TCP or UDP port and a cluster; it is left out"},
		{Cluster{Name: "x", Discovery: "EDGE"}, `file cluster "x": discovery type "EDGE" is not served; it is left out`},
	} {
		t.Run(tc.problem, func(t *testing.T) {
			vips := newVIPs(t)
			plan := Compile([]Input{input("file", append([]any{tc.bad}, good...)...)}, vips)
			compare(t, show(plan, vips), works+"problem "+tc.problem)
		})
	}
}

// TestBadClusters has clusters that one host uses on port 80: what is wrong is reported, what is left serves.
func TestBadClusters(t *testing.T) {
	for _, tc := range []struct {
		cluster Cluster
		serves  string
		problem string
	}{
		{static("x"), "", "it has no endpoints: connections are refused"},
		{Cluster{Name: "x", Discovery: StrictDNS}, "", "it has no endpoints: connections are refused"},
		{
			with(static("x", "10.0.0.1:80"), func(c *Cluster) { c.Localities[0].Endpoints[0].Unhealthy = true }),
			" 10.0.0.1:80!", "none of its 1 endpoints is healthy: connections are refused",
		},
		{with(static("x", "10.0.0.1:80"), func(c *Cluster) { c.LbPolicy = "OWN" }),
			" 10.0.0.1:80", "policy OWN is not served: connections are spread by LEAST_REQUEST"},
		{with(static("x", "10.0.0.1:80"), func(c *Cluster) {
			c.Localities = append(c.Localities, Locality{Endpoints: []Endpoint{{Address: "name.test", Port: 80}}})
		}), " 10.0.0.1:80", `endpoint "name.test" is not an address; it is left out`},
		{with(strict("x", "*.wild.test", 80), func(c *Cluster) {
			c.Localities = append(c.Localities, Locality{Endpoints: endpoints("10.0.0.1:80")})
		}), " 10.0.0.1:80", `endpoint "*.wild.test" has the character '*', which no host name has; it is left out`},
	} {
		t.Run(tc.problem, func(t *testing.T) {
			vips := newVIPs(t)
			host := Host{Name: "a.test", Object: "o", Addresses: ips("192.0.2.1"), Ports: []Port{{Number: 80, Protocol: TCP, Cluster: "x"}}}
			plan := Compile([]Input{input("file", host, tc.cluster)}, vips)
			compare(t, show(plan, vips), `name a.test = 192.0.2.1 virtual
				front 192.0.2.1:80/TCP -> file/x
				serve file/x LEAST_REQUEST:`+tc.serves+`
				problem file cluster "x": `+tc.problem)
		})
	}
}

func TestNoVirtualAddressLeft(t *testing.T) {
	vips, err := OpenVIPs("", netip.MustParsePrefix("240.241.0.0/30"), testV6)
	if err != nil {
		t.Fatal(err)
	}
	var parts []any
	for _, name := range []string{"a.test", "b.test", "c.test"} {
		parts = append(parts, auto(name, 80), static(outbound(name, 80), "10.0.0.1:80"))
	}
	plan := Compile([]Input{input("file", parts...)}, vips)
	if len(plan.Names) != 2 || len(plan.Frontends) != 8 {
		t.Errorf("%d names and %d frontends for two address pairs, want 2 and 8", len(plan.Names), len(plan.Frontends))
	}
	want := []Problem{{Source: "file", Object: "ServiceEntry ns1/c.test", Reason: "no virtual address is left for c.test in 240.241.0.0/30 and 2001:2::/48: its name goes upstream; use larger ranges"}}
	if !reflect.DeepEqual(plan.Problems, want) {
		t.Errorf("problems %v, want %v", plan.Problems, want)
	}
}

// TestPartial has a source that has not spoken: what it said before counts, and no pair is freed.
func TestPartial(t *testing.T) {
	vips := newVIPs(t)
	before := Compile([]Input{input("file", auto("a.test", 80))}, vips).Names[0].Addr4
	silent := Input{Source: "file", Pending: true}
	plan := Compile([]Input{silent, input("xds", auto("b.test", 80))}, vips)
	if !plan.Partial || len(plan.Names) != 1 {
		t.Errorf("partial %t with %d names, want true with 1", plan.Partial, len(plan.Names))
	}
	if got := vips.holder(before[0]); got != "a.test" {
		t.Errorf("%s is held by %q, want a.test, whose source has yet to speak", before[0], got)
	}
	if Compile([]Input{{Source: "file"}}, vips); vips.holder(before[0]) != "" {
		t.Error("a.test still has its address after its source left it out")
	}
}

// TestPendingTellsWhy: who cannot speak yet says why, and what it said in an earlier life stays.
func TestPendingTellsWhy(t *testing.T) {
	c := NewCompiler(newVIPs(t), []string{"file"})
	c.Take(input("file", auto("a.test", 80)))
	why := Problem{Source: "file", Object: "x", Reason: "no password"}
	c.Take(Input{Source: "file", Pending: true, Problems: []Problem{why}})
	plan := c.Compile()
	if len(plan.Names) != 1 || plan.Partial || !slices.Contains(plan.Problems, why) {
		t.Errorf("%d names, partial %t, problems %v", len(plan.Names), plan.Partial, plan.Problems)
	}
}

func TestScheduleDefaults(t *testing.T) {
	const s = time.Second
	for _, tc := range []struct{ in, want Schedule }{
		{Schedule{}, Schedule{5 * s, false, s, 0, s, 5 * s}},
		{Schedule{RefreshRate: s / 2}, Schedule{s / 2, false, s, 0, s / 2, s / 2}},
		{Schedule{RefreshRate: 60 * s, RespectTTL: true, Jitter: s / 10}, Schedule{60 * s, true, s, s / 10, s, 60 * s}},
		{Schedule{FailureBase: 2 * s}, Schedule{5 * s, false, s, 0, 2 * s, 20 * s}},
		{Schedule{FailureBase: 2 * s, FailureMax: s}, Schedule{5 * s, false, s, 0, 2 * s, 2 * s}},
		{Schedule{RefreshRate: -s, Jitter: -s, MinRefresh: 3 * s}, Schedule{5 * s, false, 3 * s, 0, s, 5 * s}},
	} {
		if got := withDefaults(tc.in); got != tc.want {
			t.Errorf("%+v becomes %+v, want %+v", tc.in, got, tc.want)
		}
	}
}

// everything is an input of every kind of object, several of them at odds with each other.
func everything() []Input {
	in := manyHosts(40)
	in.Hosts = append(in.Hosts,
		announced("same.test", "2", []string{"192.0.2.1", "192.0.2.2"}, 80, 81),
		announced("same.test", "1", []string{"192.0.2.1"}, 80),
		announced("other.test", "3", []string{"192.0.2.1"}, 80),
		exported(announced("same.test", "4", []string{"240.240.0.9"}, 80), "ns1", "."),
	)
	in.Clusters = append(in.Clusters,
		static(outbound("same.test", 80), "10.0.0.1:80"), static(outbound("same.test", 80), "10.0.0.2:80"),
		static(outbound("same.test", 81), "10.0.0.1:80", "10.0.0.2:80"), static("v1", "10.0.1.1:1"), static("v2", "10.0.2.1:1"),
	)
	in.Listeners = []Listener{
		listener("a", "192.0.2.9", 80, to("v1", 3), to("v2", 1)),
		listener("b", "192.0.2.9", 80, to("v2", 1)),
		listener("c", "192.0.2.1", 80, to("v1", 3), to("v2", 1)),
	}
	in.Problems = []Problem{{Source: "file", Object: "x", Reason: "reason"}, {Source: "file", Object: "a", Reason: "reason"}}
	return []Input{in, input("resolve", resolved("host1.test", "203.0.113.1"))}
}

// TestOrderDoesNotMatter shuffles everything inside the inputs: the plan is the same to the last byte.
func TestOrderDoesNotMatter(t *testing.T) {
	want := Compile(everything(), newVIPs(t))
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		in := everything()
		shuffle(rnd, in[0].Hosts)
		shuffle(rnd, in[0].Clusters)
		shuffle(rnd, in[0].Listeners)
		shuffle(rnd, in[0].Problems)
		for i := range in[0].Clusters {
			shuffle(rnd, in[0].Clusters[i].Localities)
			for j := range in[0].Clusters[i].Localities {
				shuffle(rnd, in[0].Clusters[i].Localities[j].Endpoints)
			}
		}
		if got := Compile(in, newVIPs(t)); !reflect.DeepEqual(got, want) {
			vips := newVIPs(t)
			compare(t, show(got, vips), show(want, vips))
			t.Fatalf("seed %d gives another plan", seed)
		}
	}
}

func shuffle[T any](rnd *rand.Rand, s []T) {
	rnd.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}

// TestInputsAreNotEdited compiles an input that others still hold.
func TestInputsAreNotEdited(t *testing.T) {
	in := everything()
	rnd := rand.New(rand.NewPCG(1, 1))
	shuffle(rnd, in[0].Hosts)
	before, _ := json.Marshal(in)
	Compile(in, newVIPs(t))
	if after, _ := json.Marshal(in); !slices.Equal(before, after) {
		t.Error("Compile changed its input")
	}
}

func TestInputJSON(t *testing.T) {
	in := everything()[0]
	in.Pending = true
	in.Hosts[0].Records = []Record{{Label: "web-0", Addresses: ips("10.0.0.1", "2001:db8::1"), Ports: tcp("x", 80)}}
	in.Hosts[1].ExternalName, in.Hosts[1].Kubernetes, in.Hosts[1].Imported, in.Hosts[1].Headless = "real.test", true, true, true
	in.Clusters[0].Localities = []Locality{{Region: "r", Zone: "z", SubZone: "s", Weight: 2, Priority: 1, Endpoints: []Endpoint{{Address: "a", Port: 1, Weight: 2, Unhealthy: true, RequiresTLS: true}}}}
	in.Clusters[0].DNS = &DNS{
		Family: Auto, UseTCP: true, Resolvers: []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::53]:53")},
		Schedule: Schedule{1, true, 2, 3, 4, 5},
	}
	in.Clusters[0].LocalityWeighted, in.Clusters[0].RequiresTLS = true, true
	in.Resolutions = []Resolution{{Lookup: Lookup{"a.test", AllFamilies, "192.0.2.1:53", true}, Addresses: ips("192.0.2.1"), Negative: true, Error: "timeout"}}
	data, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var back Input
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, back) {
		t.Errorf("came back from JSON as %+v", back)
	}
}

// manyHosts is what a mesh of n external services looks like: a quarter of them static.
func manyHosts(n int) Input {
	in := Input{Source: "file"}
	for i := range n {
		name := fmt.Sprintf("host%d.test", i)
		in.Hosts = append(in.Hosts, auto(name, 80, 443))
		for _, port := range []uint16{80, 443} {
			if i%4 == 0 {
				in.Clusters = append(in.Clusters, static(outbound(name, port), "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"))
			} else {
				in.Clusters = append(in.Clusters, strict(outbound(name, port), name, port))
			}
		}
	}
	return in
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			in := []Input{manyHosts(n), {Source: "resolve"}}
			for i := range n {
				in[1].Resolutions = append(in[1].Resolutions, resolved(fmt.Sprintf("host%d.test", i), "203.0.113.1", "203.0.113.2", "203.0.113.3"))
			}
			vips := newVIPs(b)
			b.ReportAllocs()
			for b.Loop() {
				if p := Compile(in, vips); len(p.Names) != n {
					b.Fatalf("%d names", len(p.Names))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/host")
		})
	}
}
