package mesh

import "testing"

func private(l Listener, view string) Listener {
	l.View = view
	return l
}

// TestListenerViews has listeners that only one namespace has.
func TestListenerViews(t *testing.T) {
	host := announced("a.test", "o", []string{"240.240.0.1"}, 80, 81)
	own := private(listener("l", "240.240.0.1", 80, to("own", 1)), "ns1")
	clusters := []any{static(outbound("a.test", 80), "10.0.0.1:80"), static(outbound("a.test", 81), "10.0.0.1:81"), static("own", "10.0.0.9:80"),
		static("six", "[2001:db8::1]:80"), Cluster{Name: "orig", Discovery: OriginalDst}}
	xds := func(parts ...any) []Input { return []Input{input("xds", append(parts, clusters...)...)} }
	const served = `front 240.240.0.1:0/any -> refuse
		front 240.240.0.1:80/TCP -> xds/outbound|80||a.test
		`
	const serve = `serve refuse LEAST_REQUEST:
		serve xds/outbound|80||a.test LEAST_REQUEST: 10.0.0.1:80
		serve xds/outbound|81||a.test LEAST_REQUEST: 10.0.0.1:81
		`
	const other = `front 240.240.0.1:81/TCP -> xds/outbound|81||a.test
		`
	runCases(t, []compileCase{{
		"overrules the host for that namespace, at that port",
		xds(host, own),
		"name a.test = 240.240.0.1 virtual\n" + served +
			"front 240.240.0.1:80/TCP@ns1 -> xds/own\n" + other + serve + "serve xds/own LEAST_REQUEST: 10.0.0.9:80",
	}, {
		"and everybody's listener",
		xds(host, own, listener("m", "240.240.0.1", 80, to(outbound("a.test", 81), 1))),
		`name a.test = 240.240.0.1 virtual
		front 240.240.0.1:0/any -> refuse
		front 240.240.0.1:80/TCP -> xds/outbound|81||a.test
		front 240.240.0.1:80/TCP@ns1 -> xds/own
		` + other + `serve refuse LEAST_REQUEST:
		serve xds/outbound|81||a.test LEAST_REQUEST: 10.0.0.1:81
		serve xds/own LEAST_REQUEST: 10.0.0.9:80`,
	}, {
		"has the host answered with what it can reach",
		xds(with(host, func(h *Host) { h.Addresses, h.Ports = ips("240.240.0.1", "2001:2::1"), h.Ports[:1] }),
			private(listener("l", "240.240.0.1", 80, to("six", 1)), "ns1"), private(listener("m", "2001:2::1", 80, to("six", 1)), "ns1")),
		`name a.test = 240.240.0.1 virtual
		name a.test@ns1 = 2001:2::1 virtual
		front 2001:2::1:0/any -> refuse
		front 2001:2::1:80/TCP -> xds/outbound|80||a.test
		front 2001:2::1:80/TCP@ns1 -> xds/six
		` + served + `front 240.240.0.1:80/TCP@ns1 -> xds/six
		serve refuse LEAST_REQUEST:
		serve xds/outbound|80||a.test LEAST_REQUEST: 10.0.0.1:80
		serve xds/six LEAST_REQUEST: [2001:db8::1]:80`,
	}, {
		"counts for a host of that namespace, too",
		xds(exported(host, "ns1", "."), own),
		`name a.test@ns1 = 240.240.0.1 virtual
		front 240.240.0.1:0/any -> refuse
		front 240.240.0.1:0/any@ns1 -> refuse
		front 240.240.0.1:80/TCP@ns1 -> xds/own
		front 240.240.0.1:81/TCP@ns1 -> xds/outbound|81||a.test
		serve refuse LEAST_REQUEST:
		serve xds/outbound|81||a.test LEAST_REQUEST: 10.0.0.1:81
		serve xds/own LEAST_REQUEST: 10.0.0.9:80`,
	}, {
		"at an address of no host, refuses all others",
		xds(own),
		`front 240.240.0.1:0/any -> refuse
		front 240.240.0.1:80/TCP@ns1 -> xds/own
		serve refuse LEAST_REQUEST:
		serve xds/own LEAST_REQUEST: 10.0.0.9:80`,
	}, {
		"takes nothing from a stronger source",
		[]Input{input("file", host, clusters[0], clusters[1]), input("xds", own, clusters[2])},
		`name a.test = 240.240.0.1 virtual
		front 240.240.0.1:0/any -> refuse
		front 240.240.0.1:80/TCP -> file/outbound|80||a.test
		front 240.240.0.1:81/TCP -> file/outbound|81||a.test
		serve file/outbound|80||a.test LEAST_REQUEST: 10.0.0.1:80
		serve file/outbound|81||a.test LEAST_REQUEST: 10.0.0.1:81
		serve refuse LEAST_REQUEST:`,
	}, {
		"without its cluster it leaves it to the host",
		xds(host, private(listener("l", "240.240.0.1", 80, to("gone", 1)), "ns1")),
		"name a.test = 240.240.0.1 virtual\n" + served +
			"front 240.240.0.1:80/TCP@ns1 -> xds/outbound|80||a.test\n" + other + serve +
			`problem xds listener "l": the source has no cluster "gone" (it may still come)`,
	}, {
		"cannot leave alone what everybody else reaches",
		xds(host, private(listener("l", "240.240.0.1", 80, to("orig", 1)), "ns1")),
		"name a.test = 240.240.0.1 virtual\n" + served + other + serve +
			`problem xds listener "l": it leaves 240.240.0.1:80/TCP for ns1 alone, which cannot be had for one namespace: connections reach what serves a.test`,
	}, {
		"two of one namespace: the first by name, and another namespace's beside it",
		xds(own, private(listener("k", "240.240.0.1", 80, to("six", 1)), "ns1"), private(listener("m", "240.240.0.1", 80, to("six", 1)), "ns2")),
		`front 240.240.0.1:0/any -> refuse
		front 240.240.0.1:80/TCP@ns1 -> xds/six
		front 240.240.0.1:80/TCP@ns2 -> xds/six
		serve refuse LEAST_REQUEST:
		serve xds/six LEAST_REQUEST: [2001:db8::1]:80
		problem xds listener "l": 240.240.0.1:80/TCP for ns1 is bound by listener "k" already, which counts`,
	}})
}
