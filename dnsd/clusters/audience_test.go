package clusters

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// variants is a service as namespaces are told of it, by their names, each with a cluster of endpoints of its
// own; "a=b" is told to a, with the cluster of b.
func variants(source, name, endpoint string, told ...string) mesh.Input {
	in := mesh.Input{Source: source}
	for i, to := range told {
		to, of, shared := strings.Cut(to, "=")
		one := said(source, name, "10.96.0.1", fmt.Sprintf("%s%d", endpoint, i+1), 80)
		h := one.Hosts[0]
		if to != "" {
			h.ExportTo = strings.Fields(to)
			one.Clusters[0].Name += "@" + to
		}
		h.Ports[0].Cluster = one.Clusters[0].Name
		if shared {
			h.Ports[0].Cluster = "outbound|80||" + name + "@" + of
		} else {
			in.Clusters = append(in.Clusters, one.Clusters...)
		}
		in.Hosts = append(in.Hosts, h)
	}
	return in
}

// What namespaces are told differently, here or elsewhere, each of them has from all clusters.
func TestJoinVariants(t *testing.T) {
	for name, tc := range map[string]struct {
		east, west mesh.Input
		want       string // who sees what: the endpoints behind it
	}{
		"only here": {
			variants("xds", "cart", "10.1.0.", "a", "b"), variants("xds-west", "cart", "10.2.0.", ""),
			"[a]: 10.1.0.1 10.2.0.1; [b]: 10.1.0.2 10.2.0.1; []: 10.2.0.1",
		},
		"only there": {
			variants("xds", "cart", "10.1.0.", ""), variants("xds-west", "cart", "10.2.0.", "a", "b"),
			"[]: 10.1.0.1 10.2.0.1",
		},
		"in both": {
			variants("xds", "cart", "10.1.0.", "a", "b"), variants("xds-west", "cart", "10.2.0.", "a", "b"),
			"[a]: 10.1.0.1 10.2.0.1; [b]: 10.1.0.2 10.2.0.2",
		},
		"with what they share": {
			variants("xds", "cart", "10.1.0.", "a", "b=a"), variants("xds-west", "cart", "10.2.0.", "a", "b=a", "c=a"),
			"[a]: 10.1.0.1 10.2.0.1; [b]: 10.1.0.1 10.2.0.1; [c]: 10.2.0.1",
		},
		"nobody has it here": {
			mesh.Input{Source: "xds"}, variants("xds-west", "cart", "10.2.0.", "a", "b c", "~"),
			"[a]: 10.2.0.1; [b c]: 10.2.0.2",
		},
		"others have it here": {
			variants("xds", "cart", "10.1.0.", "a"), variants("xds-west", "cart", "10.2.0.", "a b"),
			"[a]: 10.1.0.1 10.2.0.1; [b]: 10.2.0.1",
		},
	} {
		in := Join([]Said{{Cluster: "east", Input: tc.east}, {Cluster: "west", Input: tc.west}}, false)
		behind, twice := map[string][]string{}, map[string]bool{}
		for _, c := range in.Clusters {
			if twice[c.Name] {
				t.Errorf("%s: cluster %s is there twice", name, c.Name)
			}
			twice[c.Name] = true
			for _, l := range c.Localities {
				behind[c.Name] = append(behind[c.Name], l.Endpoints[0].Address)
			}
		}
		var got []string
		for _, h := range in.Hosts {
			got = append(got, fmt.Sprintf("%v: %s", h.ExportTo, strings.Join(behind[h.Ports[0].Cluster], " ")))
		}
		if got := strings.Join(got, "; "); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}
