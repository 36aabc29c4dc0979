package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/conformance/sandbox"
	"github.com/nodens-dns/nodens/ebpf"
)

// binary is the plugin as a runtime executes it, built once.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "nodens-t")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "nodens")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// node is what the plugin finds on a machine, made for one test: a folder for its state, pins and a
// cgroup of its own, with the datapath attached.
type node struct {
	stateDir, bpfPath, cgroup string
}

func newNode(t *testing.T) *node {
	t.Helper()
	sandbox.Root(t)
	n := &node{stateDir: t.TempDir(), bpfPath: sandbox.Pins(t), cgroup: sandbox.Cgroup(t)}
	d, err := ebpf.Ensure(n.datapath())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.detach(t) })
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) datapath() ebpf.Options { return ebpf.Options{CgroupPath: n.cgroup, PinPath: n.bpfPath} }

func (n *node) detach(t *testing.T) {
	t.Helper()
	if err := ebpf.Remove(n.datapath()); err != nil {
		t.Error(err)
	}
}

func (n *node) attachments() string { return filepath.Join(n.stateDir, "attachments") }
func (n *node) bell() string        { return filepath.Join(n.stateDir, "bell.sock") }

// prevResult is what a bridge plugin answers, as far as the plugin after it cares.
const prevResult = `{"cniVersion":"1.0.0","interfaces":[{"name":"cni0"},{"name":"veth1"},{"name":"eth0","sandbox":"/run/netns/x"}],` +
	`"ips":[{"address":"10.1.2.3/24","gateway":"10.1.2.1","interface":2},{"address":"fd00::3/64","interface":2}]}`

// keys are the keys of a configuration; nil takes one out.
type keys map[string]any

// conf is the configuration a runtime passes on stdin, with changes.
func (n *node) conf(t *testing.T, changes keys) string {
	t.Helper()
	all := keys{
		"cniVersion": "1.1.0", "name": "pods", "type": "nodens", "prevResult": json.RawMessage(prevResult),
		"capabilities": map[string]bool{"dns": true, "io.kubernetes.cri.pod-annotations": true},
		"stateDir":     n.stateDir, "bpfPath": n.bpfPath, "cgroup": n.cgroup,
	}
	maps.Copy(all, changes)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	data, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// call is one execution of the plugin.
type call struct {
	command, id, netns, args, stdin string
	anyNetns                        bool // let skel take the node's own namespace
}

type outcome struct {
	stdout, stderr string
	err            *types.Error // what the plugin said it failed with
	took           time.Duration
}

func (c call) run(t *testing.T) outcome {
	t.Helper()
	if c.id == "" {
		c.id = "c1"
	}
	cmd := exec.Command(binary)
	cmd.Env = []string{"CNI_COMMAND=" + c.command, "CNI_CONTAINERID=" + c.id, "CNI_NETNS=" + c.netns,
		"CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin", "CNI_ARGS=" + c.args}
	if c.anyNetns {
		cmd.Env = append(cmd.Env, "CNI_NETNS_OVERRIDE=1")
	}
	cmd.Stdin = bytes.NewReader([]byte(c.stdin))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	o := outcome{stdout: stdout.String(), stderr: stderr.String(), took: time.Since(start)}
	exit, failed := errors.AsType[*exec.ExitError](err)
	switch {
	case failed:
		o.err = new(types.Error)
		if err := json.Unmarshal(stdout.Bytes(), o.err); err != nil || o.err.Code == 0 {
			t.Errorf("%s failed with %v and no error object on stdout: %q, stderr %q", c.command, exit, o.stdout, o.stderr)
		}
	case err != nil:
		t.Fatal(err)
	}
	return o
}

// ok demands success and silence on stderr; ADD answers with want, the others with nothing.
func (o outcome) ok(t *testing.T, want string) {
	t.Helper()
	if o.err != nil || o.stderr != "" || o.stdout != want {
		t.Errorf("want %q and no error, got %q, stderr %q", want, o.stdout, o.stderr)
	}
}

// fails demands an error of this code and a remedy.
func (o outcome) fails(t *testing.T, code uint) {
	t.Helper()
	switch {
	case o.err == nil:
		t.Errorf("want error %d, got %q", code, o.stdout)
	case o.err.Code != code || o.stderr != "":
		t.Errorf("want error %d, got %+v, stderr %q", code, *o.err, o.stderr)
	case o.err.Details == "":
		t.Errorf("error without a remedy: %+v", *o.err)
	}
}

// noted returns the attachments on the node and fails on broken ones.
func (n *node) noted(t *testing.T) []attach.Attachment {
	t.Helper()
	list, errs := attach.List(n.attachments())
	if len(errs) != 0 {
		t.Error(errs)
	}
	return list
}

// dnsd stands at the node's bell until the test ends and answers with f; it returns what it heard,
// and whether the attachment's file was there.
func (n *node) dnsd(t *testing.T, f func(context.Context, attach.Op) error) func() []string {
	t.Helper()
	bell, err := attach.Listen(n.bell())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var heard []string
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- bell.Serve(ctx, func(ctx context.Context, op attach.Op, k attach.Key) error {
			_, err := attach.Find(n.attachments(), k)
			mu.Lock()
			heard = append(heard, fmt.Sprintf("%s %s noted=%v", op, k, err == nil))
			mu.Unlock()
			return f(ctx, op)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), heard...)
	}
}
