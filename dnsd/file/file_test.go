package file

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

var update = flag.Bool("update", false, "write what is seen into testdata/*.golden.json")

// TestFolders reads each folder below testdata and compares the input with the reviewed one.
func TestFolders(t *testing.T) {
	for _, name := range []string{"seeds", "istio", "services"} {
		t.Run(name, func(t *testing.T) {
			in, _, err := readDir("testdata/"+name, "cluster.local", nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(in, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			var again mesh.Input
			if err := json.Unmarshal(got, &again); err != nil || !reflect.DeepEqual(in, again) {
				t.Errorf("does not survive JSON (%v)", err)
			}
			golden := "testdata/" + name + ".golden.json"
			if *update {
				if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatalf("%v (make it with -update, then read it)", err)
			}
			if string(got) != strings.TrimSuffix(string(want), "\n") {
				t.Errorf("%s differs; now it is\n%s", golden, got)
			}
		})
	}
}

// What the seeds become is complete: every name has an address and every address that is balanced a
// cluster, and nothing is left to complain about.
func TestSeedsCompile(t *testing.T) {
	in, _, err := readDir("testdata/seeds", "cluster.local", nil)
	if err != nil {
		t.Fatal(err)
	}
	vips, err := mesh.OpenVIPs("", netip.MustParsePrefix("240.240.0.0/16"), netip.MustParsePrefix("2001:2::/48"))
	if err != nil {
		t.Fatal(err)
	}
	plan := mesh.Compile([]mesh.Input{in}, vips)
	if len(plan.Names) != 7 || len(plan.Watch) != 6 || len(plan.Problems) != 0 || plan.Partial {
		t.Errorf("%d names, %d lookups, problems %+v", len(plan.Names), len(plan.Watch), plan.Problems)
	}
}

const goodEntry = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: good, namespace: ns1}
spec: {hosts: [good.example.com], ports: [{name: tcp, number: 80}], resolution: DNS}
`

// entry is a ServiceEntry called bad with the given spec.
func entry(spec string) string {
	return "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: bad, namespace: ns1}\nspec: {" + spec + "}\n"
}

// TestBrokenDocuments puts each mistake between two good documents: it is reported with its object and
// place, and the good ones work.
func TestBrokenDocuments(t *testing.T) {
	const port = "ports: [{name: tcp, number: 80}], "
	for _, tc := range []struct{ name, doc, object, reason string }{
		{"YAML", "kind: [unclosed\n", "x.yaml document 2", "yaml"},
		{"key twice", "kind: A\nkind: B\n", "x.yaml document 2", `"kind" already set`},
		{"not an object", "- a\n- b\n", "x.yaml document 2", "not a Kubernetes object"},
		{"no name", "apiVersion: v1\nkind: Service\n", "x.yaml document 2", "no metadata.name"},
		{"kind not served", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n", "Deployment default/d", "not served"},
		{"version not served", "apiVersion: networking.istio.io/v9\nkind: ServiceEntry\nmetadata: {name: d}\n", "ServiceEntry default/d", "not served"},
		{"no spec", "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: bad, namespace: ns1}\n", "ServiceEntry ns1/bad", "no spec"},
		{"unknown field", entry("hosts: [x.example.com], resolutionn: DNS"), "ServiceEntry ns1/bad", `"resolutionn"`},
		{"unknown value", entry("hosts: [x.example.com], resolution: DNSS"), "ServiceEntry ns1/bad", `"DNSS"`},
		{"no hosts", entry("resolution: DNS"), "ServiceEntry ns1/bad", "hosts is empty"},
		{"wildcard in the middle", entry(port + "hosts: [a.*.example.com]"), "ServiceEntry ns1/bad", "wildcard"},
		{"only a wildcard", entry(port + `hosts: ["*"]`), "ServiceEntry ns1/bad", "wildcard"},
		{"host twice", entry(port + "hosts: [a.example.com, A.example.com.]"), "ServiceEntry ns1/bad", "twice"},
		{"wildcard to look up", entry(port + `hosts: ["*.example.com"], resolution: DNS`), "ServiceEntry ns1/bad", "list endpoints"},
		{"selector", entry(port + "hosts: [a.example.com], resolution: NONE, workloadSelector: {labels: {a: b}}"), "ServiceEntry ns1/bad", "workloadSelector"},
		{"dynamic DNS", entry(port + `hosts: ["*.example.com"], resolution: DYNAMIC_DNS`), "ServiceEntry ns1/bad", "DYNAMIC_DNS"},
		{"endpoints of NONE", entry(port + "hosts: [a.example.com], endpoints: [{address: 192.0.2.1}]"), "ServiceEntry ns1/bad", "NONE"},
		{"two logical endpoints", entry(port + "hosts: [a.example.com], resolution: DNS_ROUND_ROBIN, endpoints: [{address: a.example.net}, {address: b.example.net}]"), "ServiceEntry ns1/bad", "takes one endpoint, 2"},
		{"again", goodEntry, "ServiceEntry ns1/good", "x.yaml document 1"},
		{"Service field", "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {prots: []}\n", "Service default/s", "prots"},
		{"EndpointSlice type", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\nendpoints: none\n", "EndpointSlice default/s", "endpoints"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			other := strings.NewReplacer("name: good", "name: other", "good.example", "other.example").Replace(goodEntry)
			write(t, dir, "x.yaml", goodEntry+"---\n"+tc.doc+"---\n"+other)
			in, _, err := readDir(dir, "cluster.local", nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := hosts(in); got != "good.example.com other.example.com" {
				t.Errorf("hosts %q", got)
			}
			if len(in.Problems) != 1 {
				t.Fatalf("problems %+v", in.Problems)
			}
			p := in.Problems[0]
			if p.Source != "file" || p.Object != tc.object || !strings.Contains(p.Reason, tc.reason) || !strings.Contains(p.Object+p.Reason, "x.yaml document 2") {
				t.Errorf("problem %+v, want %q with %q", p, tc.object, tc.reason)
			}
		})
	}
}

func TestDocuments(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"one", "a: 1\n", "a: 1"},
		{"none", "# nothing\n", "# nothing"},
		{"empty ones", "---\n---\n\n---\na: 1\n---\n", "a: 1"},
		{"content on the marker's line", "--- {a: 1}\n---\t# two\nb: 2\n", "{a: 1}|# two\nb: 2"},
		{"not markers", "a: |\n  ---\n--- x\n----\n", "a: |\n  ---|x\n----"},
		{"carriage returns", "a: 1\r\n---\r\nb: 2\r\n", "a: 1|b: 2"},
		{"byte order mark", "\xef\xbb\xbfa: 1\n", "a: 1"},
		{"no line feed at the end", "a: 1\n---", "a: 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, d := range documents([]byte(tc.in)) {
				got = append(got, strings.TrimSpace(string(d)))
			}
			if s := strings.Join(got, "|"); s != tc.want {
				t.Errorf("%q, want %q", s, tc.want)
			}
		})
	}
}

// What is not a manifest is passed over, and what cannot be read is reported, without blocking on it.
func TestOtherFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "good.yml", goodEntry)
	write(t, dir, "notes.txt", "kind: [")
	write(t, dir, ".good.yaml.swp", "kind: [")
	write(t, dir, ".hidden.yaml", "kind: [")
	write(t, dir, "comment.yaml", "# later\n")
	if err := os.Mkdir(filepath.Join(dir, "folder.yaml"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling.yaml")); err != nil {
		t.Fatal(err)
	}
	mkfifo(t, filepath.Join(dir, "pipe.yaml"))
	in, _, err := readDir(dir, "cluster.local", nil)
	if err != nil {
		t.Fatal(err)
	}
	var objects []string
	for _, p := range in.Problems {
		objects = append(objects, p.Object)
	}
	if hosts(in) != "good.example.com" || strings.Join(objects, " ") != "folder.yaml pipe.yaml" {
		t.Errorf("hosts %q, problems %+v", hosts(in), in.Problems)
	}
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func hosts(in mesh.Input) string {
	var names []string
	for _, h := range in.Hosts {
		names = append(names, h.Name)
	}
	return strings.Join(names, " ")
}
