package mesh

import (
	"testing"
	"time"
)

func listener(name, addr string, port uint16, clusters ...WeightedCluster) Listener {
	return Listener{Name: name, Address: ip(addr), Port: port, Protocol: TCP, Clusters: clusters}
}

func to(name string, weight uint32) WeightedCluster { return WeightedCluster{name, weight} }

func TestClusters(t *testing.T) {
	vip := func(cluster string) Host {
		return Host{Name: "a.test", Object: "o", Addresses: ips("240.240.0.1"), Ports: []Port{{Number: 80, Protocol: TCP, Cluster: cluster}}}
	}
	real := func(cluster string) Host {
		return with(vip(cluster), func(h *Host) { h.Addresses = ips("192.0.2.1") })
	}
	tls := with(static("x", "10.0.0.1:80"), func(c *Cluster) { c.RequiresTLS = true })
	original := Cluster{Name: "x", Discovery: OriginalDst}
	refused := `name a.test = 240.240.0.1 virtual
		front 240.240.0.1:0/any -> refuse
		`
	runCases(t, []compileCase{{
		"a cluster not there yet refuses at a virtual address",
		[]Input{input("xds", vip("x"))},
		refused + `front 240.240.0.1:80/TCP -> xds/x
		serve refuse LEAST_REQUEST:
		serve xds/x LEAST_REQUEST:
		problem xds o: port 80/TCP of a.test: the source has no cluster "x" (it may still come)`,
	}, {
		"and leaves a real address alone",
		[]Input{input("xds", real("x"))},
		`name a.test = 192.0.2.1
		problem xds o: port 80/TCP of a.test: the source has no cluster "x" (it may still come)`,
	}, {
		"ORIGINAL_DST is left alone, without a packet for a virtual address",
		[]Input{input("xds", vip("x"), original)},
		refused + `serve refuse LEAST_REQUEST:`,
	}, {
		"a cluster that wants TLS is left alone and reported",
		[]Input{input("xds", real("x"), tls)},
		`name a.test = 192.0.2.1
		problem xds cluster "x": it demands mTLS, which cannot be originated here: connections to it are left alone`,
	}, {
		"endpoints that want TLS are left out, and those that are not healthy marked",
		[]Input{input("xds", real("x"), with(static("x", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"), func(c *Cluster) {
			c.Localities[0].Endpoints[0].RequiresTLS = true
			c.Localities[0].Endpoints[2].Unhealthy = true
		}))},
		`name a.test = 192.0.2.1 virtual
		front 192.0.2.1:80/TCP -> xds/x
		serve xds/x LEAST_REQUEST: 10.0.0.2:80 10.0.0.3:80!
		problem xds cluster "x": 1 of 3 endpoints demand mTLS, which cannot be originated here, and are left out`,
	}, {
		"an address that is one of the endpoints is a pod's own",
		[]Input{input("xds", real("x"), static("x", "10.0.0.1:80", "192.0.2.1:80"))},
		`name a.test = 192.0.2.1`,
	}, {
		"weights, localities and priorities are kept, in order",
		[]Input{input("xds", real("x"), with(static("x"), func(c *Cluster) {
			c.LbPolicy, c.LocalityWeighted = RoundRobin, true
			c.Localities = []Locality{
				{Region: "far", Priority: 1, Endpoints: endpoints("10.1.0.1:80")},
				{Region: "near", Weight: 3, Endpoints: []Endpoint{{Address: "10.0.0.2", Port: 80, Weight: 7}, {Address: "::ffff:10.0.0.1", Port: 80}}},
				{Region: "empty"},
			}
		}))},
		`name a.test = 192.0.2.1 virtual
		front 192.0.2.1:80/TCP -> xds/x
		serve xds/x ROUND_ROBIN: [near p0 w3] 10.0.0.1:80 10.0.0.2:80*7 [far p1 w1] 10.1.0.1:80`,
	}})
}

