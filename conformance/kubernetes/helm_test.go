package kubernetes

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

const chart = "../../install/helm/nodens"

// helm runs the real one.
func (c *cluster) helm(args ...string) string {
	c.t.Helper()
	return c.run(os.Getenv("HELM"), append([]string{"--kubeconfig=/pki/config", "-n", "kube-system"}, args...)...)
}

// platforms holds every kustomization to what Helm makes of the chart with the same values, and has the API
// server judge it, without doing it.
func (c *cluster) platforms() {
	found, err := filepath.Glob("../../install/kustomize/*/kustomization.yaml")
	if err != nil || len(found) < 6 {
		c.t.Fatalf("%v, %v", found, err)
	}
	for _, f := range found {
		dir := filepath.Dir(f)
		have := c.objects(c.kubectl("kustomize", dir))
		values := c.values(filepath.Base(dir), have)
		c.helm("lint", "--strict", chart, "-f", values)
		want := c.objects(c.helm("template", "nodens", chart, "-f", values))
		if !reflect.DeepEqual(have, want) {
			c.t.Errorf("%s has\n%v\nand Helm makes\n%v", dir, have, want)
		}
		c.kubectl("apply", "--dry-run=server", "--validate=strict", "-k", dir)
	}
}

// values writes the chart's values that a kustomization stands for: its platform, and its configuration.
func (c *cluster) values(name string, objects map[string]map[string]any) string {
	c.t.Helper()
	data, _ := objects["ConfigMap nodens"]["data"].(map[string]any)
	config := map[string]any{}
	c.must(yaml.Unmarshal([]byte(fmt.Sprint(data["dnsd.yaml"])), &config))
	delete(config, "listen") // made of other values
	values := map[string]any{"config": config}
	if !slices.Contains([]string{"base", "istio"}, name) {
		values["platform"] = name
	}
	text, err := yaml.Marshal(values)
	path := filepath.Join(c.t.TempDir(), name+".yaml")
	c.must(err, os.WriteFile(path, text, 0o600))
	return path
}

// objects reads what either prints, by kind and name.
func (c *cluster) objects(text string) map[string]map[string]any {
	c.t.Helper()
	all := map[string]map[string]any{}
	for _, doc := range regexp.MustCompile(`(?m)^---$`).Split(text, -1) {
		var object struct {
			Kind     string
			Metadata struct{ Name string }
		}
		whole := map[string]any{}
		c.must(yaml.Unmarshal([]byte(doc), &object), yaml.Unmarshal([]byte(doc), &whole))
		if len(whole) > 0 {
			all[object.Kind+" "+object.Metadata.Name] = whole
		}
	}
	if len(all) < 5 {
		c.t.Fatalf("%d objects only in\n%s", len(all), text)
	}
	return all
}

// helmed is nodens' life on a node by the chart, as README.md and the chart's notes say.
func (c *cluster) helmed() {
	c.apply(client("before", ""))
	c.kubectl("wait", "--for=condition=Ready", "pod", "before", "--timeout=180s")
	said := c.helm("install", "nodens", chart, "--set", "image="+image+":one")
	c.runs("one")
	c.installed()
	c.eventually("the pod from before finds a service", func() error {
		return c.finds("before", "web.default.svc.cluster.local.", c.serviceAddress("web"))
	})
	c.helm("upgrade", "nodens", chart, "--set", "image="+image+":two")
	c.runs("two")
	c.captured("before")
	c.helm("rollback", "nodens", "1")
	c.runs("one")

	for _, line := range []string{
		"kubectl -n kube-system patch daemonset nodens --type json --patch-file install/uninstall.yaml",
		"kubectl -n kube-system rollout status daemonset nodens", "helm -n kube-system uninstall nodens",
	} {
		if !strings.Contains(said, "  "+line+"\n") && !strings.HasSuffix(said, "  "+line) {
			c.t.Errorf("the notes do not say %q:\n%s", line, said)
		}
	}
	c.takeOff()
	c.noStub("before")
	c.helm("uninstall", "nodens")
	c.nobodyRuns()
	c.eventually("nothing is left of the release", func() error {
		return c.has("", "-n", "kube-system", "get", "all,configmaps,serviceaccounts,secrets", "-l", "app.kubernetes.io/name=nodens", "-o", "name")
	})
}
