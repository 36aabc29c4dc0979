package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"sigs.k8s.io/yaml"
)

// render does as helm does, with as many of its functions as the chart uses.
func render(t *testing.T, values map[string]any) string {
	t.Helper()
	all := map[string]any{}
	into(t, read(t, "helm/nodens/values.yaml"), &all)
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
		"hasKey":    func(m map[string]any, key string) bool { _, ok := m[key]; return ok },
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

// kustomized does as kustomize does, with as much of it as is used: resources, and JSON patches.
func kustomized(t *testing.T, dir string) map[string]map[string]any {
	t.Helper()
	var k struct {
		APIVersion, Kind string
		Resources        []string
		Patches          []struct {
			Target struct{ Kind, Name string }
			Patch  string
		}
	}
	into(t, read(t, filepath.Join(dir, "kustomization.yaml")), &k)
	all := map[string]map[string]any{}
	for _, r := range k.Resources {
		text := render(t, nil) // as TestManifests holds the base to be
		if r != "../base" {
			text = "---\n" + read(t, filepath.Join(dir, r))
		}
		maps.Copy(all, byName(t, text))
	}
	for _, p := range k.Patches {
		name := p.Target.Kind + " " + p.Target.Name
		all[name] = patched(t, all[name], p.Patch)
	}
	return all
}

// byName reads objects, each of which must have a kind and a name; all that are shipped differ in these.
func byName(t *testing.T, text string) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for _, doc := range strings.Split(text, "---\n")[1:] {
		var meta struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := yaml.Unmarshal([]byte(doc), &meta); err != nil || meta.Kind == "" || meta.Metadata.Name == "" {
			t.Fatalf("an object without a kind or a name (%v):\n%s", err, doc)
		}
		name := meta.Kind + " " + meta.Metadata.Name
		if all[name] != nil {
			t.Fatalf("%s twice", name)
		}
		o := map[string]any{}
		into(t, doc, &o)
		all[name] = o
	}
	return all
}

// patched is the object with a JSON patch (RFC 6902) applied, as kubectl and kustomize do.
func patched(t *testing.T, object map[string]any, patch string) map[string]any {
	t.Helper()
	text, err := yaml.YAMLToJSON([]byte(patch))
	if err != nil {
		t.Fatal(err)
	}
	operations, err := jsonpatch.DecodePatch(text)
	if err != nil || len(operations) == 0 {
		t.Fatalf("%d operations, %v", len(operations), err)
	}
	was, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	now, err := operations.Apply(was)
	if err != nil {
		t.Fatalf("%v by\n%s", err, patch)
	}
	o := map[string]any{}
	into(t, string(now), &o)
	return o
}

// into reads YAML.
func into(t *testing.T, text string, v any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