func TestDNSClusters(t *testing.T) {
	host := announced("a.test", "o", []string{"192.0.2.1"}, 80)
	name := outbound("a.test", 80)
	dns := func(d DiscoveryType, localities ...Locality) Cluster {
		return Cluster{Name: name, Discovery: d, Balancing: Balancing{LbPolicy: Random}, Localities: localities, DNS: &DNS{Family: AllFamilies}}
	}
	all := func(negative bool, name string, addrs ...string) Resolution {
		return Resolution{Lookup: Lookup{Name: name, Family: AllFamilies}, Addresses: ips(addrs...), Negative: negative}
	}
	head := `name a.test = 192.0.2.1 virtual
		front 192.0.2.1:80/TCP -> xds/outbound|80||a.test
		`
	one := Locality{Endpoints: []Endpoint{{Address: "one.test", Port: 80, Weight: 2}}}
	mixed := []Locality{
		{Region: "r1", Endpoints: []Endpoint{{Address: "One.Test.", Port: 8080, Weight: 2}, {Address: "10.0.0.9", Port: 80}}},
		{Region: "r2", Priority: 1, Endpoints: []Endpoint{{Address: "two.test", Port: 81}, {Address: "one.test", Port: 82}}},
	}
	runCases(t, []compileCase{{
		"each address has its endpoint's weight, locality and priority; equal lookups are one",
		[]Input{input("xds", host, dns(StrictDNS, mixed...)),
			input("resolve", all(false, "one.test", "10.0.0.2", "10.0.0.1", "10.0.0.2", "2001:db8::1"))},
		head + `serve xds/outbound|80||a.test RANDOM: [r1 p0 w1] 10.0.0.1:8080*2 10.0.0.2:8080*2 10.0.0.9:80 [2001:db8::1]:8080*2 [r2 p1 w1] 10.0.0.1:82 10.0.0.2:82 [2001:db8::1]:82
		watch one.test ALL every 5s
		watch two.test ALL every 5s`,
	}, {
		"a locality of addresses only needs no lookup",
		[]Input{input("xds", host, dns(StrictDNS, Locality{Endpoints: endpoints("10.0.0.1:80", "10.0.0.2:80")}))},
		head + `serve xds/outbound|80||a.test RANDOM: 10.0.0.1:80 10.0.0.2:80`,
	}, {
		"STRICT_DNS drops its addresses on a definite no",
		[]Input{input("xds", host, dns(StrictDNS, one)), input("resolve", all(true, "one.test", "10.0.0.1"))},
		head + `serve xds/outbound|80||a.test RANDOM:
		watch one.test ALL every 5s`,
	}, {
		"LOGICAL_DNS keeps them, and has the first of each family",
		[]Input{input("xds", host, dns(LogicalDNS, one)), input("resolve", all(true, "one.test", "10.0.0.2", "2001:db8::2", "10.0.0.1", "2001:db8::1"))},
		head + `serve xds/outbound|80||a.test RANDOM: 10.0.0.2:80*2 [2001:db8::2]:80*2
		watch one.test ALL first every 5s`,
	}, {
		"LOGICAL_DNS with more endpoints uses the first",
		[]Input{input("xds", host, dns(LogicalDNS, mixed[1], mixed[0])), input("resolve", all(false, "one.test", "10.0.0.1"))},
		head + `serve xds/outbound|80||a.test RANDOM: [r1 p0 w1] 10.0.0.1:8080*2
		watch one.test ALL first every 5s
		problem xds cluster "outbound|80||a.test": LOGICAL_DNS has one endpoint, this cluster 4; only One.Test. is used`,
	}, {
		"without endpoints it refuses",
		[]Input{input("xds", host, dns(StrictDNS))},
		head + `serve xds/outbound|80||a.test RANDOM:
		problem xds cluster "outbound|80||a.test": it has no endpoints: connections are refused`,
	}, {
		"a cluster nobody uses is not looked up",
		[]Input{input("xds", dns(StrictDNS, one))},
		``,
	}, {
		"one lookup for two clusters, on both schedules",
		[]Input{input("xds",
			Host{Name: "a.test", Object: "o", Addresses: ips("192.0.2.1"), Ports: []Port{{Number: 80, Protocol: TCP, Cluster: "x"}, {Number: 81, Protocol: TCP, Cluster: "y"}}},
			with(strict("x", "one.test", 80), func(c *Cluster) { c.DNS = &DNS{Schedule: Schedule{RefreshRate: time.Minute}} }),
			with(strict("y", "one.test", 80), func(c *Cluster) { c.DNS = nil }))},
		`name a.test = 192.0.2.1 virtual
		front 192.0.2.1:80/TCP -> xds/x
		front 192.0.2.1:81/TCP -> xds/y
		serve xds/x LEAST_REQUEST:
		serve xds/y LEAST_REQUEST:
		watch one.test AUTO every 5s every 1m0s`,
	}, {
		"it matters which address is first as soon as one of them is LOGICAL_DNS",
		[]Input{input("xds",
			Host{Name: "a.test", Object: "o", Addresses: ips("192.0.2.1"), Ports: []Port{{Number: 80, Protocol: TCP, Cluster: "x"}, {Number: 81, Protocol: TCP, Cluster: "y"}}},
			strict("x", "one.test", 80),
			with(strict("y", "one.test", 80), func(c *Cluster) { c.Discovery = LogicalDNS }))},
		`name a.test = 192.0.2.1 virtual
		front 192.0.2.1:80/TCP -> xds/x
		front 192.0.2.1:81/TCP -> xds/y
		serve xds/x LEAST_REQUEST:
		serve xds/y LEAST_REQUEST:
		watch one.test V4_ONLY first every 5s`,
	}})
}

