package keep

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

func open(t *testing.T, dir string) *Inputs {
	t.Helper()
	i, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func said(source, host string) mesh.Input {
	return mesh.Input{Source: source, Hosts: []mesh.Host{{Name: host, Object: "test"}}}
}

func TestInputs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "inputs")
	i := open(t, dir)
	i.Save(said("file", "a.example"))
	i.Save(said("file", "b.example"))
	i.Save(mesh.Input{Source: "xds", Pending: true})
	i.Flush()
	i = open(t, dir)
	if in, err := i.Load("file"); err != nil || !reflect.DeepEqual(in, said("file", "b.example")) {
		t.Errorf("%+v, %v", in, err)
	}
	if in, err := i.Load("xds"); err != nil || !in.Pending || in.Source != "xds" {
		t.Errorf("who never spoke: %+v, %v", in, err)
	}
}

// What is not as it should be is waited for, and it is said why.
func TestLoadWhatIsNotGood(t *testing.T) {
	for text, want := range map[string]string{
		`{"Source":"fi`:                                    "unexpected end",
		`{"Source":"xds","Version":1}`:                     `holds source "xds"`,
		`{"Source":"file","Version":2,"Hosts":"in words"}`: "is of format 2, a later dnsd's",
	} {
		i := open(t, t.TempDir())
		if err := os.WriteFile(i.path("file"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		in, err := i.Load("file")
		if err == nil || !strings.Contains(err.Error(), want) || !in.Pending || in.Source != "file" {
			t.Errorf("%s: %+v, %v, want %q", text, in, err, want)
		}
	}
}

// The first releases wrote no version.
func TestLoadWithoutVersion(t *testing.T) {
	i := open(t, t.TempDir())
	if err := os.WriteFile(i.path("file"), []byte(`{"Source":"file","Hosts":[{"Name":"a.example","Object":"test"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if in, err := i.Load("file"); err != nil || !reflect.DeepEqual(in, said("file", "a.example")) {
		t.Errorf("%+v, %v", in, err)
	}
}

func TestForget(t *testing.T) {
	dir := t.TempDir()
	i := open(t, dir)
	for _, source := range []string{"file", "kube", "kube-east", "xds"} {
		i.Save(said(source, "a.example"))
	}
	i.Flush()
	for _, name := range []string{"old.json.new", "notes.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := i.Forget("kube", "xds", "resolve"); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for n, path := range left {
		left[n] = filepath.Base(path)
	}
	if want := []string{"kube.json", "notes.txt", "xds.json"}; !slices.Equal(left, want) {
		t.Errorf("left: %q, want %q", left, want)
	}
}
