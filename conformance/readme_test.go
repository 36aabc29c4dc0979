package conformance

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/nodens-dns/nodens/dnsd/config"
)

var (
	fenced   = regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```$")
	indented = regexp.MustCompile("(?m)^    ([a-z].*)$")
	spanned  = regexp.MustCompile("`((?:[A-Z]+=\\S+ )*(?:make|dnsd|nodens-install|kubectl|helm|skopeo) [^`]+)`")
)

// TestReadme holds each command in README.md, on a line of its own or in the text, to what there is: make has
// the target; dnsd and nodens-install have the command and its flags; kubectl and helm are told the same, about
// the same files, in the test with a cluster, and dnsd's lines in a script. (skopeo and a registry are not here:
// TestImage of install/image reads what they would.)
func TestReadme(t *testing.T) {
	readme := read(t, "../README.md")
	prose := fenced.ReplaceAllString(readme, "")
	scripts := all(t, "testdata/script/*.txtar")
	lines, spans := indented.FindAllStringSubmatch(prose, -1), spanned.FindAllStringSubmatch(prose, -1)
	if len(lines) < 10 || len(spans) < 10 {
		t.Fatalf("only %d lines and %d commands in the text: the test reads README.md wrongly", len(lines), len(spans))
	}
	for _, m := range slices.Concat(lines, spans) {
		command, _, _ := strings.Cut(m[1], " # ")
		words := strings.Fields(command)
		for strings.Contains(words[0], "=") { // in make's environment
			words = words[1:]
		}
		switch words[0] {
		case "make":
			if !strings.Contains(read(t, "../Makefile"), "\n"+words[1]+":") {
				t.Errorf("README.md says %q; the Makefile has no such target", command)
			}
		case "dnsd":
			known(t, command, words[1:], all(t, "../dnsd/*.go"))
		case "nodens-install":
			known(t, command, words[1:], all(t, "../install/*.go"))
		case "kubectl", "helm":
			inCluster(t, command, words[1:])
		case "skopeo":
		default:
			t.Errorf("README.md says %q; nothing runs it", command)
		}
	}
	for _, m := range lines {
		if words := strings.Fields(m[1]); words[0] == "dnsd" && !regexp.MustCompile(`\bdnsd `+words[1]+`\b`).MatchString(scripts) {
			t.Errorf("README.md says %q; no script runs it", m[1])
		}
	}
}

// known wants a command and its flags to be declared in a program's sources.
func known(t *testing.T, command string, words []string, sources string) {
	t.Helper()
	if !regexp.MustCompile(`(?:Use: +|ask\()"` + regexp.QuoteMeta(words[0]) + `\b`).MatchString(sources) {
		t.Errorf("README.md says %q; there is no such command", command)
	}
	for _, word := range words[1:] {
		flag, long := strings.CutPrefix(word, "--")
		flag, _, _ = strings.Cut(flag, "=")
		if long && !regexp.MustCompile(`Var\w*\([^"]*"`+regexp.QuoteMeta(flag)+`"`).MatchString(sources) {
			t.Errorf("README.md says %q; there is no flag --%s", command, flag)
		}
	}
}

// inCluster wants the test with a cluster to say a command's verb, and to use its files, which must be there.
func inCluster(t *testing.T, command string, words []string) {
	t.Helper()
	cluster := all(t, "kubernetes/*_test.go")
	if words[0] == "-n" {
		words = words[2:]
	}
	if !strings.Contains(cluster, `("`+words[0]+`", `) && !strings.Contains(cluster, `, "`+words[0]+`", `) {
		t.Errorf("README.md says %q; the test cluster is not told that", command)
	}
	for _, word := range words {
		if _, path, flag := strings.Cut(word, "="); flag {
			word = path
		}
		if !strings.HasPrefix(word, "install/") {
			continue
		}
		if _, err := os.Stat(filepath.Join("..", word)); err != nil || !strings.Contains(cluster, "../../"+word) {
			t.Errorf("README.md says %q: %s is not used with the test cluster, or not there (%v)", command, word, err)
		}
	}
}

// TestReadmeExample: the example that README.md opens with is readme.txtar's, manifest, questions and answers.
func TestReadmeExample(t *testing.T) {
	script := strings.ReplaceAll(read(t, "testdata/script/readme.txtar"), `\`, "")
	blocks := fenced.FindAllStringSubmatch(read(t, "../README.md"), -1)
	found := map[string]bool{}
	for _, m := range blocks {
		switch found[m[1]] = true; {
		case m[1] == "yaml" && strings.HasPrefix(m[2], "apiVersion"):
			if !strings.HasSuffix(script, m[2]) {
				t.Errorf("the script's manifest is not\n%s", m[2])
			}
		case m[1] == "console":
			for line := range strings.Lines(m[2]) {
				line = strings.TrimSpace(line)
				if words := strings.Fields(line); words[0] == "$" { // what is asked, however it is printed
					line = words[len(words)-1]
				}
				if !strings.Contains(script, line) {
					t.Errorf("the script does not have %q", line)
				}
			}
		}
	}
	if !found["yaml"] || !found["console"] {
		t.Errorf("no example in README.md: %v", found)
	}
}

// TestReadmeSettings: whatever dnsd's file may have is in README.md's table; what is inside another setting in
// that one's row.
func TestReadmeSettings(t *testing.T) {
	var rows []string
	for line := range strings.Lines(read(t, "../README.md")) {
		if strings.HasPrefix(line, "| `") {
			rows = append(rows, line)
		}
	}
	seen := 0
	settings(reflect.TypeFor[config.Config](), nil, func(path []string) {
		seen++
		var about strings.Builder
		for _, row := range rows {
			if regexp.MustCompile("^[^|]*\\|[^|]*`" + path[0] + "[.`]").MatchString(row) {
				about.WriteString(row)
			}
		}
		for _, name := range path {
			if !regexp.MustCompile(`\b` + name + `\b`).MatchString(about.String()) {
				t.Errorf("README.md does not explain the setting %s", strings.Join(path, "."))
			}
		}
	})
	if seen < 40 {
		t.Errorf("only %d settings found: the test reads them wrongly", seen)
	}
}

// settings calls f with the path of each setting in t.
func settings(t reflect.Type, path []string, f func([]string)) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t.Name() != "" && t.PkgPath() != reflect.TypeFor[config.Config]().PkgPath() {
		f(path)
		return
	}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			settings(t.Field(i).Type, append(slices.Clone(path), name), f)
		}
	}
}

