package runtimes_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodens-dns/nodens/conformance/world"
)

// containerd is one with folders of its own, spoken to as kubelet does.
type containerd struct {
	*stage
	t       *testing.T
	version string // as it says itself
	runtime cri.RuntimeServiceClient
}

// edition is a containerd: where its programs are, and how it is configured.
type edition struct {
	version string
	bin     string // "" for Debian's
	config  string
}

func (e edition) program(name string) string { return filepath.Join(e.bin, name) }

// debian is 1.6. Lowering oom_score_adj takes a capability that containers of continuous integration lack.
var debian = edition{version: "containerd 1.6", config: `version = 2
root = %[1]q
state = %[2]q
[grpc]
  address = %[3]q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[4]q
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %[5]q
    conf_dir = %[6]q
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
`}

func startContainerd(t *testing.T, e edition) *containerd {
	t.Helper()
	c := &containerd{stage: newStage(t), t: t}
	config, socket := filepath.Join(c.dir, "config.toml"), filepath.Join(c.dir, "sock")
	text := fmt.Sprintf(e.config, filepath.Join(c.dir, "root"), filepath.Join(c.dir, "state"), socket, image, c.plugins(), c.networks(),
		e.program("containerd-shim-runc-v2"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.daemon(t, e.program("containerd"), "--config", config)
	c.socket, c.version = socket, e.version
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	c.runtime = cri.NewRuntimeServiceClient(conn)
	t.Cleanup(func() {
		c.clear()
		_ = conn.Close()
	})
	eventually(t, c.ready)
	if out, err := c.onNode(nil, e.program("ctr"), "--address", socket, "--namespace", "k8s.io", "images", "import", c.image); err != nil {
		t.Fatalf("import the image: %v\n%s", err, out)
	}
	return c
}

// ready is what kubelet asks for before it gives the node pods.
func (c *containerd) ready() (string, bool) {
	s, err := c.runtime.Status(c.t.Context(), &cri.StatusRequest{})
	yes := 0
	for _, condition := range s.GetStatus().GetConditions() {
		if condition.Status && (condition.Type == cri.RuntimeReady || condition.Type == cri.NetworkReady) {
			yes++
		}
	}
	return fmt.Sprint(s, err), yes == 2
}

// clear takes every sandbox down.
func (c *containerd) clear() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	list, err := c.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		c.t.Error(err)
	}
	for _, p := range list.GetItems() {
		if _, err := c.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			c.t.Error(err)
		}
		if _, err := c.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			c.t.Error(err)
		}
	}
}

// pod is a sandbox and the one container in it.
type pod struct {
	*containerd
	config  *cri.PodSandboxConfig
	id, ctr string
}

// pod makes a pod as kubelet does, the attempt'th of its name.
func (c *containerd) pod(name string, attempt uint32, annotations map[string]string) *pod {
	c.t.Helper()
	p := &pod{containerd: c, config: &cri.PodSandboxConfig{
		Metadata:    &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name, Attempt: attempt},
		Annotations: annotations,
		DnsConfig: &cri.DNSConfig{
			Servers:  []string{world.Nameservers[0].String()},
			Searches: []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local"},
			Options:  []string{"ndots:5"},
		},
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: c.below("kubepods/besteffort/poduid-" + name)},
	}}
	ctx := c.t.Context()
	sandbox, err := c.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: p.config})
	if err != nil {
		c.t.Fatalf("run sandbox %s: %v", name, err)
	}
	p.id = sandbox.PodSandboxId
	made, err := c.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: p.config, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "probe", Attempt: attempt},
		Image:    &cri.ImageSpec{Image: image}, Command: []string{"/probe", "pause"},
	}})
	if err != nil {
		c.t.Fatalf("create container of %s: %v", name, err)
	}
	p.ctr = made.ContainerId
	if _, err := c.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: p.ctr}); err != nil {
		c.t.Fatalf("start container of %s: %v", name, err)
	}
	return p
}

func (p *pod) probe(args ...string) (string, error) {
	r, err := p.runtime.ExecSync(p.t.Context(), &cri.ExecSyncRequest{ContainerId: p.ctr, Cmd: append([]string{"/probe"}, args...), Timeout: 20})
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("exit code %d: %s", r.ExitCode, r.Stderr)
	}
	return string(r.GetStdout()), err
}

