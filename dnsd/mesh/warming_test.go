package mesh

import (
	"strings"
	"testing"
)

// What a name has never been answered is not the same as what it has been answered with nothing.
func TestWarming(t *testing.T) {
	l := Lookup{Name: "up.test", Family: V4Only}
	in := Input{
		Source:    "xds",
		Listeners: []Listener{listener("l", "240.240.0.1", 80, to("x", 1))},
		Clusters: []Cluster{{
			Name: "x", Discovery: StrictDNS, Balancing: Balancing{LbPolicy: LeastRequest}, DNS: &DNS{Family: V4Only},
			Localities: []Locality{{Endpoints: []Endpoint{{Address: "up.test", Port: 80}}}},
		}},
	}
	for _, tc := range []struct {
		name       string
		resolution *Resolution
		want       bool
	}{
		{"not asked yet", nil, true},
		{"asked in vain", &Resolution{Lookup: l, Error: "timeout"}, true},
		{"known to have none", &Resolution{Lookup: l, Negative: true}, false},
		{"answered", &Resolution{Lookup: l, Addresses: ips("192.0.2.1")}, false},
		{"had some, has none", &Resolution{Lookup: l, Addresses: ips("192.0.2.1"), Negative: true}, false},
	} {
		resolve := Input{Source: "resolve"}
		if tc.resolution != nil {
			resolve.Resolutions = []Resolution{*tc.resolution}
		}
		vips, err := OpenVIPs("", testV4, testV6)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range Compile([]Input{in, resolve}, vips).Assignments {
			if a.Cluster == "x" && a.Warming != tc.want {
				t.Errorf("%s: warming is %v", tc.name, a.Warming)
			}
		}
	}
}

// A host is held back while it is new and nothing has come of its lookups, not even a failure.
func TestCold(t *testing.T) {
	in := input("xds", auto("new.test", 80), strict(outbound("new.test", 80), "up.test", 80), auto("other.test", 80), static(outbound("other.test", 80), "10.0.0.1:80"))
	resolve := func(r ...Resolution) Input { return Input{Source: "resolve", Resolutions: r} }
	l := Lookup{Name: "up.test", Family: AllFamilies}
	for _, w := range Compile([]Input{in}, newVIPs(t)).Watch {
		l = w.Lookup
	}
	nobody := &Plan{}
	asked := Compile([]Input{in, resolve()}, newVIPs(t))
	if cold := asked.Cold(nobody); len(cold) != 1 || !cold["new.test"] {
		t.Errorf("not asked yet: cold are %v", cold)
	}
	if cold := asked.Cold(asked); len(cold) != 0 {
		t.Errorf("told already: cold are %v", cold)
	}
	for name, r := range map[string]Resolution{
		"failed": {Lookup: l, Error: "timeout"}, "denied": {Lookup: l, Negative: true}, "answered": {Lookup: l, Addresses: ips("192.0.2.1")},
	} {
		if cold := Compile([]Input{in, resolve(r)}, newVIPs(t)).Cold(nobody); len(cold) != 0 {
			t.Errorf("%s: cold are %v", name, cold)
		}
	}
}

// Every assignment says what its names are asked for, each once, also one of several clusters and the one
// behind undeclared ports.
func TestLookups(t *testing.T) {
	one := strict("one", "b.test", 80)
	one.Localities[0].Endpoints = append(one.Localities[0].Endpoints, Endpoint{Address: "a.test", Port: 80},
		Endpoint{Address: "B.test.", Port: 81}, Endpoint{Address: "192.0.2.1", Port: 80})
	in := input("xds", one, strict("two", "c.test", 80), listener("l", "240.240.0.1", 80, to("one", 1), to("two", 1)),
		auto("b.test", 80), strict(outbound("b.test", 80), "b.test", 80))
	want := map[string]string{
		"xds/one*1 + two*1":             "a.test b.test c.test",
		"xds/" + outbound("b.test", 80): "b.test",
		"xds/b.test:any":                "b.test",
	}
	for _, a := range Compile([]Input{in}, newVIPs(t)).Assignments {
		var names []string
		for _, l := range a.Lookups {
			names = append(names, l.Name)
		}
		if got := strings.Join(names, " "); got != want[a.Name] {
			t.Errorf("%s looks up %q, want %q", a.Name, got, want[a.Name])
		}
		delete(want, a.Name)
	}
	if len(want) > 0 {
		t.Errorf("no assignments of %v", want)
	}
}
