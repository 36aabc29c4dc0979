package main

import (
	"os"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/conformance/sandbox"
	"github.com/nodens-dns/nodens/dnsd/config"
	"github.com/nodens-dns/nodens/dnsd/tenure"
	"github.com/nodens-dns/nodens/ebpf"
)

func TestDetach(t *testing.T) {
	sandbox.Root(t)
	c := &config.Config{StateDir: t.TempDir(), RunDir: t.TempDir(), Cgroup: sandbox.Cgroup(t), BPFPath: sandbox.Pins(t)}
	d, err := ebpf.Ensure(ebpf.Options{CgroupPath: c.Cgroup, PinPath: c.BPFPath})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	release, err := tenure.Hold(c.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := detach(&out, c); err == nil || out.Len() > 0 || !strings.Contains(err.Error(), "another dnsd") {
		t.Errorf("beside a dnsd that runs: %v", err)
	}
	release()
	for _, want := range []string{"off this node", "nothing is attached"} { // absent is fine
		out.Reset()
		if err := detach(&out, c); err != nil || !strings.Contains(out.String(), want) || !strings.Contains(out.String(), c.BPFPath) {
			t.Errorf("%q, %v; want %s", out.String(), err, want)
		}
	}
	if _, err := os.Stat(c.BPFPath); !os.IsNotExist(err) {
		t.Errorf("pins are left: %v", err)
	}
	c.RunDir = "/nonexistent/run"
	if err := detach(&out, c); err != nil {
		t.Errorf("with a folder that is gone already: %v", err)
	}
}
