package lb

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/ebpf"
)

// recorder is a kernel that remembers what it was last told.
type recorder struct {
	frontends map[ebpf.Frontend]string
	services  map[string]ebpf.Service
	held      []ebpf.ServiceState // from before
	ejected   map[string][]netip.AddrPort
	err       error
}

func (r *recorder) Ejected(service string) []netip.AddrPort { return r.ejected[service] }

func (r *recorder) Dump() []ebpf.ServiceState { return r.held }

func (r *recorder) Change(frontends map[ebpf.Frontend]string, services map[string]ebpf.Service) (ebpf.Changes, error) {
	if r.err != nil {
		return ebpf.Changes{}, r.err
	}
	for f, name := range frontends {
		if name == "" {
			delete(r.frontends, f)
		} else {
			r.frontends[f] = name
		}
	}
	used := slices.Collect(maps.Values(r.frontends))
	for name, s := range services {
		if slices.Contains(used, name) {
			r.services[name] = s
		}
	}
	maps.DeleteFunc(r.services, func(name string, _ ebpf.Service) bool { return !slices.Contains(used, name) })
	return ebpf.Changes{}, nil
}

func (r *recorder) Apply(frontends map[ebpf.Frontend]string, services map[string]ebpf.Service) (ebpf.Changes, error) {
	if r.err != nil {
		return ebpf.Changes{}, r.err
	}
	r.frontends, r.services = maps.Clone(frontends), maps.Clone(services)
	return ebpf.Changes{}, nil
}

