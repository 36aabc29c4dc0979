package mesh

import "testing"

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