func TestListeners(t *testing.T) {
	host := announced("a.test", "o", []string{"240.240.0.1"}, 80)
	name := outbound("a.test", 80)
	base, v1, v2 := static(name, "10.0.0.1:80"), static("v1", "10.0.1.1:80", "10.0.1.2:80"), static("v2", "10.0.2.1:80")
	head := `name a.test = 240.240.0.1 virtual
		front 240.240.0.1:0/any -> refuse
		`
	runCases(t, []compileCase{{
		"a listener overrides the host's own cluster",
		[]Input{input("xds", host, base, v1, listener("l", "240.240.0.1", 80, to("v1", 1)))},
		head + `front 240.240.0.1:80/TCP -> xds/v1
		serve refuse LEAST_REQUEST:
		serve xds/v1 LEAST_REQUEST: 10.0.1.1:80 10.0.1.2:80`,
	}, {
		"a split gives each cluster its part, whatever its own weights add up to",
		[]Input{input("xds", host, base, v1, v2, listener("l", "240.240.0.1", 80, to("v1", 90), to("v2", 10), to("gone", 5)))},
		head + `front 240.240.0.1:80/TCP -> xds/v1*90 + v2*10
		serve refuse LEAST_REQUEST:
		serve xds/v1*90 + v2*10 LEAST_REQUEST: 10.0.1.1:80*9 10.0.1.2:80*9 10.0.2.1:80*2
		problem xds listener "l": the source has no cluster "gone" (it may still come)`,
	}, {
		"and endpoints that are not healthy take nothing of their cluster's part",
		[]Input{input("xds", host, base, v2, with(v1, func(c *Cluster) {
			c.Localities = []Locality{{Endpoints: endpoints("10.0.1.1:80", "10.0.1.2:80")}}
			c.Localities[0].Endpoints[1].Unhealthy = true
		}), listener("l", "240.240.0.1", 80, to("v1", 90), to("v2", 10)))},
		head + `front 240.240.0.1:80/TCP -> xds/v1*90 + v2*10
		serve refuse LEAST_REQUEST:
		serve xds/v1*90 + v2*10 LEAST_REQUEST: 10.0.1.1:80*9 10.0.1.2:80*9! 10.0.2.1:80`,
	}, {
		"locality weights and priorities go into a split's weights",
		[]Input{input("xds", host, base, v2, with(static("v1"), func(c *Cluster) {
			c.LocalityWeighted = true
			c.Localities = []Locality{
				{Region: "b", Weight: 3, Priority: 5, Endpoints: endpoints("10.0.1.1:80", "10.0.1.2:80")},
				{Region: "a", Weight: 1, Priority: 5, Endpoints: endpoints("10.0.1.3:80")},
				{Region: "c", Priority: 7, Endpoints: endpoints("10.0.1.4:80")},
			}
		}), listener("l", "240.240.0.1", 80, to("v1", 1), to("v2", 1)))},
		head + `front 240.240.0.1:80/TCP -> xds/v1*1 + v2*1
		serve refuse LEAST_REQUEST:
		serve xds/v1*1 + v2*1 LEAST_REQUEST: 10.0.2.1:80*8 [a p0 w1] 10.0.1.3:80*2 [b p0 w1] 10.0.1.1:80*3 10.0.1.2:80*3 [c p1 w1] 10.0.1.4:80*8`,
	}, {
		"no cluster of the listener exists: the host's own rule",
		[]Input{input("xds", host, base, listener("l", "240.240.0.1", 80, to("gone", 1)))},
		head + `front 240.240.0.1:80/TCP -> xds/outbound|80||a.test
		serve refuse LEAST_REQUEST:
		serve xds/outbound|80||a.test LEAST_REQUEST: 10.0.0.1:80
		problem xds listener "l": the source has no cluster "gone" (it may still come)`,
	}, {
		"nor a host: refused at a virtual address, left alone at a real one",
		[]Input{input("xds", listener("l", "240.240.0.1", 80, to("gone", 1)), listener("m", "192.0.2.1", 80, to("gone", 1)))},
		`front 240.240.0.1:0/any -> refuse
		front 240.240.0.1:80/TCP -> xds/gone
		serve refuse LEAST_REQUEST:
		serve xds/gone LEAST_REQUEST:
		problem xds listener "l": the source has no cluster "gone" (it may still come)
		problem xds listener "m": the source has no cluster "gone" (it may still come)`,
	}, {
		"a listener alone is a frontend",
		[]Input{input("xds", v2, listener("l", "192.0.2.1", 9000, to("v2", 0)))},
		`front 192.0.2.1:9000/TCP -> xds/v2
		serve xds/v2 LEAST_REQUEST: 10.0.2.1:80`,
	}, {
		"passed through is passed through, also a split that has a part of it",
		[]Input{input("xds", v1, v2, Cluster{Name: "p", Discovery: OriginalDst},
			announced("b.test", "o", []string{"192.0.2.1"}, 80), static(outbound("b.test", 80), "10.0.0.1:80"),
			listener("l", "192.0.2.1", 80, to("p", 1)), listener("m", "192.0.2.2", 80, to("v1", 1), to("p", 1)),
			listener("pod", "10.0.2.1", 80, to("v2", 1)))},
		`name b.test = 192.0.2.1
		problem xds listener "m": its cluster "p" cannot be balanced, so the whole split is left alone`,
	}})
}