func (p *pod) stop() {
	p.t.Helper()
	if _, err := p.runtime.StopPodSandbox(p.t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		p.t.Error(err)
	}
}

// remove has containerd call DEL once more, with an empty netns.
func (p *pod) remove() {
	p.t.Helper()
	if _, err := p.runtime.RemovePodSandbox(p.t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		p.t.Error(err)
	}
}

// die kills the process that holds the sandbox.
func (p *pod) die() {
	p.t.Helper()
	s, err := p.runtime.PodSandboxStatus(p.t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
	var info struct{ Pid int }
	if err == nil {
		err = json.Unmarshal([]byte(s.Info["info"]), &info)
	}
	if err != nil || info.Pid <= 1 {
		p.t.Fatalf("%v: %v", err, s)
	}
	if err := syscall.Kill(info.Pid, syscall.SIGKILL); err != nil {
		p.t.Fatal(err)
	}
	eventually(p.t, func() (string, bool) {
		s, err := p.runtime.PodSandboxStatus(p.t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
		return fmt.Sprint(s, err), err == nil && s.Status.State == cri.PodSandboxState_SANDBOX_NOTREADY
	})
}

// says demands that containerd itself has loaded what was installed, and that folders it does not look in
// are refused.
func (c *containerd) says(t *testing.T) {
	t.Helper()
	eventually(t, func() (string, bool) {
		out, err := c.Install("status", "--runtime-socket", c.socket)
		return fmt.Sprint(out, err), err == nil && strings.Contains(out, c.version)
	})
	if out, err := c.Install("install", "--once", "--runtime-socket", c.socket, "--bin-dir", t.TempDir()); err == nil {
		t.Errorf("a folder of plugins that containerd does not know was taken: %s", out)
	}
}

// TestContainerd is a node's life with Debian's containerd.
func TestContainerd(t *testing.T) { life(t, startContainerd(t, debian)) }

// life of a node: pods from before and after nodens, those that do not want it, one whose sandbox is made
// anew, and dnsd gone.
func life(t *testing.T, c *containerd) {
	early := c.pod("early", 0, nil)
	shyEarly := c.pod("shy-early", 0, map[string]string{"nodens.io/capture": "off"})
	untouched(t, early)
	c.install(t)
	c.says(t)
	captured(t, early)
	untouched(t, shyEarly)
	c.noted(t, 2)

	web := c.pod("web", 0, nil)
	captured(t, web)
	if cgroup, err := web.probe("file", "/proc/self/cgroup"); err != nil || !strings.Contains(cgroup, "/kubepods/besteffort/poduid-web/") {
		t.Errorf("cgroup of the container: %s, %v", cgroup, err)
	}
	for name, annotations := range map[string]map[string]string{
		"ours":    {"nodens.io/capture": "off"},
		"ambient": {"ambient.istio.io/dns-capture": "false"},
		"sidecar": {"proxy.istio.io/config": "proxyMetadata:\n  ISTIO_META_DNS_CAPTURE: \"false\"\n"},
	} {
		p := c.pod(name, 0, annotations)
		untouched(t, p)
		p.stop()
		p.remove()
	}
	wanting := c.pod("wanting", 0, map[string]string{"ambient.istio.io/dns-capture": "false", "nodens.io/capture": "on"})
	captured(t, wanting)
	wanting.stop()
	wanting.remove()
	c.noted(t, 3)

	// Its pause process dies: kubelet makes another sandbox for the same pod, and the old one goes later.
	web.die()
	again := c.pod("web", 1, nil)
	captured(t, again)
	web.stop()
	web.remove()
	captured(t, again)
	c.noted(t, 3)

	// Never in the way.
	if err := c.SignalDnsd(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	untouched(t, again)
	away := c.pod("away", 0, nil)
	untouched(t, away)
	again.stop()
	again.remove()
	if err := c.StartDnsd(true); err != nil {
		t.Fatal(err)
	}
	captured(t, away)
	captured(t, early)

	for _, p := range []*pod{away, early, shyEarly} {
		p.stop()
		p.remove()
	}
	c.noted(t, 0)
	c.kernelHolds(t, 0)
}
