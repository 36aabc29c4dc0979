package xds

import (
	"archive/zip"
	"flag"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

var rewrite = flag.Bool("update", false, "write what is seen into testdata/*/*.golden")

// captures are what a real istiod answered, one folder a case. The objects it was given are beside the
// reviewed dumps, in testdata/CASE/input.yaml; the responses, two thirds of a megabyte, are in an archive.
func captures(t *testing.T) fs.FS {
	t.Helper()
	z, err := zip.OpenReader("testdata/captures.zip")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = z.Close() })
	return z
}

// captured returns the resources of one response of a captured case.
func captured(t *testing.T, file string) []*anypb.Any {
	t.Helper()
	data, err := fs.ReadFile(captures(t), file)
	if err != nil {
		t.Fatal(err)
	}
	r := &discoveryv3.DiscoveryResponse{}
	if err := proto.Unmarshal(data, r); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return r.Resources
}

// TestCaptures makes names and frontends of what istiod answered and compares them with the reviewed
// ones.
func TestCaptures(t *testing.T) {
	all := captures(t)
	cases, err := fs.ReadDir(all, ".")
	if err != nil || len(cases) < 20 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, c := range cases {
		folder, err := fs.Sub(all, c.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, variant := range variants(t, folder) {
			t.Run(c.Name()+variant, func(t *testing.T) {
				got := dumpCase(t, folder, variant)
				name := "default"
				if variant != "" {
					name = strings.TrimPrefix(variant, "-")
				}
				if name == "delta" {
					// The other protocol must come to the same.
					name = "default"
				}
				compareGolden(t, filepath.Join("testdata", c.Name(), name+".golden"), got)
			})
		}
	}
}

// TestDump writes the dump of any folder of that shape: CASE names it, DUMP the file to write.
func TestDump(t *testing.T) {
	dir := os.Getenv("CASE")
	if dir == "" {
		dir = "testdata/plain-envoy" // written by hand: listeners and clusters of a control plane that is not Istio
	}
	folder := os.DirFS(dir)
	var out strings.Builder
	for i, variant := range variants(t, folder) {
		if i > 0 {
			out.WriteString("\n\n")
		}
		out.WriteString("== " + path.Base(filepath.ToSlash(dir)) + variant + "\n\n" + dumpCase(t, folder, variant))
	}
	if out.Len() == 0 {
		t.Fatalf("%s has no response: name them cds.pb, eds.pb, lds.pb, nds.pb (or .json), variants cds-VARIANT.pb", dir)
	}
	if file := os.Getenv("DUMP"); file != "" {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	compareGolden(t, filepath.Join(dir, "default.golden"), out.String())
}

func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (make it with -update, then read it)", err)
	}
	if got != string(want) {
		t.Errorf("%s differs; now it is\n%s", path, got)
	}
}
