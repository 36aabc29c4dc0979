package file

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// TestRoutes reads routes as JSON and as YAML, and says what is wrong with one.
func TestRoutes(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.json": `{"kind":"DNS","apiVersion":"v1","name":"dns-test1","host":"node1.com","paths":[{"address":"10.1.1.10","service":"service1","port":8010}]}`,
		"b.yaml": "kind: DNS\nname: two\nhost: node2.com\npaths:\n- {service: cart.shop, port: 80}\n---\nkind: DNS\nname: bad\nhost: a b\npaths:\n- {service: x, port: 80}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var in mesh.Input
	New(Options{Dir: dir, Routes: true}).read(func(got mesh.Input) { in = got })
	if len(in.Routes) != 2 || in.Routes[0].Host != "node1.com" || in.Routes[1].Paths[0].Path != "/cart.shop/" {
		t.Errorf("%+v", in.Routes)
	}
	if len(in.Problems) != 1 || !strings.Contains(in.Problems[0].Reason, `b.yaml document 2: host "a b"`) {
		t.Errorf("%+v", in.Problems)
	}
	New(Options{Dir: dir}).read(func(got mesh.Input) { in = got })
	if len(in.Routes) != 0 || len(in.Problems) != 3 || !strings.Contains(in.Problems[1].Reason, "set routes.file") {
		t.Errorf("where routes are not served: %+v", in)
	}
}
