package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/conformance/sandbox"
)

// chain is a node with a real bridge plugin before ours and cnitool for a runtime. All of it happens in
// a network namespace that stands for the node's, which takes the bridge along when it goes.
type chain struct {
	*node
	host    *sandbox.NS
	bin     string
	confDir string
	network string
}

func newChain(t *testing.T) *chain {
	n := newNode(t)
	c := &chain{node: n, host: sandbox.Netns(t), bin: t.TempDir(), confDir: t.TempDir()}
	c.network = c.host.Name // unique, so that cnitool's cache is ours alone
	build := exec.Command("go", "build", "-o", c.bin,
		"github.com/containernetworking/cni/cnitool",
		"github.com/containernetworking/plugins/plugins/main/bridge",
		"github.com/containernetworking/plugins/plugins/ipam/host-local")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	if err := os.Link(binary, filepath.Join(c.bin, "nodens")); err != nil {
		t.Fatal(err)
	}
	return c
}

// configure writes the node's network: these plugins, in this version.
func (c *chain) configure(t *testing.T, version string, plugins ...keys) {
	t.Helper()
	data, err := json.Marshal(keys{"cniVersion": version, "name": c.network, "plugins": plugins})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.confDir, "10-pods.conflist"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (c *chain) bridge() keys {
	return keys{"type": "bridge", "bridge": c.network, "isGateway": true, "ipam": keys{
		"type": "host-local", "dataDir": filepath.Join(c.stateDir, "ipam"),
		"ranges": [][]keys{{{"subnet": "10.211.7.0/24"}}, {{"subnet": "fd00:211:7::/64"}}},
	}}
}

func (c *chain) nodens() keys {
	return keys{"type": "nodens", "stateDir": c.stateDir, "bpfPath": c.bpfPath, "cgroup": c.cgroup,
		"capabilities": map[string]bool{"dns": true, "io.kubernetes.cri.pod-annotations": true}}
}

// cnitool runs one of its commands and returns both outputs.
func (c *chain) cnitool(command string, pod *sandbox.NS) (stdout, stderr string, err error) {
	cmd := exec.Command(filepath.Join(c.bin, "cnitool"), command, c.network, pod.Path())
	cmd.Env = append(os.Environ(), "CNI_PATH="+c.bin, "NETCONFPATH="+c.confDir,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0",
		`CAP_ARGS={"dns":{"Servers":["10.96.0.10"]},"io.kubernetes.cri.pod-annotations":{"a":"b"},"cgroupPath":"/kubepods"}`)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = c.host.Do(cmd.Run) // a child starts in the namespace of the thread that makes it
	return o.String(), e.String(), err
}

// must is cnitool when it has to succeed, and in silence.
func (c *chain) must(t *testing.T, command string, pod *sandbox.NS) string {
	t.Helper()
	stdout, stderr, err := c.cnitool(command, pod)
	if err != nil || stderr != "" {
		t.Fatalf("cnitool %s: %v\n%s%s", command, err, stdout, stderr)
	}
	return stdout
}

// leases counts the addresses host-local has given away; their files are named after them.
func (c *chain) leases(t *testing.T) (n int) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(c.stateDir, "ipam", c.network))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err == nil {
			n++
		}
	}
	return n
}

// The addresses eth0 has, as the kernel says.
func eth0(t *testing.T, pod *sandbox.NS) (list []netip.Prefix) {
	t.Helper()
	err := pod.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := link.Addrs()
		for _, a := range addrs {
			if p := netip.MustParsePrefix(a.String()); !p.Addr().IsLinkLocalUnicast() {
				list = append(list, p)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestChainOfRealPlugins(t *testing.T) {
	c := newChain(t)
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			a, b := sandbox.Netns(t), sandbox.Netns(t)
			t.Cleanup(func() {
				for _, pod := range []*sandbox.NS{a, b} {
					_, _, _ = c.cnitool("del", pod) // what a failure has left in cnitool's cache
				}
			})
			c.configure(t, version, c.bridge())
			alone := c.must(t, "add", a)
			c.must(t, "del", a)
			c.configure(t, version, c.bridge(), c.nodens())
			c.must(t, "status", a)
			chained := c.must(t, "add", a)
			if k1, k2 := shape(t, alone), shape(t, chained); !reflect.DeepEqual(k1, k2) {
				t.Errorf("the result has %v; bridge alone gives %v", k2, k1)
			}
			c.must(t, "add", b)

			noted := c.noted(t)
			if len(noted) != 2 {
				t.Fatalf("noted: %+v", noted)
			}
			i := slices.IndexFunc(noted, func(at attach.Attachment) bool { return at.Netns == a.Path() })
			at := noted[i]
			if got := eth0(t, a); !slices.Equal(at.Addresses, got) {
				t.Errorf("noted addresses %v; eth0 has %v", at.Addresses, got)
			}
			if at.Problem != "" || at.PodName != "web-0" || at.Annotations["a"] != "b" || len(at.DNS.Nameservers) != 1 || !at.Alive() {
				t.Errorf("noted: %+v", at)
			}
			if got := c.leases(t); got != 4 {
				t.Errorf("%d leases of two pods with two addresses each", got)
			}
			c.must(t, "check", a)
			c.must(t, "check", b)
			c.must(t, "del", a)
			c.must(t, "del", a)
			if noted := c.noted(t); len(noted) != 1 || noted[0].Netns != b.Path() {
				t.Errorf("noted after DEL: %+v", noted)
			}
			if version == "1.1.0" {
				c.must(t, "gc", b) // cnitool knows no valid attachments, so b goes as well
			} else {
				c.must(t, "del", b)
			}
			if noted := c.noted(t); len(noted) != 0 {
				t.Errorf("noted at the end: %+v", noted)
			}
			// Where DEL of ours failed, bridge would not have given these back.
			if got := c.leases(t); got != 0 {
				t.Errorf("%d leases at the end", got)
			}
		})
	}
}

// What an operator reads in the runtime's log.
func TestChainErrors(t *testing.T) {
	c := newChain(t)
	pod := sandbox.Netns(t)
	bad := c.nodens()
	bad["nameserver"] = []string{"10.0.0.10"}
	for want, plugins := range map[string][]keys{
		"must be called as a chained plugin: there is no prevResult; put": {c.nodens()},
		`unknown key "nameserver" in the nodens section`:                  {c.bridge(), bad},
	} {
		c.configure(t, "1.0.0", plugins...)
		_, stderr, err := c.cnitool("add", pod)
		if err == nil || !strings.Contains(stderr, want) {
			t.Errorf("cnitool add: %v, %q; want %q", err, stderr, want)
		}
		c.must(t, "del", pod)
	}
}

// shape lists the keys of a result and how many interfaces and addresses it has.
func shape(t *testing.T, result string) map[string]int {
	t.Helper()
	var all map[string]any
	if err := json.Unmarshal([]byte(result), &all); err != nil {
		t.Fatalf("%v: %q", err, result)
	}
	m := make(map[string]int)
	for k, v := range all {
		list, _ := v.([]any)
		m[k] = len(list)
	}
	return m
}
