package kubernetes

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Addresses of the one node, and of what Kubernetes gives out.
const (
	nodeAddress   = "10.197.0.10"
	podRange      = "10.244.0.0/24"
	serviceRange  = "10.97.0.0/24"
	clusterDNS    = "10.97.0.10"
	firstService  = "10.97.0.1"
	netDir        = "/etc/cni/net.d"
	binDir        = "/opt/cni/bin"
	network       = netDir + "/10-pods.conflist"
	patience      = 2 * time.Minute // for what takes seconds: the machine may be busy, and slow
	containerdSet = `version = 2
root = "%s/containerd"
state = "/run/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pod:test"
  restrict_oom_score_adj = true # without CAP_SYS_RESOURCE it cannot be lowered
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
`
	kubeletSet = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: /pki/ca.crt}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
clusterDNS: [10.97.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
enforceNodeAllocatable: []
evictionHard: {memory.available: 1Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
oomScoreAdj: 0
resolvConf: /run/resolv.conf
`
	kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: it, cluster: {server: "https://10.197.0.10:6443", certificate-authority: /pki/ca.crt}}]
users: [{name: admin, user: {client-certificate: /pki/admin.crt, client-key: /pki/admin.key}}]
contexts: [{name: it, context: {cluster: it, user: admin}}]
current-context: it
`
	// A list whose every byte can be told, without nodens.
	podNetwork = `{"cniVersion": "1.0.0", "name": "pods", "big": 9007199254740993, "escaped": "<&>",
 "plugins": [
  {"type": "ptp", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
]}
`
)

// cluster is the machine the test runs in, as a node.
type cluster struct {
	t      *testing.T
	folder string
	ended  chan error // of a daemon that was not to end
}

// start brings up a node with everything but nodens; it is ready when this returns.
func start(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, folder: os.Getenv("FOLDER"), ended: make(chan error, 10)}
	c.must(os.RemoveAll(netDir), os.RemoveAll(binDir), os.MkdirAll(netDir, 0o755), os.MkdirAll("/pki", 0o700))
	c.must(os.CopyFS(binDir, os.DirFS(filepath.Join(c.folder, "plugins"))))
	credentials(t, "/pki", nodeAddress, firstService, "127.0.0.1")
	for path, text := range map[string]string{
		"/pki/config": kubeconfig, "/run/kubelet.yaml": kubeletSet, "/run/resolv.conf": "nameserver " + clusterDNS + "\n",
		"/run/containerd.toml": fmt.Sprintf(containerdSet, c.folder), network: podNetwork,
	} {
		c.must(os.WriteFile(path, []byte(text), 0o600))
	}
	// Somebody else's folder and list, which root reads by a capability and no right.
	c.must(os.Chown(netDir, 1000, 1000), os.Chown(network, 1000, 1000))
	// There is no type dummy in some kernels; an empty bridge does as well.
	for _, args := range []string{
		"link set lo up", "link add node0 type bridge", "address add " + nodeAddress + "/24 dev node0",
		"link set node0 up", "route add default via 10.197.0.1 dev node0",
	} {
		c.run("ip", strings.Fields(args)...)
	}
	c.controlPlane()
	c.launch("containerd", "containerd", "--config=/run/containerd.toml")
	c.eventually("containerd answers", func() error { _, err := c.try("ctr", "version"); return err })
	for _, image := range []string{"pod", "nodens-one", "nodens-two"} {
		c.run("ctr", "-n", "k8s.io", "images", "import", filepath.Join(c.folder, image+".tar"))
	}
	c.part("kubelet", "--config=/run/kubelet.yaml", "--kubeconfig=/pki/config", "--hostname-override=node", "--node-ip="+nodeAddress)
	c.part("proxy", "--kubeconfig=/pki/config", "--hostname-override=node", "--proxy-mode=nftables",
		"--cluster-cidr="+podRange, "--conntrack-max-per-core=0", "--oom-score-adj=0")
	c.eventually("the node is ready", func() error {
		return c.has("True", "get", "node", "node", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
	})
	return c
}

func (c *cluster) controlPlane() {
	c.launch("etcd", filepath.Join(c.folder, "parts"), "etcd", "--data-dir=/run/etcd", "--unsafe-no-fsync",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379")
	c.part("apiserver", "--etcd-servers=http://127.0.0.1:2379", "--bind-address="+nodeAddress, "--advertise-address="+nodeAddress,
		"--client-ca-file=/pki/ca.crt", "--tls-cert-file=/pki/apiserver.crt", "--tls-private-key-file=/pki/apiserver.key",
		"--kubelet-preferred-address-types=InternalIP", "--kubelet-client-certificate=/pki/admin.crt", "--kubelet-client-key=/pki/admin.key",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=/pki/accounts.crt",
		"--service-account-signing-key-file=/pki/accounts.key",
		"--authorization-mode=Node,RBAC", "--allow-privileged", "--service-cluster-ip-range="+serviceRange)
	c.eventually("the API server is ready", func() error { return c.has("ok", "get", "--raw", "/readyz") })
	c.part("controllers", "--kubeconfig=/pki/config", "--leader-elect=false",
		"--service-account-private-key-file=/pki/accounts.key", "--root-ca-file=/pki/ca.crt", "--use-service-account-credentials")
	c.part("scheduler", "--kubeconfig=/pki/config", "--leader-elect=false")
}

// part starts one of Kubernetes' parts.
func (c *cluster) part(name string, args ...string) {
	c.launch(name, filepath.Join(c.folder, "parts"), append([]string{name}, args...)...)
}

// launch starts a daemon; its log is shown if the test fails. It ends with the machine.
func (c *cluster) launch(name, program string, args ...string) {
	c.t.Helper()
	log, err := os.Create("/run/" + name + ".log")
	c.must(err)
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	c.must(cmd.Start())
	go func() { c.ended <- fmt.Errorf("%s has ended: %w", name, cmd.Wait()) }()
	c.t.Cleanup(func() {
		if !c.t.Failed() {
			return
		}
		text, _ := os.ReadFile(log.Name())
		c.t.Logf("the end of %s:\n%s", log.Name(), text[max(0, len(text)-3000):])
	})
}

func (c *cluster) must(errs ...error) {
	c.t.Helper()
	for _, err := range errs {
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *cluster) try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out, &stderr)
	}
	return strings.TrimSpace(string(out)), err
}

