package file

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// patient bounds every wait for something that must come.
const patient = 10 * time.Second

func mkfifo(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		t.Fatal(err)
	}
}

// watch runs a source on dir and returns what it emits. It looks only when told to by the kernel, unless
// the folder is missing.
func watch(t *testing.T, dir string) <-chan mesh.Input {
	t.Helper()
	s := New(Options{Dir: dir})
	s.timing = timing{quiet: 5 * time.Millisecond, most: 100 * time.Millisecond, resync: time.Hour, retry: 5 * time.Millisecond}
	ctx, cancel := context.WithCancel(context.Background())
	inputs, done := make(chan mesh.Input, 1000), make(chan error, 1)
	go func() { done <- s.Run(ctx, func(in mesh.Input) { inputs <- in }) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patient):
			t.Error("Run does not end")
		}
	})
	return inputs
}

// until waits for an input whose hosts are these; what comes before is on the way there.
func until(t *testing.T, inputs <-chan mesh.Input, want string) mesh.Input {
	t.Helper()
	var last string
	for end := time.After(patient); ; {
		select {
		case in := <-inputs:
			if last = hosts(in); last == want {
				return in
			}
		case <-end:
			t.Fatalf("hosts %q, want %q", last, want)
		}
	}
}

func manifest(name string) string {
	return strings.NewReplacer("name: good", "name: "+name, "good.example.com", name).Replace(goodEntry)
}

func TestChangesAreSeen(t *testing.T) {
	dir := t.TempDir()
	inputs := watch(t, dir)
	if in := until(t, inputs, ""); in.Pending || in.Source != "file" {
		t.Errorf("an empty folder is %+v", in)
	}
	write(t, dir, "one.yaml", manifest("a"))
	until(t, inputs, "a")
	write(t, dir, "two.yaml", manifest("b"))
	until(t, inputs, "a b")
	write(t, dir, "one.yaml", manifest("c"))
	until(t, inputs, "b c")
	if err := os.Rename(filepath.Join(dir, "two.yaml"), filepath.Join(dir, "two.off")); err != nil {
		t.Fatal(err)
	}
	until(t, inputs, "c")
	if err := os.Remove(filepath.Join(dir, "one.yaml")); err != nil {
		t.Fatal(err)
	}
	until(t, inputs, "")
	write(t, dir, "notes.txt", "nothing")
	write(t, dir, "one.yaml", manifest("d"))
	if in := <-inputs; hosts(in) != "d" {
		t.Errorf("something that changes nothing was emitted: %+v", in)
	}
}

// The kubelet changes a mounted ConfigMap by swapping one link.
func TestConfigMap(t *testing.T) {
	dir := t.TempDir()
	generation := func(name, content string) {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), "mesh.yaml", content)
		if err := os.Symlink(name, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	generation("..1", manifest("a"))
	if err := os.Symlink("..data/mesh.yaml", filepath.Join(dir, "mesh.yaml")); err != nil {
		t.Fatal(err)
	}
	inputs := watch(t, dir)
	until(t, inputs, "a")
	generation("..2", manifest("b"))
	until(t, inputs, "b")
}

// A folder that is not there says nothing: neither at first nor later is that "no objects".
func TestMissingFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	inputs := watch(t, dir)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "one.yaml", manifest("a"))
	until(t, inputs, "a")

	away := dir + ".away"
	if err := os.Rename(dir, away); err != nil {
		t.Fatal(err)
	}
	in := until(t, inputs, "a")
	if len(in.Problems) != 1 || in.Problems[0].Object != "folder "+dir {
		t.Errorf("problems %+v", in.Problems)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	until(t, inputs, "")
	write(t, dir, "two.yaml", manifest("b"))
	until(t, inputs, "b")
	write(t, away, "one.yaml", manifest("c")) // nobody's any more
	write(t, dir, "two.yaml", manifest("d"))
	until(t, inputs, "d")
}

func TestFolderThatNeverWasSaysNothing(t *testing.T) {
	s := New(Options{Dir: filepath.Join(t.TempDir(), "never")})
	s.read(func(in mesh.Input) { t.Errorf("emitted %+v", in) })
}
