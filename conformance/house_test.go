package conformance

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/nodens-dns/nodens/"

// mayImport is who imports whom among our own packages. The main packages wire everything and are not
// listed; what is not listed here may import nothing of ours.
var mayImport = map[string][]string{
	"cni":           {"cni/attach", "ebpf"},
	"dnsd/pods":     {"dnsd/serve", "dnsd/names", "dnsd/upstream", "ebpf", "cni/attach"},
	"dnsd/answers":  {"dnsd/names", "dnsd/pods", "dnsd/serve", "ebpf"},
	"dnsd/show":     {"dnsd/admin", "dnsd/answers", "dnsd/mesh", "dnsd/names", "dnsd/pods", "dnsd/resolve", "dnsd/serve", "dnsd/upstream", "ebpf"},
	"dnsd/config":   {"dnsd/upstream"},
	"dnsd/keep":     {"dnsd/mesh"},
	"dnsd/machine":  {"cni/attach", "dnsd/upstream", "ebpf"},
	"dnsd/lb":       {"dnsd/mesh", "ebpf"},
	"dnsd/resolve":  {"dnsd/mesh", "dnsd/upstream"},
	"dnsd/serve":    {"dnsd/names", "dnsd/upstream"},
	"dnsd/names":    {"dnsd/mesh"},
	"dnsd/xds":      {"dnsd/mesh"},
	"dnsd/objects":  {"dnsd/mesh"},
	"dnsd/file":     {"dnsd/mesh", "dnsd/objects", "dnsd/routes"},
	"dnsd/etcd":     {"dnsd/mesh", "dnsd/routes"},
	"dnsd/routes":   {"dnsd/mesh"},
	"dnsd/tenure":   {"dnsd/handover"},
	"dnsd/kube":     {"dnsd/mesh", "dnsd/objects"},
	"dnsd/clusters": {"dnsd/keep", "dnsd/mesh"},
}

// leaf stands on the standard library alone, and so may be stood on by everybody.
const leaf = "dnsd/replace"

// owners says which packages may import a library: one owner each, so that the library can be changed
// in one place.
var owners = map[string][]string{
	"github.com/cilium/ebpf":                 {"ebpf"},
	"google.golang.org/grpc":                 {"dnsd/xds"},
	"github.com/envoyproxy/go-control-plane": {"dnsd/xds"},
	"github.com/vishvananda/netns":           {"dnsd/pods", "cni"},
	"github.com/miekg/dns":                   {"dnsd/names", "dnsd/serve", "dnsd/upstream", "dnsd/resolve"},
	"github.com/containernetworking/":        {"cni", "install"},
	"github.com/prometheus/client_golang":    {"dnsd/show", "dnsd/admin"},
	"go.etcd.io/etcd":                        {"dnsd/etcd"},
	"go.uber.org/zap":                        {"dnsd/etcd"},
	"github.com/spf13/cobra":                 {"dnsd", "install"},
	"github.com/google/go-containerregistry": {"install/image"},
	"istio.io/api":                           {"dnsd/objects", "dnsd/file", "dnsd/kube"},
	"k8s.io/":                                {"dnsd/objects", "dnsd/file", "dnsd/kube"},
}

// goFiles calls f for every non-test Go file below the top, with its package's folder. It reads the
// files themselves: a test that asks the go command would be answered from the test cache.
func goFiles(t *testing.T, f func(dir, path string, file *ast.File)) {
	t.Helper()
	top := ".."
	if _, err := os.Stat(filepath.Join(top, "go.mod")); err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != top && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || filepath.Dir(path) == top {
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(top, filepath.Dir(path))
		f(filepath.ToSlash(dir), path, file)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestImports(t *testing.T) {
	goFiles(t, func(dir, path string, file *ast.File) {
		if strings.HasPrefix(dir, "conformance") {
			return
		}
		for _, imp := range file.Imports {
			p := strings.Trim(imp.Path.Value, `"`)
			if ours, ok := strings.CutPrefix(p, module); ok {
				if dir != "dnsd" && ours != leaf && !slices.Contains(mayImport[dir], ours) {
					t.Errorf("%s imports %s, which %s may not", path, ours, dir)
				}
				continue
			}
			if dir == leaf && strings.Contains(p, ".") {
				t.Errorf("%s imports %s, which is not of the standard library", path, p)
			}
			for lib, who := range owners {
				if strings.HasPrefix(p, lib) && !slices.Contains(who, dir) {
					t.Errorf("%s imports %s, which belongs to %v", path, p, who)
				}
			}
		}
	})
}

func TestPackageComments(t *testing.T) {
	seen := map[string]bool{}
	goFiles(t, func(dir, _ string, file *ast.File) {
		seen[dir] = seen[dir] || file.Doc != nil
	})
	for dir, ok := range seen {
		if !ok {
			t.Errorf("package %s has no package comment: say its promise in one sentence", dir)
		}
	}
	if len(seen) < 10 {
		t.Fatalf("only %d packages found: the walk is wrong", len(seen))
	}
}