// TestClaimedTwice has hosts that want one address and port: one of them gets it, always the same.
func TestClaimedTwice(t *testing.T) {
	shared := []string{"198.51.100.110"}
	h1, h2 := announced("h1.test", "first", shared, 9000), announced("h2.test", "second", shared, 9000, 9001)
	c1, c2, c3 := static(outbound("h1.test", 9000), "10.0.0.1:80"), static(outbound("h2.test", 9000), "10.0.0.2:80"), static(outbound("h2.test", 9001), "10.0.0.3:80")
	names := `name h1.test = 198.51.100.110 virtual
		name h2.test = 198.51.100.110 virtual
		`
	runCases(t, []compileCase{{
		"in one source the first by name",
		[]Input{input("xds", h2, h1, c1, c2, c3)},
		names + `front 198.51.100.110:9000/TCP -> xds/outbound|9000||h1.test
		front 198.51.100.110:9001/TCP -> xds/outbound|9001||h2.test
		serve xds/outbound|9000||h1.test LEAST_REQUEST: 10.0.0.1:80
		serve xds/outbound|9001||h2.test LEAST_REQUEST: 10.0.0.3:80
		problem xds second: 198.51.100.110:9000/TCP of h2.test is served for h1.test (first) already, and connections reach that`,
	}, {
		"of two sources the stronger",
		[]Input{input("file", h2, c2, c3), input("xds", h1, c1)},
		names + `front 198.51.100.110:9000/TCP -> file/outbound|9000||h2.test
		front 198.51.100.110:9001/TCP -> file/outbound|9001||h2.test
		serve file/outbound|9000||h2.test LEAST_REQUEST: 10.0.0.2:80
		serve file/outbound|9001||h2.test LEAST_REQUEST: 10.0.0.3:80
		problem xds first: 198.51.100.110:9000/TCP of h1.test is served for h2.test (second) already, and connections reach that`,
	}, {
		"of a virtual address the undeclared ports, too",
		[]Input{
			input("file", announced("h2.test", "second", []string{"240.240.0.1"}, 81), strict(outbound("h2.test", 81), "h2.test", 81)),
			input("xds", announced("h1.test", "first", []string{"240.240.0.1"}, 80), strict(outbound("h1.test", 80), "h1.test", 80)),
		},
		`name h1.test = 240.240.0.1 virtual
		name h2.test = 240.240.0.1 virtual
		front 240.240.0.1:0/any -> file/h2.test:any
		front 240.240.0.1:80/TCP -> xds/outbound|80||h1.test
		front 240.240.0.1:81/TCP -> file/outbound|81||h2.test
		serve file/h2.test:any LEAST_REQUEST:
		serve file/outbound|81||h2.test LEAST_REQUEST:
		serve xds/outbound|80||h1.test LEAST_REQUEST:
		watch h1.test V4_ONLY every 5s
		watch h2.test V4_ONLY every 5s
		problem xds first: 240.240.0.1:0/any of h1.test is served for h2.test (second) already, and connections reach that`,
	}, {
		"a listener settles it",
		[]Input{input("xds", h1, h2, c1, c2, c3, listener("l", "198.51.100.110", 9000, to(outbound("h2.test", 9000), 1)))},
		names + `front 198.51.100.110:9000/TCP -> xds/outbound|9000||h2.test
		front 198.51.100.110:9001/TCP -> xds/outbound|9001||h2.test
		serve xds/outbound|9000||h2.test LEAST_REQUEST: 10.0.0.2:80
		serve xds/outbound|9001||h2.test LEAST_REQUEST: 10.0.0.3:80`,
	}})
}

