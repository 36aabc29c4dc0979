package file

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/objects"
)

// A slip in a manifest takes nothing away that worked, and says so.
func TestBrokenEditKeepsWhatWorked(t *testing.T) {
	dir := t.TempDir()
	var before memory
	read := func(wantHosts string, wantKept bool) {
		t.Helper()
		in, good, err := readDir(dir, "cluster.local", before)
		if err != nil {
			t.Fatal(err)
		}
		before = good
		if got := hosts(in); got != wantHosts {
			t.Errorf("hosts %q, want %q; problems %v", got, wantHosts, in.Problems)
		}
		kept := slices.ContainsFunc(in.Problems, func(p mesh.Problem) bool { return strings.Contains(p.Reason, "stays as it was") })
		if kept != wantKept {
			t.Errorf("problems %v", in.Problems)
		}
	}
	write(t, dir, "one.yaml", manifest("a")+"\n---\n"+manifest("b"))
	write(t, dir, "two.yaml", manifest("c"))
	read("a b c", false)

	// A document that is no YAML any more: it may have been either.
	write(t, dir, "one.yaml", manifest("a")+"\n---\nkind: [")
	read("a b c", true)
	read("a b c", true) // and for as long as it is broken

	// An object that is still known by name.
	write(t, dir, "one.yaml", manifest("a")+"\n---\n"+strings.Replace(manifest("b"), "resolution:", "resolutionn:", 1))
	read("a b c", true)

	// What is broken in one file holds nothing in another.
	if err := os.Remove(filepath.Join(dir, "two.yaml")); err != nil {
		t.Fatal(err)
	}
	read("a b", true)

	write(t, dir, "one.yaml", manifest("a"))
	read("a", false)
}

// readDir returns what the folder holds, as a Source does.
func readDir(dir, domain string, before memory) (mesh.Input, memory, error) {
	manifests, err := list(dir)
	if err != nil {
		return mesh.Input{}, before, err
	}
	in, good := decode(manifests, objects.Options{Source: sourceName, ClusterDomain: domain}, before)
	return in, good, nil
}

// What is read again and again is decoded when it has changed, and not before.
func TestDecodedOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	text := "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: ns}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}\n"
	s := New(Options{Dir: dir})
	emitted := 0
	read := func() uintptr {
		s.read(func(mesh.Input) { emitted++ })
		return reflect.ValueOf(s.good).Pointer() // made anew by each decoding
	}
	for i, port := range []string{"80", "81"} {
		if err := os.WriteFile(path, []byte(strings.Replace(text, "80", port, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if first := read(); read() != first || emitted != i+1 {
			t.Errorf("port %s: decoded again for nothing, or not at all: %d inputs", port, emitted)
		}
	}
}
