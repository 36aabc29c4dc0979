package xds

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

var update = flag.Bool("update", false, "write what is seen into testdata/*.golden")

// TestCaptures turns what a real istiod answered, beside the objects it was given (input.yaml), into
// an input, and compares its dump with the reviewed one.
func TestCaptures(t *testing.T) {
	captures, err := filepath.Glob("testdata/*/cds*.pb")
	if err != nil || len(captures) == 0 {
		t.Fatalf("no captures: %v", err)
	}
	for _, cds := range captures {
		dir := filepath.Dir(cds)
		variant := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(cds), "cds"), ".pb")
		name := filepath.Base(dir) + variant
		t.Run(name, func(t *testing.T) {
			st := newState()
			for _, kind := range []string{"cds", "lds", "nds", "eds"} {
				r, ok := capture(t, filepath.Join(dir, kind+variant+".pb"))
				if !ok {
					continue
				}
				if err := st.apply(r.TypeUrl, r.Resources); err != nil {
					t.Fatalf("%s: refused: %v", kind, err)
				}
			}
			compareGolden(t, filepath.Join("testdata", name+".golden"), dump(st.input()))
		})
	}
}

// capture reads one response; EDS is not there where no cluster asks for it.
func capture(t *testing.T, path string) (*discoveryv3.DiscoveryResponse, bool) {
	t.Helper()
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) && strings.HasPrefix(filepath.Base(path), "eds") {
		return nil, false
	}
	if err != nil {
		t.Fatal(err)
	}
	r := &discoveryv3.DiscoveryResponse{}
	if err := proto.Unmarshal(data, r); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return r, true
}

func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (make it with -update, then read it)", err)
	}
	if got != string(want) {
		t.Errorf("%s differs; now it is\n%s", path, got)
	}
}

// dump is an input as a person reads it: one line for a thing, indented under what it belongs to.
func dump(in mesh.Input) string {
	var b strings.Builder
	line := func(indent int, format string, args ...any) {
		b.WriteString(strings.TrimRight(strings.Repeat("  ", indent)+fmt.Sprintf(format, args...), " ") + "\n")
	}
	for _, h := range in.Hosts {
		line(0, "host %s %v%s%s%s", h.Name, h.Addresses, flagged(" namespace="+h.Namespace, h.Namespace != ""),
			flagged(" kubernetes", h.Kubernetes), flagged(" headless", h.Headless))
		for _, p := range h.Ports {
			line(1, "%d/%d -> %s", p.Number, p.Protocol, orLeftAlone(p.Cluster))
		}
		for _, r := range h.Records {
			line(1, "record %s %v", r.Label, r.Addresses)
		}
	}
	for _, l := range in.Listeners {
		line(0, "listener %s:%d/%d", l.Address, l.Port, l.Protocol)
		for _, c := range l.Clusters {
			line(1, "-> %s weight %d", c.Name, c.Weight)
		}
	}
	for _, c := range in.Clusters {
		line(0, "cluster %s %s %s%s%s", c.Name, c.Discovery, c.LbPolicy,
			flagged(" locality-weighted", c.LocalityWeighted), flagged(" requires-tls", c.RequiresTLS))
		if c.DNS != nil {
			line(1, "dns %s resolvers=%v tcp=%v %+v", c.DNS.Family, c.DNS.Resolvers, c.DNS.UseTCP, c.DNS.Schedule)
		}
		for _, l := range c.Localities {
			line(1, "locality %s/%s/%s weight %d priority %d", l.Region, l.Zone, l.SubZone, l.Weight, l.Priority)
			for _, e := range l.Endpoints {
				line(2, "%s port %d weight %d%s%s", e.Address, e.Port, e.Weight,
					flagged(" unhealthy", e.Unhealthy), flagged(" requires-tls", e.RequiresTLS))
			}
		}
	}
	for _, p := range in.Problems {
		line(0, "problem %s: %s", p.Object, p.Reason)
	}
	return b.String()
}

func flagged(s string, on bool) string {
	if on {
		return s
	}
	return ""
}

func orLeftAlone(cluster string) string {
	if cluster == "" {
		return "left alone"
	}
	return cluster
}
