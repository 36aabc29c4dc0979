package conformance

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestRights: the role that is shipped allows what dnsd lists and watches, and nothing else.
func TestRights(t *testing.T) {
	groups := map[string]string{
		"core": "", "discovery": "discovery.k8s.io", "istio": "networking.istio.io", "multi": "multicluster.x-k8s.io",
	}
	kind := regexp.MustCompile(`\{[a-zA-Z.]+, (\w+), "([a-z]+)"`) // as package kube lists what it watches
	var wanted []string
	files, err := filepath.Glob("../dnsd/kube/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no sources: %v", err)
	}
	for _, f := range files {
		for _, m := range kind.FindAllStringSubmatch(read(t, f), -1) {
			group, known := groups[m[1]]
			if !known {
				t.Errorf("%s watches %s of %s, a group this test does not know", f, m[2], m[1])
			}
			wanted = append(wanted, group+"/"+m[2])
		}
	}
	if len(wanted) < 5 {
		t.Fatalf("only %v found in dnsd/kube: the test reads it wrongly", wanted)
	}
	var allowed []string
	for _, doc := range strings.Split(read(t, "../install/kustomize/base/nodens.yaml"), "---\n") {
		var role struct {
			Kind  string
			Rules []struct{ APIGroups, Resources, Verbs []string }
		}
		if err := yaml.Unmarshal([]byte(doc), &role); err != nil {
			t.Fatal(err)
		}
		for _, r := range role.Rules {
			if !slices.Equal(r.Verbs, []string{"list", "watch"}) {
				t.Errorf("%v may be done to %v", r.Verbs, r.Resources)
			}
			for _, resource := range r.Resources {
				allowed = append(allowed, strings.Join(r.APIGroups, "+")+"/"+resource)
			}
		}
	}
	slices.Sort(wanted)
	slices.Sort(allowed)
	if !slices.Equal(wanted, allowed) {
		t.Errorf("dnsd asks for %v; the role allows %v", wanted, allowed)
	}
}