// String writes one line per frontend: what is connected to, and where that goes.
func (r *recorder) String() string {
	var lines []string
	for f, name := range r.frontends {
		s, ok := r.services[name]
		if !ok {
			name += " (missing)"
		}
		line := fmt.Sprintf("%s %d", netip.AddrPortFrom(f.Addr, f.Port), f.Protocol)
		if f.View != 0 {
			line += fmt.Sprintf(" view %x", f.View)
		}
		line += fmt.Sprintf(" -> %s by %d:", name, s.Policy)
		for _, b := range s.Backends {
			line += fmt.Sprintf(" %s*%d", b.Addr, b.Weight)
		}
		lines = append(lines, line)
	}
	for name := range r.services {
		if !slices.Contains(slices.Collect(maps.Values(r.frontends)), name) {
			lines = append(lines, "unused "+name)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func wantKernel(t *testing.T, r *recorder, lines ...string) {
	t.Helper()
	if got, want := r.String(), strings.Join(lines, "\n"); got != want {
		t.Errorf("the kernel has\n%s\nwant\n%s", got, want)
	}
}

func apply(t *testing.T, b *Balancer, p *mesh.Plan) time.Time {
	t.Helper()
	p = sorted(p)
	next, err := b.Apply(p)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// sorted returns p as a plan is.
func sorted(p *mesh.Plan) *mesh.Plan {
	s := *p
	s.Frontends, s.Assignments = slices.Clone(p.Frontends), slices.Clone(p.Assignments)
	slices.SortFunc(s.Frontends, func(a, b *mesh.Frontend) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.View, b.View))
	})
	slices.SortFunc(s.Assignments, func(a, b *mesh.Assignment) int { return cmp.Compare(a.Name, b.Name) })
	return &s
}

func front(addr, assignment string) *mesh.Frontend {
	ap := netip.MustParseAddrPort(addr)
	return &mesh.Frontend{Address: ap.Addr(), Port: ap.Port(), Protocol: mesh.TCP, Assignment: assignment}
}

func inView(f *mesh.Frontend, view string) *mesh.Frontend {
	f.View = view
	return f
}

func assignment(name string, localities ...mesh.AssignedLocality) *mesh.Assignment {
	return &mesh.Assignment{Name: name, Balancing: mesh.Balancing{LbPolicy: mesh.RoundRobin}, Localities: localities}
}

// locality is written "192.0.2.1:80 192.0.2.2:80*5".
func locality(priority, weight uint32, endpoints string) mesh.AssignedLocality {
	loc := mesh.AssignedLocality{Priority: priority, Weight: weight}
	for _, word := range strings.Fields(endpoints) {
		addr, times, _ := strings.Cut(word, "*")
		e := mesh.AssignedEndpoint{Address: netip.MustParseAddrPort(addr), Weight: 1}
		if times != "" {
			if _, err := fmt.Sscan(times, &e.Weight); err != nil {
				panic(err)
			}
		}
		loc.Endpoints = append(loc.Endpoints, e)
	}
	return loc
}

func TestApply(t *testing.T) {
	var k recorder
	b := New(&k, Options{})
	both := locality(0, 1, "10.0.0.2:80 10.0.0.1:80*3 [2001:db8::1]:80")
	apply(t, b, &mesh.Plan{
		Frontends: []*mesh.Frontend{
			front("240.241.0.1:80", "both"), front("[2001:2::1]:80", "both"), front("240.241.0.2:80", "six"),
			inView(front("240.241.0.1:80", "random"), "ns1"),
			{Address: netip.MustParseAddr("240.241.0.1"), Assignment: "any"},
			{Address: netip.MustParseAddr("240.241.0.1"), Port: 53, Protocol: mesh.UDP, Assignment: "both"},
		},
		Assignments: []*mesh.Assignment{
			assignment("both", both),
			assignment("six", locality(0, 1, "[2001:db8::1]:80")),
			{Name: "random", Balancing: mesh.Balancing{LbPolicy: mesh.Random}, Localities: []mesh.AssignedLocality{both}},
			{Name: "any", Balancing: mesh.Balancing{LbPolicy: mesh.LeastRequest}, Localities: []mesh.AssignedLocality{locality(0, 1, "10.0.0.1:0")}},
			assignment("unused", both),
		},
	})
	wantKernel(t, &k,
		"240.241.0.1:0 0 -> any|v4 by 2: 10.0.0.1:0*1",
		"240.241.0.1:53 17 -> both|v4 by 1: 10.0.0.1:80*3 10.0.0.2:80*1",
		"240.241.0.1:80 6 -> both|v4 by 1: 10.0.0.1:80*3 10.0.0.2:80*1",
		fmt.Sprintf("240.241.0.1:80 6 view %x -> random|v4 by 0: 10.0.0.1:80*3 10.0.0.2:80*1", ebpf.ViewOf("ns1")),
		"240.241.0.2:80 6 -> six|v4 by 1:",
		"[2001:2::1]:80 6 -> both|v6 by 1: [2001:db8::1]:80*1",
	)
}

func TestWeights(t *testing.T) {
	many := "10.0.0.1:80*1000000 10.0.0.2:80*999999 10.0.0.3:80"
	for _, tc := range []struct {
		name       string
		weighted   bool
		localities []mesh.AssignedLocality
		want       string
	}{
		{"none", false, nil, ""},
		{"as they are", false, []mesh.AssignedLocality{locality(0, 9, "10.0.0.1:80*2 10.0.0.2:80*3"), locality(0, 1, "10.0.0.3:80")},
			" 10.0.0.1:80*2 10.0.0.2:80*3 10.0.0.3:80*1"},
		{"one address twice", false, []mesh.AssignedLocality{locality(0, 1, "10.0.0.1:80*2 10.0.0.2:80"), locality(0, 1, "10.0.0.1:80")},
			" 10.0.0.1:80*3 10.0.0.2:80*1"},
		{"one address on two ports", false, []mesh.AssignedLocality{locality(0, 1, "10.0.0.1:80 10.0.0.1:81")},
			" 10.0.0.1:80*1 10.0.0.1:81*1"},
		{"by locality", true, []mesh.AssignedLocality{locality(0, 3, "10.0.0.1:80 10.0.0.2:80 10.0.0.3:80*4"), locality(0, 1, "10.0.0.4:80*7")},
			" 10.0.0.1:80*1 10.0.0.2:80*1 10.0.0.3:80*4 10.0.0.4:80*2"},
		{"by locality, of one family", true, []mesh.AssignedLocality{locality(0, 1, "10.0.0.1:80 [2001:db8::1]:80"), locality(0, 5, "[2001:db8::2]:80"), locality(0, 1, "10.0.0.2:80")},
			" 10.0.0.1:80*1 10.0.0.2:80*1"},
		{"the first priority", false, []mesh.AssignedLocality{locality(0, 1, "10.0.0.1:80"), locality(0, 1, "10.0.0.2:80"), locality(1, 1, "10.0.0.3:80")},
			" 10.0.0.1:80*1 10.0.0.2:80*1"},
		{"the first priority of the family", false, []mesh.AssignedLocality{locality(0, 1, "[2001:db8::1]:80"), locality(3, 1, "10.0.0.3:80"), locality(4, 1, "10.0.0.4:80")},
			" 10.0.0.3:80*1"},
		{"bounded", true, []mesh.AssignedLocality{locality(0, 4294967295, many), locality(0, 4294967295, "10.0.0.9:80*4294967295")},
			" 10.0.0.1:80*524288 10.0.0.2:80*524287 10.0.0.3:80*1 10.0.0.9:80*1048576"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := assignment("a", tc.localities...)
			a.LocalityWeighted = tc.weighted
			got := ""
			for _, b := range service(a, true, nil).Backends {
				got += fmt.Sprintf(" %s*%d", b.Addr, b.Weight)
			}
			if got != tc.want {
				t.Errorf("got%s, want%s", got, tc.want)
			}
		})
	}
}

