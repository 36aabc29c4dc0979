package mesh

import "testing"

// announced returns a host announced at addrs, with its ports' clusters named after it.
func announced(name, object string, addrs []string, ports ...uint16) Host {
	return Host{Name: name, Object: object, Addresses: ips(addrs...), Ports: tcp(name, ports...)}
}

func exported(h Host, namespace string, to ...string) Host {
	h.Namespace, h.ExportTo = namespace, to
	return h
}

func TestHostsMerge(t *testing.T) {
	one := []string{"192.0.2.1"}
	runCases(t, []compileCase{{
		"objects of one source are united",
		[]Input{input("file",
			announced("a.test", "ServiceEntry ns/2", []string{"192.0.2.2"}, 81),
			announced("A.test.", "ServiceEntry ns/1", one, 80),
			static(outbound("a.test", 80), "10.0.0.1:80"), static(outbound("a.test", 81), "10.0.0.1:81"),
			static(outbound("A.test.", 80), "10.0.0.1:80"))},
		`name a.test = 192.0.2.1 192.0.2.2 virtual
		front 192.0.2.1:80/TCP -> file/outbound|80||A.test.
		front 192.0.2.1:81/TCP -> file/outbound|81||a.test
		front 192.0.2.2:80/TCP -> file/outbound|80||A.test.
		front 192.0.2.2:81/TCP -> file/outbound|81||a.test
		serve file/outbound|80||A.test. LEAST_REQUEST: 10.0.0.1:80
		serve file/outbound|81||a.test LEAST_REQUEST: 10.0.0.1:81`,
	}, {
		"one port said twice goes to the first object by name",
		[]Input{input("file",
			Host{Name: "a.test", Object: "z", Addresses: ips("192.0.2.1"), Ports: []Port{{Number: 80, Protocol: TCP, Cluster: "late"}}},
			Host{Name: "a.test", Object: "b", Addresses: ips("192.0.2.1"), Ports: []Port{{Number: 80, Protocol: TCP, Cluster: "early"}}},
			static("late", "10.0.0.1:80"), static("early", "10.0.0.2:80"))},
		`name a.test = 192.0.2.1 virtual
		front 192.0.2.1:80/TCP -> file/early
		serve file/early LEAST_REQUEST: 10.0.0.2:80
		problem file z: port 80/TCP of a.test goes to cluster "early" already, by another object; cluster "late" gets nothing from it`,
	}, {
		"a stronger source has the whole host",
		[]Input{
			input("file", announced("a.test", "mine", one, 80), static(outbound("a.test", 80), "10.0.0.1:80")),
			input("xds", announced("a.test", "theirs", []string{"192.0.2.9"}, 80, 443), static(outbound("a.test", 80), "10.9.9.9:80")),
		},
		`name a.test = 192.0.2.1 virtual
		front 192.0.2.1:80/TCP -> file/outbound|80||a.test
		serve file/outbound|80||a.test LEAST_REQUEST: 10.0.0.1:80
		problem xds theirs: a.test is answered as mine of source file says, which counts for more: [192.0.2.9] is no address of it`,
	}, {
		"which is no problem where both announce the same",
		[]Input{
			input("file", announced("a.test", "mine", one)),
			input("xds", announced("a.test", "theirs", one, 80), static(outbound("a.test", 80), "10.9.9.9:80")),
		},
		`name a.test = 192.0.2.1`,
	}, {
		"but adopts an address instead of getting one",
		[]Input{
			input("file", auto("a.test", 80), static(outbound("a.test", 80), "10.0.0.1:80")),
			input("xds", announced("a.test", "theirs", []string{"240.240.0.7"}, 443)),
		},
		`name a.test = 240.240.0.7 virtual
		front 240.240.0.7:0/any -> refuse
		front 240.240.0.7:80/TCP -> file/outbound|80||a.test
		serve file/outbound|80||a.test LEAST_REQUEST: 10.0.0.1:80
		serve refuse LEAST_REQUEST:`,
	}, {
		"with the weaker source's listeners at it, where the host says nothing itself",
		[]Input{
			input("file", auto("a.test", 80), static(outbound("a.test", 80), "10.0.0.1:80")),
			input("xds", announced("a.test", "theirs", []string{"240.240.0.7"}, 80, 443), static("x", "10.9.9.9:1"),
				listener("l", "240.240.0.7", 80, to("x", 1)), listener("m", "240.240.0.7", 443, to("x", 1))),
		},
		`name a.test = 240.240.0.7 virtual
		front 240.240.0.7:0/any -> refuse
		front 240.240.0.7:443/TCP -> xds/x
		front 240.240.0.7:80/TCP -> file/outbound|80||a.test
		serve file/outbound|80||a.test LEAST_REQUEST: 10.0.0.1:80
		serve refuse LEAST_REQUEST:
		serve xds/x LEAST_REQUEST: 10.9.9.9:1`,
	}, {
		"pods' own addresses are not adopted",
		[]Input{
			input("file", auto("a.test", 80), static(outbound("a.test", 80), "10.0.0.1:80")),
			input("xds", with(announced("a.test", "theirs", one, 80), func(h *Host) { h.Headless = true })),
		},
		`name a.test = a.test/4 virtual
		front a.test/46:0/any -> refuse
		front a.test/46:80/TCP -> file/outbound|80||a.test
		serve file/outbound|80||a.test LEAST_REQUEST: 10.0.0.1:80
		serve refuse LEAST_REQUEST:`,
	}, {
		"another kind of host under the same name is left out",
		[]Input{input("file",
			Host{Name: "a.test", Object: "Service ns/a", Kubernetes: true, Headless: true, Addresses: ips("10.0.0.1")},
			announced("a.test", "ServiceEntry ns/a", one, 80))},
		`name a.test = 10.0.0.1
		problem file ServiceEntry ns/a: a.test is another kind of host in Service ns/a, which counts; this one is left out`,
	}})
}

