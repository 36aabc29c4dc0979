package main

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/conformance/sandbox"
	"github.com/nodens-dns/nodens/dnsd/answers"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/dnsd/pods"
	"github.com/nodens-dns/nodens/ebpf"
)

// What an earlier dnsd knew is answered in the kernel until all sources have spoken, and then no more; also when
// the last of them says nothing new.
func TestKernelForgets(t *testing.T) {
	sandbox.Root(t)
	o := ebpf.Options{CgroupPath: sandbox.Cgroup(t), PinPath: sandbox.Pins(t)}
	d, err := ebpf.Ensure(o)
	if err != nil {
		t.Fatal(err)
	}
	earlier := answers.New(true, d, slog.New(slog.DiscardHandler))
	h := testHub(t, t.TempDir(), &recorder{}, "file", "xds")
	t.Cleanup(func() {
		if err := errors.Join(earlier.Close(), h.answers.Close(), d.Close(), ebpf.Remove(o)); err != nil {
			t.Error(err)
		}
	})
	known := func(want bool) {
		t.Helper()
		if got := h.answers.Explain(pods.Pod{Asker: 7}, "gone.example"); strings.Contains(got, "A is answered there, as declared") != want {
			t.Fatalf("known: %s; want %t", got, want)
		}
	}
	gone := names.Build(&mesh.Plan{Names: []*mesh.Name{{Host: "gone.example", Addr4: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}}}, names.Options{})
	if err := earlier.Store(gone, false); err != nil {
		t.Fatal(err)
	}
	h.answers = answers.New(true, d, slog.New(slog.DiscardHandler))
	known(true)
	h.hear(input("a.example"))
	h.hear(mesh.Input{Source: "resolve"})
	h.pass()
	known(true)
	h.hear(mesh.Input{Source: "xds"})
	h.pass()
	known(false)
}
