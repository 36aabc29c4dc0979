package lb

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/ebpf"
)

// TestMissing names the hosts that cannot be reached as the plan says, and those that cannot be at all.
func TestMissing(t *testing.T) {
	of := func(host string, f *mesh.Frontend) *mesh.Frontend {
		f.Host = host
		return f
	}
	k := recorder{held: []ebpf.ServiceState{{Frontends: []ebpf.Frontend{
		{Addr: netip.MustParseAddr("240.241.0.1"), Port: 80, Protocol: ebpf.TCP},
		{Addr: netip.MustParseAddr("240.241.0.2"), Port: 80, Protocol: ebpf.TCP, View: ebpf.ViewOf("ns1")},
	}}}}
	plan := mesh.Plan{Frontends: []*mesh.Frontend{
		of("whole", front("240.241.0.1:80", "a")), of("seen by one", inView(front("240.241.0.2:80", "a"), "ns1")),
		of("half", front("240.241.0.1:80", "a")), of("half", front("240.241.0.1:81", "a")),
		of("other view", inView(front("240.241.0.2:80", "a"), "ns2")),
	}}
	b := New(&k, Options{})
	got := slices.Sorted(maps.Keys(b.Missing(&plan)))
	if want := []string{"half", "other view"}; !slices.Equal(got, want) {
		t.Errorf("missing are %q, want %q", got, want)
	}
	asked := map[string]bool{"half": true, "seen by one": true, "other view": true, "not in the plan": true}
	got = slices.Sorted(maps.Keys(b.Unheld(&plan, asked)))
	if want := []string{"not in the plan", "other view"}; !slices.Equal(got, want) || len(asked) != 4 {
		t.Errorf("of %v unheld are %q, want %q", asked, got, want)
	}
}

// TestManyErrors keeps an error that a person has to read short.
func TestManyErrors(t *testing.T) {
	var all []error
	for i := range 1000 {
		all = append(all, fmt.Errorf("service %d: full", i))
	}
	b := New(&recorder{err: errors.Join(all...)}, Options{})
	_, err := b.Apply(&mesh.Plan{})
	if err == nil || strings.Count(err.Error(), "\n") != 3 || !strings.HasSuffix(err.Error(), "and 997 more") {
		t.Errorf("the error is %v", err)
	}
	if !errors.Is(err, all[0]) {
		t.Error("the first one is not in it")
	}
}
