//go:build kernels

package kernels

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/conformance/world"
)

// scripts are the promises that lean on the kernel most, and the chain that this machine's may lack.
const scripts = "TestPromises/^(names|balance|policies|views|cni|kernel-answers|light|restart|upgrade)$|TestChains/ipvlan"

// TestKernels runs the kernel half's own tests, and the promises that lean on it most, on each kernel of
// Debian's there is.
func TestKernels(t *testing.T) {
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	work := build(t)
	for _, meta := range []string{"linux-image-amd64", "linux-image-6.12-amd64"} {
		t.Run(meta, func(t *testing.T) {
			k, err := Fetch(t.Context(), meta, filepath.Join(cache, "nodens-kernels"))
			if err != nil {
				t.Fatal(err)
			}
			t.Run(k.Version+"/ebpf", func(t *testing.T) {
				inside(t, k, work, "./ebpf.test -test.v -test.timeout 60m")
			})
			t.Run(k.Version+"/promises", func(t *testing.T) {
				inside(t, k, work, "BINDIR=$PWD/bin; export BINDIR; cd "+source(t)+"/conformance; "+
					"RACE=0 $BINDIR/../conformance.test -test.v -test.parallel 1 -test.timeout 60m -test.run '"+scripts+"'")
			})
		})
	}
}

// build makes a folder of everything that runs there: nothing is compiled in the machine.
func build(t *testing.T) string {
	t.Helper()
	work := t.TempDir()
	if _, err := world.Build(t.Context(), filepath.Join(work, "bin"), false); err != nil {
		t.Fatal(err)
	}
	for _, pkg := range []string{"ebpf", "conformance"} {
		cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", filepath.Join(work, pkg+".test"), "./"+pkg)
		cmd.Dir, cmd.Env = source(t), append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build the tests of %s: %v\n%s", pkg, err, out)
		}
	}
	return work
}

// source is the folder of the module.
func source(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

var outcome = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+)`)

// inside runs a test program on a kernel, and tells what became of each of its tests.
func inside(t *testing.T, k Kernel, work, command string) {
	t.Helper()
	out, err := k.Run(t.Context(), work, command)
	counts := map[string]int{}
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		if m := outcome.FindStringSubmatch(lines.Text()); m != nil {
			counts[m[1]]++
			if m[1] != "PASS" {
				t.Log(strings.TrimSpace(lines.Text()))
			}
		}
	}
	t.Logf("%d passed, %d failed, %d skipped", counts["PASS"], counts["FAIL"], counts["SKIP"])
	if err != nil || counts["PASS"] == 0 {
		log := filepath.Join(os.TempDir(), "nodens-kernel-"+k.Version+".log")
		t.Errorf("%v; what the machine printed is in %s: %v", err, log, os.WriteFile(log, []byte(out), 0o644))
	}
}