// TestAnnouncedLater has a host announce an address that another host was given before: clients may
// remember it, so it stays.
func TestAnnouncedLater(t *testing.T) {
	vips := newVIPs(t)
	mine := vips.assign([]string{"a.test"}, nil, false)["a.test"].v4
	in := []Input{input("file",
		auto("a.test", 80), static(outbound("a.test", 80), "10.0.0.1:80"),
		announced("late.test", "late", []string{mine.String()}, 80), static(outbound("late.test", 80), "10.0.0.2:80"))}
	for range 2 { // compiling again changes nothing
		plan := Compile(in, vips)
		compare(t, show(plan, vips), `name a.test = a.test/4 virtual
			name late.test = late.test/4 virtual
			front a.test/46:0/any -> refuse
			front a.test/46:80/TCP -> file/outbound|80||a.test
			front late.test/46:0/any -> refuse
			front late.test/46:80/TCP -> file/outbound|80||late.test
			serve file/outbound|80||a.test LEAST_REQUEST: 10.0.0.1:80
			serve file/outbound|80||late.test LEAST_REQUEST: 10.0.0.2:80
			serve refuse LEAST_REQUEST:
			problem file late: address `+mine.String()+` of late.test is a.test's, given by this node before it was announced; announce one outside 240.241.0.0/16 and 2001:2::/48`)
	}
}
