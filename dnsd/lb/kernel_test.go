package lb

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/conformance/sandbox"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/ebpf"
)

func open(t *testing.T, o ebpf.Options) *ebpf.Services {
	t.Helper()
	d, err := ebpf.Ensure(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	services, err := d.Services()
	if err != nil {
		t.Fatal(err)
	}
	return services
}

// held writes what the kernel holds, one line per service.
func held(s *ebpf.Services) string {
	var b strings.Builder
	for _, state := range s.Dump() {
		fmt.Fprintf(&b, "%s by %d:", state.Name, state.Service.Policy)
		for _, f := range state.Frontends {
			fmt.Fprintf(&b, " %s:%d/%d", f.Addr, f.Port, f.Protocol)
		}
		b.WriteString(" ->")
		for _, backend := range state.Backends {
			fmt.Fprintf(&b, " %s*%d", backend.Addr, backend.Weight)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// TestKernel applies plans to real maps, and again after a restart.
func TestKernel(t *testing.T) {
	sandbox.Root(t)
	o := ebpf.Options{CgroupPath: sandbox.Cgroup(t), PinPath: sandbox.Pins(t)}
	t.Cleanup(func() {
		if err := ebpf.Remove(o); err != nil {
			t.Error(err)
		}
	})
	plan := mesh.Plan{
		Frontends: []*mesh.Frontend{front("240.241.0.1:80", "a"), front("[2001:2::1]:80", "a"), front("240.241.0.2:80", "b")},
		Assignments: []*mesh.Assignment{
			assignment("a", locality(0, 1, "10.0.0.1:80*200 10.0.0.2:80*100 10.0.0.1:80*100 [2001:db8::1]:80")),
			assignment("b"),
		},
	}
	services := open(t, o)
	apply(t, New(services, Options{}), &plan)
	want := `a|v4 by 1: 240.241.0.1:80/6 -> 10.0.0.1:80*3 10.0.0.2:80*1
a|v6 by 1: 2001:2::1:80/6 -> [2001:db8::1]:80*1
b|v4 by 1: 240.241.0.2:80/6 ->
`
	if got := held(services); got != want {
		t.Errorf("the kernel holds\n%swant\n%s", got, want)
	}

	// The next dnsd hears of b first. What it finds stays, though it does not know what it is for.
	services = open(t, o)
	b := New(services, Options{})
	apply(t, b, &mesh.Plan{Partial: true, Frontends: plan.Frontends[2:], Assignments: plan.Assignments[1:]})
	for _, line := range strings.SplitAfter(want, "\n")[:2] {
		_, behind, _ := strings.Cut(line, " ")
		if got := held(services); !strings.Contains(got, behind) {
			t.Errorf("after a restart the kernel holds\n%swant also\n%s", got, line)
		}
	}
	apply(t, b, &plan)
	if got := held(services); got != want {
		t.Errorf("once all is known again the kernel holds\n%swant\n%s", got, want)
	}
}