func TestViews(t *testing.T) {
	cluster := static(outbound("a.test", 80), "10.0.0.1:80")
	runCases(t, []compileCase{{
		"private in two namespaces: two rows, one pair",
		[]Input{input("file", cluster,
			with(auto("a.test", 80), func(h *Host) { h.Namespace, h.ExportTo = "ns1", []string{"."} }),
			with(auto("a.test", 80), func(h *Host) { h.Namespace, h.ExportTo = "ns2", []string{"."} }))},
		`name a.test@ns1 = a.test/4 virtual
		name a.test@ns2 = a.test/4 virtual
		front a.test/46:0/any -> refuse
		front a.test/46:0/any@ns1 -> refuse
		front a.test/46:0/any@ns2 -> refuse
		front a.test/46:80/TCP@ns1 -> file/outbound|80||a.test
		front a.test/46:80/TCP@ns2 -> file/outbound|80||a.test
		serve file/outbound|80||a.test LEAST_REQUEST: 10.0.0.1:80
		serve refuse LEAST_REQUEST:`,
	}, {
		"a namespace's own word comes first, and everybody's is added to it",
		[]Input{input("file", cluster,
			exported(announced("a.test", "everybody's", []string{"192.0.2.1"}, 80), "ns2"),
			exported(Host{
				Name: "a.test", Object: "private", Addresses: ips("192.0.2.1"),
				Ports: []Port{{Number: 80, Protocol: TCP, Cluster: "own"}, {Number: 81, Protocol: TCP, Cluster: "own"}},
			}, "ns1", "."),
			static("own", "10.0.0.9:80"))},
		`name a.test = 192.0.2.1 virtual
		name a.test@ns1 = 192.0.2.1 virtual
		front 192.0.2.1:80/TCP -> file/outbound|80||a.test
		front 192.0.2.1:80/TCP@ns1 -> file/own
		front 192.0.2.1:81/TCP@ns1 -> file/own
		serve file/outbound|80||a.test LEAST_REQUEST: 10.0.0.1:80
		serve file/own LEAST_REQUEST: 10.0.0.9:80`,
	}, {
		"a weaker source's namespace does not overrule a stronger source's everybody",
		[]Input{
			input("file", announced("a.test", "strong", []string{"192.0.2.1"})),
			input("xds", exported(announced("a.test", "weak", []string{"192.0.2.2"}), "ns1", ".")),
		},
		`name a.test = 192.0.2.1`,
	}, {
		"a stronger source's namespace overrules a weaker source's everybody, there",
		[]Input{
			input("file", exported(announced("a.test", "strong", []string{"192.0.2.1"}), "", "ns1", "ns3")),
			input("xds", announced("a.test", "weak", []string{"192.0.2.2"})),
		},
		`name a.test = 192.0.2.2
		name a.test@ns1 = 192.0.2.1
		name a.test@ns3 = 192.0.2.1`,
	}, {
		"star is everybody, tilde is nobody, a dot needs a namespace",
		[]Input{input("file",
			exported(announced("star.test", "1", []string{"192.0.2.1"}), "ns1", ".", "*"),
			exported(announced("tilde.test", "2", []string{"192.0.2.1"}), "ns1", "~"),
			exported(announced("dot.test", "3", []string{"192.0.2.1"}), "", "."))},
		`name star.test = 192.0.2.1
		problem file 3: dot.test is exported to its own namespace ("."), but has none; nobody sees it`,
	}})
}

