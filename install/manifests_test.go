package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
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
	if read(t, base) != want {
		t.Errorf("%s is not what the chart says: UPDATE=1 go test ./install -run TestManifests", base)
	}
	if n := len(byName(t, want)); n != 5 {
		t.Errorf("%d objects; want account, role, binding, configuration, daemon set", n)
	}
}

// TestValues renders the chart with every value set: what is under a condition must be YAML, too.
func TestValues(t *testing.T) {
	text := render(t, map[string]any{
		"platform": "openshift", "port": 9999, "scrape": true,
		"config": map[string]any{"xds": map[string]any{"address": "istiod.istio-system.svc:15012"}},
	})
	if n := len(byName(t, text)); n != 6 {
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

// TestPlatforms: a kustomization makes of the base what the chart makes with the same values.
func TestPlatforms(t *testing.T) {
	all := map[string]map[string]any{"istio": {"config": istioConfig(t)}}
	for _, platform := range []string{"gke", "k3s", "microk8s", "openshift"} {
		all[platform] = map[string]any{"platform": platform}
	}
	for name, values := range all {
		t.Run(name, func(t *testing.T) {
			have, want := kustomized(t, filepath.Join("kustomize", name)), byName(t, render(t, values))
			if !reflect.DeepEqual(have, want) {
				t.Errorf("the kustomization makes\n%v\nthe chart\n%v", have, want)
			}
		})
	}
	found, err := filepath.Glob("kustomize/*/kustomization.yaml")
	if err != nil || len(found) != len(all)+1 { // the base is one, too
		t.Errorf("%v, %v: some are not compared", found, err)
	}
}

// TestUninstallPatch: the patch fits what the chart makes with any values, and leaves of it what takes nodens off
// in order: the lists, the programs, and as long as it takes the stub.
func TestUninstallPatch(t *testing.T) {
	for _, values := range []map[string]any{nil, {"platform": "openshift", "config": istioConfig(t)}, {"config": map[string]any{}}} {
		type container struct {
			Name           string
			Command        []string
			RestartPolicy  string
			ReadinessProbe any
			LivenessProbe  any
			StartupProbe   any
		}
		var set struct {
			Spec struct {
				Template struct {
					Spec struct{ InitContainers, Containers []container }
				}
			}
		}
		daemons := byName(t, render(t, values))["DaemonSet nodens"]
		text, err := json.Marshal(patched(t, daemons, read(t, "uninstall.yaml")))
		if err != nil {
			t.Fatal(err)
		}
		into(t, string(text), &set)
		spec := set.Spec.Template.Spec
		want := []container{
			{Name: "nodens-install", Command: []string{"nodens-install", "uninstall", "--leave-stub"}},
			{Name: "detach", Command: []string{"dnsd", "detach", "--config=/etc/nodens/dnsd.yaml"}},
			{Name: "stub", Command: []string{"nodens-install", "uninstall", "--stay"}},
		}
		if have := slices.Concat(spec.InitContainers, spec.Containers); !reflect.DeepEqual(have, want) || len(spec.Containers) != 1 {
			t.Errorf("what is left is\n%+v\nwant\n%+v", have, want)
		}
	}
}

// istioConfig is the configuration that values.yaml shows for istiod.
func istioConfig(t *testing.T) map[string]any {
	t.Helper()
	_, example, _ := strings.Cut(read(t, "helm/nodens/values.yaml"), "\n#   config:\n")
	var lines []string
	for line := range strings.SplitSeq(example, "\n") {
		line, more := strings.CutPrefix(line, "#     ")
		if !more {
			break
		}
		lines = append(lines, line)
	}
	config := map[string]any{}
	into(t, strings.Join(lines, "\n"), &config)
	if config["xds"] == nil {
		t.Fatalf("values.yaml's example for istiod is not found: %v", config)
	}
	return config
}
