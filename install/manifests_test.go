package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"

	"sigs.k8s.io/yaml"
)

const base = "kustomize/base/nodens.yaml"

// TestManifests holds the kustomization's objects to those of the chart, which is where they are written.
// UPDATE=1 writes them anew. What the real helm and kustomize make of both is compared in
// conformance/kubernetes.
func TestManifests(t *testing.T) {
	want := "# Written by UPDATE=1 go test ./install -run TestManifests, from helm/nodens.\n" + render(t, nil)
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(base, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != want {
		t.Errorf("%s is not what the chart says: UPDATE=1 go test ./install -run TestManifests", base)
	}
	if objects(t, want) != 5 {
		t.Errorf("%d objects; want account, role, binding, configuration, daemon set", objects(t, want))
	}
}

// TestValues renders the chart with every value set: what is under a condition must be YAML, too.
func TestValues(t *testing.T) {
	text := render(t, map[string]any{
		"platform": "openshift", "port": 9999, "scrape": true,
		"config": map[string]any{"xds": map[string]any{"address": "istiod.istio-system.svc:15012"}},
	})
	if n := objects(t, text); n != 6 {
		t.Errorf("%d objects; want one more than elsewhere on OpenShift", n)
	}
	for _, want := range []string{
		"path: /var/lib/cni/bin", "type: spc_t", "audience: istio-ca", "dnsPolicy: ClusterFirstWithHostNet",
		`listen: ":9999"`, "    xds:\n      address: istiod.istio-system.svc:15012", "port: 9999", `prometheus.io/port: "9999"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// TestPlatforms: a distribution's kustomization makes of the base what the chart makes for that platform.
func TestPlatforms(t *testing.T) {
	for _, platform := range []string{"gke", "k3s", "microk8s", "openshift"} {
		t.Run(platform, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("kustomize", platform, "kustomization.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			var k struct {
				Resources []string `json:"resources"`
				Patches   []struct {
					Patch string `json:"patch"`
				} `json:"patches"`
			}
			if err := yaml.Unmarshal(data, &k); err != nil {
				t.Fatal(err)
			}
			text := render(t, nil)
			for _, r := range k.Resources[1:] { // the first is the base
				more, err := os.ReadFile(filepath.Join("kustomize", platform, r))
				if err != nil {
					t.Fatal(err)
				}
				text += "---\n" + string(more)
			}
			have := byName(t, text)
			patch(t, have["DaemonSet nodens"], k.Patches[0].Patch)
			want := byName(t, render(t, map[string]any{"platform": platform}))
			if !reflect.DeepEqual(have, want) {
				t.Errorf("the kustomization makes\n%v\nthe chart\n%v", have, want)
			}
		})
	}
}

// byName reads objects; all that the chart and its kustomizations have differ in kind and name.
func byName(t *testing.T, text string) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for _, doc := range strings.Split(text, "---\n")[1:] {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		all[fmt.Sprint(o["kind"], " ", o["metadata"].(map[string]any)["name"])] = o
	}
	return all
}

// patch does to an object what a JSON patch says (RFC 6902), with the operations that are used.
func patch(t *testing.T, object map[string]any, text string) {
	t.Helper()
	var ops []struct {
		Op, Path string
		Value    any
	}
	if err := yaml.Unmarshal([]byte(text), &ops); err != nil || len(ops) == 0 {
		t.Fatalf("%d operations, %v", len(ops), err)
	}
	for _, op := range ops {
		var at any = object
		path := strings.Split(op.Path, "/")[1:]
		last := path[len(path)-1]
		for _, step := range path[:len(path)-1] {
			if i, err := strconv.Atoi(step); err == nil {
				at = at.([]any)[i]
			} else {
				at = at.(map[string]any)[step]
			}
		}
		in := at.(map[string]any)
		switch _, there := in[last]; {
		case op.Op == "test" && reflect.DeepEqual(in[last], op.Value):
		case op.Op == "replace" && there, op.Op == "add":
			in[last] = op.Value
		default:
			t.Fatalf("%+v cannot be done to %v", op, in)
		}
	}
}

// render does as helm does, with as many of its functions as the chart uses.
func render(t *testing.T, values map[string]any) string {
	t.Helper()
	data, err := os.ReadFile("helm/nodens/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{}
	if err := yaml.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	for k, v := range values {
		if _, ok := all[k]; !ok {
			t.Fatalf("values.yaml has no %s", k)
		}
		all[k] = v
	}
	charts := template.New("")
	charts.Funcs(template.FuncMap{
		"include": func(name string, with any) (string, error) {
			var out strings.Builder
			err := charts.ExecuteTemplate(&out, name, with)
			return out.String(), err
		},
		"toYaml": func(v any) (string, error) {
			data, err := yaml.Marshal(v)
			return strings.TrimSuffix(string(data), "\n"), err
		},
		"toJson": func(v any) (string, error) {
			data, err := json.Marshal(v)
			return string(data), err
		},
		"nindent": func(n int, s string) string {
			indent := "\n" + strings.Repeat(" ", n)
			return indent + strings.ReplaceAll(s, "\n", indent)
		},
		"list":      func(v ...any) []any { return v },
		"quote":     func(v any) string { return fmt.Sprintf("%q", fmt.Sprint(v)) },
		"sha256sum": func(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) },
		"fail":      func(why string) (string, error) { return "", errors.New(why) },
	})
	files, err := filepath.Glob("helm/nodens/templates/*")
	if err != nil || len(files) < 4 {
		t.Fatalf("templates %v, %v", files, err)
	}
	template.Must(charts.ParseFiles(files...))
	var out bytes.Buffer
	slices.Sort(files)
	for _, f := range files {
		if filepath.Ext(f) != ".yaml" {
			continue
		}
		out.WriteString("---\n")
		data := map[string]any{"Values": all, "Release": map[string]any{"Namespace": "kube-system"}}
		if err := charts.ExecuteTemplate(&out, filepath.Base(f), data); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// objects counts them, each of which must have a kind and a name.
func objects(t *testing.T, text string) int {
	t.Helper()
	n := 0
	for _, doc := range strings.Split(text, "---\n")[1:] {
		var o struct {
			Kind     string `json:"kind"`
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
		}
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if o.Kind == "" || o.Metadata.Name == "" {
			t.Errorf("an object without a kind or a name:\n%s", doc)
		}
		n++
	}
	return n
}
