package conformance

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadme holds README.md to what is run: each of its commands is a target of the Makefile that CI
// runs, or stands in a script.
func TestReadme(t *testing.T) {
	readme := read(t, "../README.md")
	makefile := read(t, "../Makefile")
	scripts := ""
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, f := range files {
		scripts += read(t, f)
	}
	commands := regexp.MustCompile("(?m)^    ([a-z].*)$").FindAllStringSubmatch(readme, -1)
	for _, m := range commands {
		command, _, _ := strings.Cut(m[1], "#")
		words := strings.Fields(command)
		switch {
		case len(words) > 1 && words[0] == "make":
			if !strings.Contains(makefile, "\n"+words[1]+":") {
				t.Errorf("README.md says %q; the Makefile has no such target", command)
			}
		case len(words) > 1 && words[0] == "dnsd":
			if !regexp.MustCompile(`\bdnsd ` + words[1] + `\b`).MatchString(scripts) {
				t.Errorf("README.md says %q; no script runs it", command)
			}
		case words[0] == "kubectl":
			inCluster(t, command)
		default:
			t.Errorf("README.md says %q; nothing runs it", command)
		}
	}
	if len(commands) < 5 {
		t.Errorf("only %d commands found in README.md: the test reads it wrongly", len(commands))
	}
	for _, field := range yamlFields(t) {
		if !strings.Contains(readme, "`"+field) && !strings.Contains(readme, ", `"+field) {
			t.Errorf("README.md does not explain the setting %s", field)
		}
	}
}

// inCluster wants a command's verb to be one that the test cluster is given, and its files to be there.
func inCluster(t *testing.T, command string) {
	t.Helper()
	cluster := read(t, "kubernetes/kubernetes_test.go")
	ran := false
	for _, word := range strings.Fields(command)[1:] {
		ran = ran || strings.Contains(cluster, `"`+word+`", `) && !strings.HasPrefix(word, "-") && word != "kube-system"
		if strings.HasPrefix(word, "install/") {
			if _, err := os.Stat(filepath.Join("..", word)); err != nil || !strings.Contains(cluster, "../../"+word) {
				t.Errorf("README.md says %q: %s is not used by the test cluster, or not there (%v)", command, word, err)
			}
		}
	}
	if !ran {
		t.Errorf("README.md says %q; the test cluster is not given it", command)
	}
}

// yamlFields are the top-level settings of dnsd, read from their declaration.
func yamlFields(t *testing.T) []string {
	t.Helper()
	source := read(t, "../dnsd/config/config.go")
	_, source, _ = strings.Cut(source, "type Config struct")
	source, _, _ = strings.Cut(source, "\n}")
	var fields []string
	for _, m := range regexp.MustCompile("(?m)^\t\\S.*`json:\"([a-zA-Z]+)").FindAllStringSubmatch(source, -1) {
		fields = append(fields, m[1])
	}
	if len(fields) < 5 {
		t.Fatalf("only %v found in dnsd/config/config.go: the test reads it wrongly", fields)
	}
	return fields
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