// TestShippedConfiguration: dnsd starts with each that is shipped. (What the kustomizations beside the base say
// is held to the chart's in install/manifests_test.go.)
func TestShippedConfiguration(t *testing.T) {
	texts := map[string]string{"install/dnsd.yaml": read(t, "../install/dnsd.yaml")}
	for doc := range strings.SplitSeq(read(t, "../install/kustomize/base/nodens.yaml"), "---\n") {
		var object struct{ Data map[string]string }
		unmarshal(t, doc, &object)
		if text, ok := object.Data["dnsd.yaml"]; ok {
			texts["base"] = text
		}
	}
	var istio struct{ Patches []struct{ Patch string } }
	unmarshal(t, read(t, "../install/kustomize/istio/kustomization.yaml"), &istio)
	for _, p := range istio.Patches {
		var operations []struct {
			Path  string
			Value any
		}
		unmarshal(t, p.Patch, &operations)
		if text, ok := operations[0].Value.(string); ok && operations[0].Path == "/data/dnsd.yaml" {
			texts["istio"] = text
		}
	}
	if len(texts) != 3 {
		t.Fatalf("found %v", texts)
	}
	for name, text := range texts {
		path := filepath.Join(t.TempDir(), "dnsd.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Read(path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func unmarshal(t *testing.T, text string, v any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), v); err != nil {
		t.Fatal(err)
	}
}

// all is the text of the files that a pattern matches.
func all(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no %s: %v", pattern, err)
	}
	var text strings.Builder
	for _, f := range files {
		text.WriteString(read(t, f))
	}
	return text.String()
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
