package lb

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/ebpf"
)

// sick has unhealthy endpoints.
func sick(loc mesh.AssignedLocality, addrs ...string) mesh.AssignedLocality {
	loc.Endpoints = slices.Clone(loc.Endpoints)
	for i := range loc.Endpoints {
		for _, addr := range addrs {
			if loc.Endpoints[i].Address == netip.MustParseAddrPort(addr) {
				loc.Endpoints[i].Unhealthy = true
			}
		}
	}
	return loc
}

// TestChoice says who gets connections, and how many compared with others. "!" is who gets them even
// while ejected.
func TestChoice(t *testing.T) {
	zero, asked := new(uint32), &mesh.Outlier{}
	type places = []mesh.AssignedLocality
	one, two := locality(0, 1, "10.0.0.1:80 10.0.0.2:80"), locality(1, 1, "10.0.1.1:80 10.0.1.2:80")
	three := locality(0, 1, "10.0.0.1:80 10.0.0.2:80 10.0.0.3:80")
	for _, tc := range []struct {
		name       string
		balancing  mesh.Balancing
		localities places
		ejected    string
		want       string
	}{
		{"healthy", mesh.Balancing{}, places{one, two}, "", "1*1 2*1"},
		{"an unhealthy one", mesh.Balancing{}, places{sick(one, "10.0.0.1:80")}, "", "2*1"},
		// 1 of 2 times 1.4 is 70 %: 30 % go to the next priority.
		{"spill", mesh.Balancing{}, places{sick(locality(0, 1, "10.0.0.1:80 10.0.0.2:80"), "10.0.0.1:80"), two}, "", "2*14 1.1*3 1.2*3"},
		{"spill by its own factor", mesh.Balancing{Overprovisioning: 200}, places{sick(locality(0, 1, "10.0.0.1:80 10.0.0.2:80"), "10.0.0.1:80"), two}, "", "2*1"},
		// An ejected one stays in line, for its probe and for what it gets then.
		{"spill by ejection", mesh.Balancing{}, places{one, two}, "10.0.0.1:80", "1*14 2*14 1.1*3 1.2*3"},
		{"all of a priority ejected", mesh.Balancing{}, places{one, two}, "10.0.0.1:80 10.0.0.2:80", "1*1 2*1 1.1*1 1.2*1"},
		{"all ejected", mesh.Balancing{PanicThreshold: zero}, places{one}, "10.0.0.1:80 10.0.0.2:80", "1*1 2*1"},
		{"all ejected twice", mesh.Balancing{PanicThreshold: zero}, places{one, two}, "10.0.0.1:80 10.0.0.2:80 10.0.1.1:80 10.0.1.2:80", "1*1 2*1"},
		{"an ejection nobody asked for makes no panic", mesh.Balancing{}, places{three}, "10.0.0.1:80 10.0.0.2:80", "1*1 2*1 3*1"},
		{"one that was asked for does", mesh.Balancing{Outlier: asked}, places{three}, "10.0.0.1:80 10.0.0.2:80", "1*1! 2*1! 3*1!"},
		{"unless it is off", mesh.Balancing{Outlier: asked, PanicThreshold: zero}, places{three}, "10.0.0.1:80 10.0.0.2:80", "1*1 2*1 3*1"},
		{"panic by declaration", mesh.Balancing{}, places{sick(locality(0, 1, "10.0.0.1:80*2 10.0.0.2:80 10.0.0.3:80"), "10.0.0.1:80", "10.0.0.2:80")}, "10.0.0.3:80", "1*2 2*1 3*1"},
		{"nobody, no panic", mesh.Balancing{PanicThreshold: zero}, places{sick(locality(0, 1, "10.0.0.1:80"), "10.0.0.1:80")}, "", ""},
		{"unhealthy first priority", mesh.Balancing{PanicThreshold: zero}, places{sick(locality(0, 1, "10.0.0.1:80"), "10.0.0.1:80"), two}, "", "1.1*1 1.2*1"},
		// A locality's weight counts as much as its health: 3 * 70 % to 1.
		{"localities", mesh.Balancing{LocalityWeighted: true}, places{sick(locality(0, 3, "10.0.0.1:80 10.0.0.2:80"), "10.0.0.1:80"), locality(0, 1, "10.0.2.1:80")}, "", "2*21 2.1*10"},
		{"localities by ejection", mesh.Balancing{LocalityWeighted: true}, places{locality(0, 3, "10.0.0.1:80 10.0.0.2:80"), locality(0, 1, "10.0.2.1:80")}, "10.0.0.1:80", "1*21 2*21 2.1*10"},
		{"a whole locality ejected", mesh.Balancing{LocalityWeighted: true}, places{locality(0, 3, "10.0.0.1:80"), locality(0, 1, "10.0.2.1:80")}, "10.0.0.1:80", "1*3 2.1*1"},
		{"weighted localities of two priorities", mesh.Balancing{LocalityWeighted: true}, places{sick(locality(0, 3, "10.0.0.1:80 10.0.0.2:80"), "10.0.0.1:80"), two}, "", "2*14 1.1*3 1.2*3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ejected := map[netip.AddrPort]bool{}
			for _, addr := range strings.Fields(tc.ejected) {
				ejected[netip.MustParseAddrPort(addr)] = true
			}
			a := mesh.Assignment{Balancing: tc.balancing, Localities: tc.localities}
			var got []string
			for _, b := range service(&a, true, ejected).Backends {
				short := strings.TrimPrefix(strings.TrimPrefix(b.Addr.Addr().String(), "10.0."), "0.")
				got = append(got, fmt.Sprintf("%s*%d%s", short, b.Weight, map[bool]string{true: "!"}[b.Always]))
			}
			if got := strings.Join(got, " "); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestLook moves connections to the next priority when the first one's endpoints are ejected, and back.
func TestLook(t *testing.T) {
	k := recorder{ejected: map[string][]netip.AddrPort{}}
	b := New(&k, Options{})
	plan := mesh.Plan{
		Frontends: []*mesh.Frontend{front("240.241.0.1:80", "two"), front("240.241.0.2:80", "one")},
		Assignments: []*mesh.Assignment{
			assignment("two", locality(0, 1, "10.0.0.1:80"), locality(1, 1, "10.0.1.1:80")),
			assignment("one", locality(0, 1, "10.0.0.1:80 10.0.0.2:80")),
		},
	}
	apply(t, b, &plan)
	look := func() {
		t.Helper()
		if err := b.Look(); err != nil {
			t.Fatal(err)
		}
	}
	one := "240.241.0.2:80 6 -> one|v4 by 1: 10.0.0.1:80*1 10.0.0.2:80*1"
	first := "240.241.0.1:80 6 -> two|v4 by 1: 10.0.0.1:80*1"
	look()
	wantKernel(t, &k, first, one)

	k.ejected["two|v4"] = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:80")}
	k.ejected["one|v4"] = k.ejected["two|v4"] // for this one the kernel does all there is to do
	look()
	wantKernel(t, &k, first+" 10.0.1.1:80*1", one)
	k.services = nil // so that a second telling would be seen
	look()
	if len(k.services) > 0 {
		t.Errorf("told of again: %v", k.services)
	}
	b.sound = false // a whole plan says it, too
	apply(t, b, &plan)
	wantKernel(t, &k, first+" 10.0.1.1:80*1", one)

	delete(k.ejected, "two|v4")
	k.err = errors.New("the map is full")
	if err := b.Look(); !errors.Is(err, k.err) {
		t.Errorf("got %v, want the kernel's error", err)
	}
	k.err = nil
	apply(t, b, &plan)
	wantKernel(t, &k, first, one)
}

// TestSettings has every word of Envoy's reach the kernel.
func TestSettings(t *testing.T) {
	a := assignment("a", locality(0, 1, "10.0.0.1:80"))
	a.LbPolicy, a.HashSource, a.HashTable, a.MaxConnections, a.Affinity = mesh.Maglev, true, 5003, 7, time.Minute
	a.Outlier = &mesh.Outlier{BaseEjection: 10 * time.Minute, MaxPercent: 40}
	s := service(a, true, nil)
	if s.Policy != ebpf.Maglev || s.TableSize != 5003 || s.MaxConnections != 7 || s.Affinity != time.Minute {
		t.Errorf("got %+v", s)
	}
	if want := (ebpf.Outlier{Consecutive: 5, Ejection: 10 * time.Minute, MaxEjection: 10 * time.Minute, MaxPercent: 40, Linear: true}); s.Outlier != want {
		t.Errorf("got %+v, want %+v", s.Outlier, want)
	}
	for _, tc := range []struct {
		policy mesh.LbPolicy
		hash   bool
		want   ebpf.Policy
	}{
		{mesh.RingHash, true, ebpf.RingHash}, {mesh.RingHash, false, ebpf.Random}, {mesh.Maglev, false, ebpf.Random},
		{mesh.LeastRequest, false, ebpf.LeastRequest}, {mesh.Random, true, ebpf.Random}, {"", false, ebpf.LeastRequest},
	} {
		if got := policy(mesh.Balancing{LbPolicy: tc.policy, HashSource: tc.hash}); got != tc.want {
			t.Errorf("%s with hash %v is %d, want %d", tc.policy, tc.hash, got, tc.want)
		}
	}
}