// TestLinger drops a host: its frontend stays for as long as an answer may be remembered, with the
// backends it had, and goes when Apply is called at the time it said.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k recorder
		b := New(&k, Options{})
		a := mesh.Plan{
			Frontends:   []*mesh.Frontend{front("240.241.0.1:80", "a"), front("240.241.0.2:80", "b")},
			Assignments: []*mesh.Assignment{assignment("a", locality(0, 1, "10.0.0.1:80")), assignment("b", locality(0, 1, "10.0.0.2:80"))},
		}
		if next := apply(t, b, &a); !next.IsZero() {
			t.Errorf("nothing lingers, but Apply wants to be called at %s", next)
		}
		only := mesh.Plan{Frontends: a.Frontends[1:], Assignments: a.Assignments[1:]}
		rowA, rowB := "240.241.0.1:80 6 -> a|v4 by 1: 10.0.0.1:80*1", "240.241.0.2:80 6 -> b|v4 by 1: 10.0.0.2:80*1"
		due := time.Now().Add(DefaultLinger)
		if next := apply(t, b, &only); next != due {
			t.Errorf("next at %s, want %s", next, due)
		}
		wantKernel(t, &k, rowA, rowB)

		// A plan in between does not put it off, and another dropped one has its own time.
		time.Sleep(DefaultLinger - time.Second)
		if next := apply(t, b, &mesh.Plan{}); next != due {
			t.Errorf("next at %s, want still %s", next, due)
		}
		time.Sleep(time.Until(due))
		next := apply(t, b, &mesh.Plan{})
		wantKernel(t, &k, rowB)
		time.Sleep(time.Until(next))
		if next := apply(t, b, &mesh.Plan{}); !next.IsZero() {
			t.Errorf("nothing lingers, but Apply wants to be called at %s", next)
		}
		wantKernel(t, &k)
		if len(b.lingering) > 0 {
			t.Errorf("still remembered: %v", b.lingering)
		}
	})
}

// TestComesBack drops a host and brings it back: it does not go at the time of its first dropping.
func TestComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k recorder
		b := New(&k, Options{Linger: time.Minute})
		a := mesh.Plan{
			Frontends:   []*mesh.Frontend{front("240.241.0.1:80", "a")},
			Assignments: []*mesh.Assignment{assignment("a", locality(0, 1, "10.0.0.1:80"))},
		}
		apply(t, b, &a)
		apply(t, b, &mesh.Plan{})
		time.Sleep(50 * time.Second)
		apply(t, b, &a)
		time.Sleep(50 * time.Second)
		if next, want := apply(t, b, &mesh.Plan{}), time.Now().Add(time.Minute); next != want {
			t.Errorf("next at %s, want %s", next, want)
		}
		wantKernel(t, &k, "240.241.0.1:80 6 -> a|v4 by 1: 10.0.0.1:80*1")
	})
}

// TestLingersWithNewestBackends drops one of two frontends of a service: both follow its endpoints.
func TestLingersWithNewestBackends(t *testing.T) {
	var k recorder
	b := New(&k, Options{})
	apply(t, b, &mesh.Plan{
		Frontends:   []*mesh.Frontend{front("240.241.0.1:80", "a"), front("240.241.0.2:80", "a")},
		Assignments: []*mesh.Assignment{assignment("a", locality(0, 1, "10.0.0.1:80"))},
	})
	apply(t, b, &mesh.Plan{
		Frontends:   []*mesh.Frontend{front("240.241.0.1:80", "a")},
		Assignments: []*mesh.Assignment{assignment("a", locality(0, 1, "10.0.0.7:80"))},
	})
	wantKernel(t, &k,
		"240.241.0.1:80 6 -> a|v4 by 1: 10.0.0.7:80*1",
		"240.241.0.2:80 6 -> a|v4 by 1: 10.0.0.7:80*1")
}

