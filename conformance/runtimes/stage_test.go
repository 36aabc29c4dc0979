package runtimes_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/script"
	"github.com/nodens-dns/nodens/conformance/world"
)

func TestMain(m *testing.M) {
	app.Main()
	os.Exit(m.Run())
}

const manifest = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mesh}
spec:
  hosts: [mesh.internal]
  ports: [{name: tcp, number: 9000, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 203.0.113.1}]
`

// stage is a node with dnsd on which nodens-install has not run yet, and a folder for a runtime.
type stage struct {
	*world.World
	dir    string
	image  string // archive
	socket string // of a runtime that says what it has loaded, if it is one
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{World: script.NewWorld(t)}
	s.dir = filepath.Join(s.Dir, "runtime")
	s.image = filepath.Join(s.dir, "image.tar")
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	writeImage(t, s.image)
	for _, err := range []error{
		s.Uninstalled(),
		os.Symlink("/usr/lib/cni/loopback", filepath.Join(s.plugins(), "loopback")),
		os.WriteFile(filepath.Join(s.ManifestDir(), "mesh.yaml"), []byte(manifest), 0o600),
		s.Zone.Set("outside.example", "A", 60, "198.51.100.7"),
		s.StartDnsd(true),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(s.clearCgroups)
	return s
}

func (s *stage) plugins() string  { return filepath.Join(s.Dir, "cni-bin") }
func (s *stage) networks() string { return filepath.Join(s.Dir, "net.d") }

// below is a cgroup for containers where the programs see it, as every runtime's is on a real node.
func (s *stage) below(name string) string { return filepath.Join("/", filepath.Base(s.Cgroup()), name) }

// clearCgroups removes what the runtime has made for containers, in every hierarchy.
func (s *stage) clearCgroups() {
	ours := filepath.Base(s.Cgroup())
	tops, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", "*", ours))
	for _, top := range append(tops, s.Cgroup()) {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs)
		for _, dir := range dirs {
			if dir != s.Cgroup() { // the world's own, with its dnsd
				_ = os.Remove(dir) // one that still has a process is the test's failure, seen by the world
			}
		}
	}
}

// onNode runs a program in the node's network, and returns what it wrote.
func (s *stage) onNode(env []string, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := s.Node.Do(cmd.Run) // a child starts in the namespace of the thread that makes it
	return out.String(), err
}

// daemon starts a program on the node that is ended with the test.
func (s *stage) daemon(t *testing.T, name string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(s.dir, filepath.Base(name)+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.Node.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
		_ = log.Close()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s said:\n%s", name, text)
		}
	})
}

// install puts nodens on the node, as an operator would while pods run.
func (s *stage) install(t *testing.T) {
	t.Helper()
	if out, err := s.Install("install", "--once", "--runtime-socket", s.socket); err != nil {
		t.Fatalf("nodens-install: %v\n%s", err, out)
	}
}

// container is one of either runtime's.
type container interface {
	// probe runs the program in it and returns what it says.
	probe(args ...string) (string, error)
}

// captured demands that what runs in the container reaches mesh names, and everybody else's.
func captured(t *testing.T, c container) {
	t.Helper()
	for _, want := range []struct{ args, has string }{
		{"lookup mesh.internal", "240."},
		{"lookup outside.example", "198.51.100.7"},
		{"connect mesh.internal 9000", "server 203.0.113.1:9000"},
	} {
		eventually(t, func() (string, bool) {
			out, err := c.probe(strings.Fields(want.args)...)
			if err != nil {
				out += err.Error()
			}
			return want.args + ": " + out, err == nil && strings.Contains(out, want.has)
		})
	}
}

// untouched demands that the container has its own nameserver's answers only.
func untouched(t *testing.T, c container) {
	t.Helper()
	if out, err := c.probe("lookup", "mesh.internal"); err == nil {
		t.Errorf("mesh.internal is known: %s", out)
	}
	if out, err := c.probe("lookup", "outside.example"); err != nil || !strings.Contains(out, "198.51.100.7") {
		t.Errorf("lookup outside.example: %s, %v", out, err)
	}
}

// eventually asks until the answer is yes.
func eventually(t *testing.T, ask func() (string, bool)) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		said, ok := ask()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("in vain: %s", said)
			return
		}
	}
}

// noted is how many pods have an attachment.
func (s *stage) noted(t *testing.T, want int) {
	t.Helper()
	eventually(t, func() (string, bool) {
		files, err := filepath.Glob(filepath.Join(s.AttachmentDir(), "*.json"))
		return strings.Join(files, " "), err == nil && len(files) == want
	})
}

// kernelHolds demands so many rows in the kernel.
func (s *stage) kernelHolds(t *testing.T, want int) {
	t.Helper()
	eventually(t, func() (string, bool) {
		rows, err := s.KernelPods()
		return strings.Join(rows, "\n"), err == nil && len(rows) == want
	})
}