func TestNames(t *testing.T) {
	headless := func(name string, h Host) Host {
		h.Name, h.Object, h.Kubernetes, h.Headless = name, "Service ns/web", true, true
		return h
	}
	runCases(t, []compileCase{{
		"an external name is an alias",
		[]Input{input("file", Host{Name: "a.test", Object: "o", ExternalName: "Real.Example.Com.", Allocate: true})},
		`name a.test = CNAME real.example.com`,
	}, {
		"a headless service is its endpoints, left alone, and their names",
		[]Input{input("file", headless("web.ns.svc.cluster.local", Host{
			Addresses: ips("10.0.0.2", "10.0.0.1", "10.0.0.2"), Ports: tcp("web", 80),
			Records: []Record{{Label: "web-1", Addresses: ips("10.0.0.2")}, {Label: "web-0", Addresses: ips("10.0.0.1")}, {Label: "web-1", Addresses: ips("10.0.0.3")}},
		}), static(outbound("web", 80), "10.0.0.1:80"))},
		`name web.ns.svc.cluster.local = 10.0.0.1 10.0.0.2 web-0:[10.0.0.1] web-1:[10.0.0.2 10.0.0.3]`,
	}, {
		"a headless service without endpoints is known, and empty",
		[]Input{input("file", headless("web.ns.svc.cluster.local", Host{}))},
		`name web.ns.svc.cluster.local =`,
	}, {
		"a host with nothing to answer goes upstream",
		[]Input{input("file", Host{Name: "none.test", Object: "NONE", Ports: []Port{{Number: 80, Protocol: TCP}}},
			with(auto("*.wild.test", 80), func(h *Host) {}), static(outbound("*.wild.test", 80), "10.0.0.1:80"))},
		``,
	}, {
		"a wildcard with an address is a name like others",
		[]Input{input("file", announced("*.wild.test", "o", []string{"192.0.2.1"}, 80), static(outbound("*.wild.test", 80), "10.0.0.1:80"))},
		`name *.wild.test = 192.0.2.1 virtual
		front 192.0.2.1:80/TCP -> file/outbound|80||*.wild.test
		serve file/outbound|80||*.wild.test LEAST_REQUEST: 10.0.0.1:80`,
	}, {
		"an address that could only refuse, for want of its family, is not answered",
		[]Input{input("file",
			auto("four.test", 80), static(outbound("four.test", 80), "10.0.0.1:80"),
			auto("six.test", 80), static(outbound("six.test", 80), "[2001:db8::1]:80"),
			auto("both.test", 80), static(outbound("both.test", 80), "10.0.0.1:80", "[2001:db8::1]:80"))},
		`name both.test = both.test/4 both.test/6 virtual
		name four.test = four.test/4 virtual
		name six.test = six.test/6 virtual
		front both.test/46:0/any -> refuse
		front both.test/46:80/TCP -> file/outbound|80||both.test
		front four.test/46:0/any -> refuse
		front four.test/46:80/TCP -> file/outbound|80||four.test
		front six.test/46:0/any -> refuse
		front six.test/46:80/TCP -> file/outbound|80||six.test
		serve file/outbound|80||both.test LEAST_REQUEST: 10.0.0.1:80 [2001:db8::1]:80
		serve file/outbound|80||four.test LEAST_REQUEST: 10.0.0.1:80
		serve file/outbound|80||six.test LEAST_REQUEST: [2001:db8::1]:80
		serve refuse LEAST_REQUEST:`,
	}})
}