// TestPartial has a source that has not spoken: what the plan lacks may be that source's, and stays.
func TestPartial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k recorder
		b := New(&k, Options{})
		apply(t, b, &mesh.Plan{
			Frontends:   []*mesh.Frontend{front("240.241.0.1:80", "a")},
			Assignments: []*mesh.Assignment{assignment("a", locality(0, 1, "10.0.0.1:80"))},
		})
		row := "240.241.0.1:80 6 -> a|v4 by 1: 10.0.0.1:80*1"
		if next := apply(t, b, &mesh.Plan{Partial: true}); !next.IsZero() {
			t.Errorf("nothing goes, but Apply wants to be called at %s", next)
		}
		time.Sleep(time.Hour)
		apply(t, b, &mesh.Plan{Partial: true})
		wantKernel(t, &k, row)
		apply(t, b, &mesh.Plan{}) // now it is known to be gone, and lingers like any other
		wantKernel(t, &k, row)
		time.Sleep(DefaultLinger)
		apply(t, b, &mesh.Plan{})
		wantKernel(t, &k)
	})
}

// TestAdopts starts beside a kernel that holds what a former dnsd wrote: a partial plan leaves it
// there, and a whole one lets it linger.
func TestAdopts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := recorder{held: []ebpf.ServiceState{{
			Service: ebpf.Service{
				Policy: ebpf.Random, Backends: []ebpf.Backend{{Addr: netip.MustParseAddrPort("10.0.0.1:80"), Weight: 3}},
			},
			Frontends: []ebpf.Frontend{
				{Addr: netip.MustParseAddr("240.241.0.1"), Port: 80, Protocol: ebpf.TCP},
				{Addr: netip.MustParseAddr("240.241.0.2"), Port: 80, Protocol: ebpf.TCP},
			},
		}}}
		b := New(&k, Options{})
		plan := mesh.Plan{
			Partial:     true,
			Frontends:   []*mesh.Frontend{front("240.241.0.2:80", "a")},
			Assignments: []*mesh.Assignment{assignment("a", locality(0, 1, "10.0.0.1:80"))},
		}
		former, ours := "240.241.0.1:80 6 -> formerly 0 by 0: 10.0.0.1:80*3", "240.241.0.2:80 6 -> a|v4 by 1: 10.0.0.1:80*1"
		apply(t, b, &plan)
		wantKernel(t, &k, former, ours)

		plan.Partial = false
		time.Sleep(time.Until(apply(t, b, &plan)))
		apply(t, b, &plan)
		wantKernel(t, &k, ours)
	})
}

func TestAssignments(t *testing.T) {
	b := New(&recorder{}, Options{})
	for service, want := range map[string][]string{
		"file/outbound|80||a.test|v4": {"file/outbound|80||a.test"},
		"refuse|v6":                   {"refuse"},
		"formerly 0":                  nil,
		"":                            nil,
	} {
		if got := b.Assignments(service); !slices.Equal(got, want) {
			t.Errorf("%q stands for %q, want %q", service, got, want)
		}
	}
}

// TestKernelFails has a write fail: it is the next Apply's to repeat, whole.
func TestKernelFails(t *testing.T) {
	k := recorder{err: errors.New("the map is full")}
	b := New(&k, Options{})
	plan := mesh.Plan{
		Frontends:   []*mesh.Frontend{front("240.241.0.1:80", "a")},
		Assignments: []*mesh.Assignment{assignment("a", locality(0, 1, "10.0.0.1:80"))},
	}
	if _, err := b.Apply(&plan); !errors.Is(err, k.err) {
		t.Errorf("got %v, want the kernel's error", err)
	}
	k.err = nil
	apply(t, b, &plan)
	wantKernel(t, &k, "240.241.0.1:80 6 -> a|v4 by 1: 10.0.0.1:80*1")
}

func BenchmarkApply(b *testing.B) {
	var plan mesh.Plan
	for i := range 10_000 {
		name := fmt.Sprintf("file/outbound|80||host%d.test", i)
		addr := netip.AddrFrom4([4]byte{240, 241, byte(i >> 8), byte(i)})
		plan.Frontends = append(plan.Frontends, &mesh.Frontend{Address: addr, Port: 80, Protocol: mesh.TCP, Assignment: name})
		plan.Assignments = append(plan.Assignments, assignment(name, locality(0, 1, "10.0.0.1:80 10.0.0.2:80 10.0.0.3:80")))
	}
	balancer := New(&recorder{}, Options{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := balancer.Apply(&plan); err != nil {
			b.Fatal(err)
		}
	}
}
