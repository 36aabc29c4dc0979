package kubernetes

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// workload is what the cluster runs beside nodens: a nameserver in the place of the cluster's own, which
// knows one name, and a service of two pods.
const workload = `
apiVersion: v1
kind: Pod
metadata: {name: dns, labels: {app: dns}}
spec: {containers: [{name: pod, image: "localhost/pod:test", imagePullPolicy: Never, command: [/pod, dns]}]}
---
apiVersion: v1
kind: Service
metadata: {name: dns}
spec: {clusterIP: 10.97.0.10, selector: {app: dns}, ports: [{port: 53, protocol: UDP}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: pod, image: "localhost/pod:test", imagePullPolicy: Never, command: [/pod, serve, ":8080"]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

// entry is a host of the mesh without an address of its own: only nodens can have given it one.
const entry = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: shop}
spec:
  hosts: [shop.example]
  resolution: STATIC
  ports: [{number: 7000, name: tcp, protocol: TCP, targetPort: 8080}]
  endpoints: [{address: %s}]
`

// client is a pod that asks when it is told to, or does as args say.
func client(name, annotations string, args ...string) string {
	said, err := json.Marshal(args)
	if err != nil {
		panic(err) // strings always marshal
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, annotations: {%s}}
spec: {terminationGracePeriodSeconds: 1, containers: [{name: pod, image: "localhost/pod:test", imagePullPolicy: Never, args: %s}]}
`, name, annotations, said)
}

// TestCluster is one cluster's life with nodens, step by step: each stands on those before it.
func TestCluster(t *testing.T) {
	c := start(t)
	for _, step := range []struct {
		name string
		do   func(*cluster)
	}{
		{"a cluster without nodens", (*cluster).without},
		{"every platform's objects are what Helm makes and are accepted", (*cluster).platforms},
		{"install", (*cluster).install},
		{"confined", (*cluster).confined},
		{"pods from before are captured", (*cluster).before},
		{"pods from after are captured", (*cluster).after},
		{"services resolve and connect", (*cluster).services},
		{"service entries resolve and connect", (*cluster).entries},
		{"an update loses nothing", (*cluster).update},
		{"uninstall", (*cluster).uninstall},
		{"Helm installs and updates and uninstalls", (*cluster).helmed},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.do(&cluster{t, c.folder, c.ended}) }) {
			for _, about := range []string{
				"get pods -A -o wide", "-n kube-system describe pods",
				"-n kube-system logs -l app.kubernetes.io/name=nodens --all-containers --tail=40",
			} {
				t.Log(c.tryKubectl(strings.Fields(about)...))
			}
			t.FailNow()
		}
	}
}

func (c *cluster) without() {
	c.eventually("pods may be made", func() error { return c.has("serviceaccount/default", "get", "serviceaccount", "default", "-o", "name") })
	c.apply(workload)
	c.apply(client("early", ""))
	c.kubectl("rollout", "status", "deployment", "web", "--timeout=180s")
	c.kubectl("wait", "--for=condition=Ready", "pod", "dns", "early", "--timeout=180s")
	c.eventually("the cluster's nameserver answers", func() error { return c.finds("early", "outside.example.", "192.0.2.53") })
	if out, err := c.in("early", "lookup", "web.default.svc.cluster.local."); err == nil {
		c.t.Errorf("web is %s already: what follows would show nothing", out)
	}
}

// install follows README.md: a kustomization of one's own names the image.
func (c *cluster) install() {
	c.deploy("one")
	c.installed()
	out := c.kubectl("-n", "kube-system", "exec", "daemonset/nodens", "-c", "dnsd", "--", "dnsd", "status", "-o", "json")
	var status struct {
		Problems []struct{ Source, Text string }
	}
	c.must(json.Unmarshal([]byte(out), &status))
	if len(status.Problems) > 0 {
		c.t.Errorf("dnsd has problems: %v", status.Problems)
	}
}

// installed holds the node to have plugin, chain and dnsd, and a list that is otherwise as it was.
func (c *cluster) installed() {
	c.t.Helper()
	text, err := os.ReadFile(network)
	c.must(err)
	if n := strings.Count(string(text), `"type":"nodens"`); n != 1 || !strings.Contains(string(text), `"big": 9007199254740993, "escaped": "<&>"`) {
		c.t.Errorf("nodens is %d times in the list, or it is not as it was:\n%s", n, text)
	}
	c.theirs()
	if _, err := os.Stat(binDir + "/nodens"); err != nil {
		c.t.Error(err)
	}
	out := c.kubectl("-n", "kube-system", "exec", "daemonset/nodens", "-c", "nodens-install", "--", "nodens-install", "status")
	if strings.Count(out, " ok ") != 4 { // plugin, chain, runtime, dnsd
		c.t.Error(out)
	}
}

// theirs holds the list to belong to whom it did, who alone could read it.
func (c *cluster) theirs() {
	c.t.Helper()
	if who := c.run("stat", "--format=%u:%g %a", network); who != "1000:1000 600" {
		c.t.Errorf("the list is %s's now", who)
	}
}

// deploy applies README.md's kustomization with a version of the image, and waits until it is there.
func (c *cluster) deploy(version string) {
	c.t.Helper()
	dir, err := os.MkdirTemp("", "kustomization-")
	c.must(err)
	readme, err := os.ReadFile("../../README.md")
	c.must(err)
	ours := regexp.MustCompile("(?m)^resources: \\[install/kustomize/base\\]\nimages: .*$").FindString(string(readme))
	base, err := filepath.Rel(dir, mustAbs("../../install/kustomize/base"))
	c.must(err)
	text := strings.NewReplacer("install/kustomize/base", base, "newTag: v1}", "newTag: "+version+"}").Replace(ours)
	if !strings.Contains(text, image) || !strings.Contains(text, version) {
		c.t.Fatalf("README.md's kustomization does not name %s: %q", image, ours)
	}
	c.must(os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600))
	c.kubectl("apply", "-k", dir)
	c.runs(version)
}

// runs waits until the node runs a version.
func (c *cluster) runs(version string) {
	c.t.Helper()
	c.kubectl("-n", "kube-system", "rollout", "status", "daemonset", "nodens", "--timeout=180s")
	c.eventually("version "+version, func() error {
		return c.has(version, "-n", "kube-system", "exec", "daemonset/nodens", "-c", "dnsd", "--", "dnsd", "version")
	})
}

// confined: no more than the capabilities that are named, and a filter of system calls.
func (c *cluster) confined() {
	const both = 1<<12 | 1<<21 // CAP_NET_ADMIN, CAP_SYS_ADMIN: capability.h
	for program, want := range map[string]uint64{
		"dnsd": both, "nodens-install": both | 1<<0 | 1<<1, // CAP_CHOWN, CAP_DAC_OVERRIDE
	} {
		pids := strings.Fields(c.run("pidof", program))
		if len(pids) != 1 {
			c.t.Fatalf("%s runs as %v", program, pids)
		}
		status, err := os.ReadFile("/proc/" + pids[0] + "/status")
		c.must(err)
		if !strings.Contains(string(status), fmt.Sprintf("CapBnd:\t%016x\n", want)) || !strings.Contains(string(status), "Seccomp:\t2\n") {
			c.t.Errorf("%s is not confined:\n%s", program, status)
		}
		_, err = os.Stat("/proc/" + pids[0] + "/root/var/run/secrets/kubernetes.io/serviceaccount/token")
		if program == "dnsd" && err != nil || program != "dnsd" && !errors.Is(err, os.ErrNotExist) {
			c.t.Errorf("the service account's token in the place of %s: %v", program, err)
		}
	}
}

func (c *cluster) before() {
	c.eventually("the pod from before finds a service", func() error { return c.finds("early", "web.default.svc.cluster.local.", c.serviceAddress("web")) })
	c.captured("early")
	if err := c.finds("early", "outside.example.", "192.0.2.53"); err != nil {
		c.t.Error(err)
	}
}

func (c *cluster) after() {
	c.apply(client("late", ""))
	c.apply(client("alone", `nodens.io/capture: "off"`))
	c.kubectl("wait", "--for=condition=Ready", "pod", "late", "alone", "--timeout=180s")
	c.captured("late")
	if err := c.finds("late", "web", c.serviceAddress("web")); err != nil { // by the pod's search list
		c.t.Error(err)
	}
	if out, err := c.in("alone", "lookup", "web.default.svc.cluster.local."); err == nil {
		c.t.Errorf("a pod that opted out found %s", out)
	}
}

func (c *cluster) captured(pod string) {
	c.t.Helper()
	out := c.kubectl("-n", "kube-system", "exec", "daemonset/nodens", "-c", "dnsd", "--", "dnsd", "pods")
	if !regexp.MustCompile(`(?m)default/` + pod + `\b.*` + regexp.QuoteMeta(clusterDNS)).MatchString(out) {
		c.t.Errorf("%s is not captured:\n%s", pod, out)
	}
}

func (c *cluster) serviceAddress(name string) string {
	c.t.Helper()
	return c.kubectl("get", "service", name, "-o", "jsonpath={.spec.clusterIP}")
}

// finds fails unless the pod's own resolver says that name has the one address.
func (c *cluster) finds(pod, name, address string) error {
	out, err := c.in(pod, "lookup", name)
	if err == nil && out != address {
		err = fmt.Errorf("%s is %q for %s, want %s", name, out, pod, address)
	}
	return err
}

// services: both pods of the service answer, and one that is made meanwhile does soon.
func (c *cluster) services() {
	for _, from := range []string{"early", "late"} {
		seen := map[string]bool{}
		c.eventually("both pods of web answer "+from, func() error {
			out, err := c.in(from, "dial", "web.default.svc.cluster.local:80")
			if seen[out] = err == nil; err == nil && len(seen) < 2 {
				err = fmt.Errorf("only %v so far", seen)
			}
			return err
		})
	}
	c.apply("apiVersion: v1\nkind: Service\nmetadata: {name: anew}\nspec: {selector: {app: web}, ports: [{port: 81, targetPort: 8080}]}\n")
	c.eventually("a new service", func() error { _, err := c.in("late", "dial", "anew:81"); return err })
}

func (c *cluster) entries() {
	c.kubectl("apply", "--server-side", "-f", filepath.Join(c.folder, "istio.yaml"))
	c.kubectl("wait", "--for=condition=Established", "crd/serviceentries.networking.istio.io", "--timeout=180s")
	pod := c.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name} {.items[0].status.podIP}")
	name, address, _ := strings.Cut(pod, " ")
	c.apply(fmt.Sprintf(entry, address))
	for _, from := range []string{"early", "late"} {
		c.eventually(from+" reaches a host of the mesh", func() error {
			out, err := c.in(from, "dial", "shop.example:7000")
			if err == nil && out != name {
				err = fmt.Errorf("%s answered, not %s", out, name)
			}
			return err
		})
		if out, err := c.in(from, "lookup", "shop.example"); err != nil || !strings.HasPrefix(out, "240.241.") {
			c.t.Errorf("shop.example is %s, %v; want a virtual address", out, err)
		}
	}
}

// update puts another version in the place of the first, and back, while a pod asks and connects without a
// second try.
func (c *cluster) update() {
	address := c.serviceAddress("web")
	c.apply(client("load", "", "load", "web.default.svc.cluster.local.", address, address+":80"))
	c.kubectl("wait", "--for=condition=Ready", "pod", "load", "--timeout=180s")
	c.eventually("the load is captured and running", func() error { _, err := c.loaded(1); return err })
	for _, v := range []string{"two", "one"} {
		c.deploy(v)
		c.eventually("nobody but version "+v, func() error {
			return c.has("1", "-n", "kube-system", "get", "daemonset", "nodens", "-o", "jsonpath={.status.updatedNumberScheduled}")
		})
	}
	was, err := c.loaded(1)
	c.must(err)
	c.eventually("the load goes on", func() error { _, err := c.loaded(was + 20); return err })
	c.t.Log(c.in("load", "look"))
	c.kubectl("delete", "pod", "load")
}

// loaded returns the least count of what went well, and fails if it is less, or anything did not.
func (c *cluster) loaded(least int) (int, error) {
	out, err := c.in("load", "look")
	if err != nil {
		return 0, err
	}
	if failed := regexp.MustCompile(`(?m)^.*bad=[1-9].*$`).FindAllString(out, -1); failed != nil {
		c.t.Fatalf("lost: %s", strings.Join(failed, "; "))
	}
	smallest := 0
	for i, m := range regexp.MustCompile(`good=(\d+)`).FindAllStringSubmatch(out, -1) {
		n := 0
		_, _ = fmt.Sscan(m[1], &n) // digits
		if i == 0 || n < smallest {
			smallest = n
		}
	}
	if smallest < least {
		err = fmt.Errorf("not yet %d:\n%s", least, out)
	}
	return smallest, err
}

// uninstall takes nodens off again as README.md says, and with it what the kustomization made.
func (c *cluster) uninstall() {
	c.takeOff()
	c.apply(client("last", ""))
	c.kubectl("wait", "--for=condition=Ready", "pod", "last", "--timeout=180s")
	for _, pod := range []string{"early", "last"} {
		c.eventually(pod+" is left with the cluster's nameserver", func() error { return c.finds(pod, "outside.example.", "192.0.2.53") })
		if out, err := c.in(pod, "lookup", "shop.example"); err == nil {
			c.t.Errorf("%s still finds shop.example: %s", pod, out)
		}
	}
	c.noStub("early", "late", "alone", "last")
	c.kubectl("delete", "-k", mustAbs("../../install/kustomize/base"), "--timeout=180s")
	c.nobodyRuns()
}

// takeOff follows install/uninstall.yaml, and wants a node that is as it was but for a stub.
func (c *cluster) takeOff() {
	c.t.Helper()
	c.kubectl("-n", "kube-system", "patch", "daemonset", "nodens", "--type=json", "--patch-file=../../install/uninstall.yaml")
	c.kubectl("-n", "kube-system", "rollout", "status", "daemonset", "nodens", "--timeout=180s")
	if text, err := os.ReadFile(network); err != nil || string(text) != podNetwork {
		c.t.Errorf("the list is not what it was (%v):\n%s", err, text)
	}
	c.theirs()
	if _, err := os.Stat("/sys/fs/bpf/nodens"); !errors.Is(err, os.ErrNotExist) {
		c.t.Errorf("programs are still pinned: %v", err)
	}
}

// noStub deletes pods, and with them goes the stub.
func (c *cluster) noStub(pods ...string) {
	c.t.Helper()
	c.kubectl(append([]string{"delete", "pods", "--timeout=180s"}, pods...)...)
	c.eventually("the stub goes with the last pod that needs it", func() error {
		if _, err := os.Stat(binDir + "/nodens"); !errors.Is(err, os.ErrNotExist) {
			return errors.Join(errors.New(binDir+"/nodens is there"), err)
		}
		return nil
	})
}

func (c *cluster) nobodyRuns() {
	c.t.Helper()
	c.eventually("nothing of ours runs", func() error {
		if out, err := c.try("pidof", "dnsd", "nodens-install"); err == nil {
			return fmt.Errorf("processes %s", out)
		}
		return nil
	})
}