func (c *cluster) run(name string, args ...string) string {
	c.t.Helper()
	out, err := c.try(name, args...)
	c.must(err)
	return out
}

func (c *cluster) tryKubectl(args ...string) (string, error) {
	return c.try(filepath.Join(c.folder, "parts"), append([]string{"kubectl", "--kubeconfig=/pki/config"}, args...)...)
}

func (c *cluster) kubectl(args ...string) string {
	c.t.Helper()
	out, err := c.tryKubectl(args...)
	c.must(err)
	return out
}

// apply gives the API server objects.
func (c *cluster) apply(objects string) {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), "objects.yaml")
	c.must(os.WriteFile(path, []byte(objects), 0o600))
	c.kubectl("apply", "-f", path)
}

// has fails unless kubectl prints want.
func (c *cluster) has(want string, args ...string) error {
	out, err := c.tryKubectl(args...)
	if err == nil && out != want {
		err = fmt.Errorf("kubectl %s: %q, not yet %q", strings.Join(args, " "), out, want)
	}
	return err
}

// in runs the pods' program in one of them.
func (c *cluster) in(pod string, args ...string) (string, error) {
	return c.tryKubectl(append([]string{"exec", pod, "--", "/pod"}, args...)...)
}

// eventually waits for what is to come.
func (c *cluster) eventually(what string, try func() error) {
	c.t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(200*time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case ended := <-c.ended:
			c.t.Fatal(ended)
		case <-deadline:
			c.t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
	}
}
