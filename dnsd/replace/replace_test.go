package replace

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	if err := os.WriteFile(path+".new", []byte("half of what a crash left, and long"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two"} {
		if err := File(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); string(got) != text || err != nil {
			t.Errorf("it holds %q (%v), want %q", got, err, text)
		}
	}
	full := filepath.Join(dir, "b")
	if err := os.Mkdir(full, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := File(full, []byte("x"), 0o600); err == nil {
		t.Error("a folder is replaced")
	}
	if got := names(t, dir); len(got) != 2 {
		t.Errorf("left behind: %q", got)
	}
	if err := File(filepath.Join(dir, "none", "c"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a folder: %v", err)
	}
}

func open(t *testing.T, network, path string, mode fs.FileMode) *Socket {
	t.Helper()
	s, err := Listen(network, path, mode)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestSocket(t *testing.T) {
	for _, network := range []string{"unix", "unixpacket"} {
		dir := t.TempDir()
		path := filepath.Join(dir, "s.sock")
		dial := func() error {
			c, err := net.Dial(network, path)
			if err == nil {
				_ = c.Close()
			}
			return err
		}
		a := open(t, network, path, 0o660)
		if err := dial(); !errors.Is(err, fs.ErrNotExist) || !a.Lost() {
			t.Errorf("before it has its name: %v", err)
		}
		if err := a.Place(); err != nil || a.Lost() {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o660 {
			t.Errorf("%v, %v", st, err)
		}
		b := open(t, network, path, 0o600)
		if err := b.Place(); err != nil {
			t.Fatal(err)
		}
		_ = a.Close() // which takes nothing from the other one
		if err := dial(); err != nil {
			t.Error(err)
		}
		c := open(t, network, path, 0o600)
		_ = c.Close()
		next := open(t, network, path, 0o600)
		_ = c.Close() // once more, which takes nothing from the next one, either
		if err := next.Place(); err != nil {
			t.Error(err)
		}
		b = next
		if got := names(t, dir); len(got) != 1 {
			t.Errorf("left behind: %q", got)
		}
		_ = b.Close()
		if err := dial(); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("when nobody listens: %v", err)
		}
		if err := os.Remove(path); err != nil || !b.Lost() {
			t.Errorf("it is removed: %v", err)
		}
	}
}

// A socket is its folder's group's, so that who may enter there may ask.
func TestSocketOfTheFoldersGroup(t *testing.T) {
	sandbox.Root(t)
	dir := t.TempDir()
	if err := os.Chown(dir, 0, 12345); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s.sock")
	if err := open(t, "unix", path, 0o660).Place(); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Sys().(*syscall.Stat_t).Gid != 12345 {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestWhatIsNoSocketStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Listen("unix", path, 0o600); err == nil {
		_ = s.Close()
		t.Error("a file is replaced by a socket")
	}
	if got, _ := os.ReadFile(path); string(got) != "mine" {
		t.Errorf("it holds %q", got)
	}
}
