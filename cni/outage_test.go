package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/conformance/sandbox"
	"github.com/nodens-dns/nodens/ebpf"
)

// tooLong is more than the plugin's whole patience on a machine with much else to do, and less than
// a plugin takes that waits for a peer without limit.
const tooLong = 10 * time.Second

// Whatever dnsd does, the pod comes and goes, and its file with it.
func TestDaemonInEveryState(t *testing.T) {
	n := newNode(t)
	ns := sandbox.Netns(t)
	hang := func(ctx context.Context, _ attach.Op) error { <-ctx.Done(); return ctx.Err() }
	for name, c := range map[string]struct {
		answer func(context.Context, attach.Op) error
		check  bool // what CHECK says
	}{
		"well": {func(context.Context, attach.Op) error { return nil }, true},
		"slow": {func(ctx context.Context, _ attach.Op) error {
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
			return nil
		}, true},
		"hung":         {hang, true},
		"saying no":    {func(context.Context, attach.Op) error { return errors.New("no free port in the pod") }, false},
		"not there":    {nil, true},
		"never accept": {nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			heard := func() []string {
				return []string{"add c1:eth0 noted=true", "check c1:eth0 noted=true", "del c1:eth0 noted=false"}
			}
			switch {
			case c.answer != nil:
				heard = n.dnsd(t, c.answer)
			case name == "never accept":
				_ = os.Remove(n.bell())
				ln, err := net.Listen("unix", n.bell())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = ln.Close() }()
			}
			do := func(command string) outcome {
				t.Helper()
				o := call{command: command, netns: ns.Path(), stdin: n.conf(t, nil)}.run(t)
				if o.took > tooLong {
					t.Errorf("%s took %v", command, o.took)
				}
				return o
			}
			do("ADD").ok(t, prevResult)
			if got := n.noted(t); len(got) != 1 || got[0].Problem != "" {
				t.Errorf("noted: %+v", got)
			}
			if c.check {
				do("CHECK").ok(t, "")
			} else {
				do("CHECK").fails(t, codeDrifted)
			}
			call{command: "STATUS", stdin: n.conf(t, nil)}.run(t).ok(t, "")
			do("DEL").ok(t, "")
			if got := n.noted(t); len(got) != 0 {
				t.Errorf("noted after DEL: %+v", got)
			}
			want := []string{"add c1:eth0 noted=true", "check c1:eth0 noted=true", "del c1:eth0 noted=false"}
			if got := heard(); !reflect.DeepEqual(got, want) {
				t.Errorf("heard %q; want %q", got, want)
			}
		})
	}
}

// Pins that are missing are put back; a datapath that cannot be attached does not fail the pod, and is
// told to everybody who asks.
func TestDatapath(t *testing.T) {
	n := newNode(t)
	ns := sandbox.Netns(t)
	do := func(command string) outcome {
		t.Helper()
		return call{command: command, netns: ns.Path(), stdin: n.conf(t, nil)}.run(t)
	}
	do("ADD").ok(t, prevResult)
	do("CHECK").ok(t, "")
	n.detach(t)
	do("CHECK").fails(t, codeDrifted)
	// Pods come all at once when a node starts. Only on a machine too slow to load the programs while a
	// pod waits is one ADD not enough.
	deadline := time.Now().Add(time.Minute)
	for attached := false; !attached; {
		var adds sync.WaitGroup
		for range 5 {
			adds.Go(func() {
				if o := do("ADD"); o.err != nil || o.stdout != prevResult {
					t.Errorf("ADD: %+v", o)
				}
			})
		}
		adds.Wait()
		err := ebpf.Attached(n.datapath())
		if attached = err == nil; !attached && time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	do("CHECK").ok(t, "")

	degraded := func(why string) {
		t.Helper()
		o := do("ADD")
		if o.err != nil || o.stdout != prevResult || !strings.Contains(o.stderr, why) || o.took > tooLong {
			t.Errorf("ADD without a datapath: %+v; want it to say %q", o, why)
		}
		if got := n.noted(t); len(got) != 1 || !strings.Contains(got[0].Problem, why) {
			t.Errorf("noted: %+v; want the problem %q", got, why)
		}
		do("CHECK").fails(t, codeDrifted)
		call{command: "STATUS", stdin: n.conf(t, nil)}.run(t).ok(t, "")
		do("DEL").ok(t, "")
	}
	n.detach(t)
	n.bpfPath = filepath.Join(t.TempDir(), "no-bpffs")
	degraded("attach the datapath: ")
	cgroup := n.cgroup
	n.bpfPath, n.cgroup = sandbox.Pins(t), "/no/cgroup"
	degraded("attach the datapath: ")

	// Another process changes the pins and never ends.
	n.bpfPath, n.cgroup = sandbox.Pins(t), cgroup
	if err := os.Mkdir(n.bpfPath, 0o700); err != nil {
		t.Fatal(err)
	}
	pinDir, err := os.Open(n.bpfPath)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(pinDir.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	degraded("not done within")
	if err := pinDir.Close(); err != nil { // and lets go of the lock, for the test's own end
		t.Fatal(err)
	}
}

func TestStatusNeedsAPlaceToNotePods(t *testing.T) {
	n := newNode(t)
	ns := sandbox.Netns(t)
	n.stateDir = filepath.Join(n.stateDir, "file")
	if err := os.WriteFile(n.stateDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	call{command: "STATUS", stdin: n.conf(t, keys{"prevResult": nil})}.run(t).fails(t, codeUnavailable)
	call{command: "ADD", netns: ns.Path(), stdin: n.conf(t, nil)}.run(t).fails(t, 5)
	// A pod must be able to go even so; the runtime's log is told.
	if o := (call{command: "DEL", netns: ns.Path(), stdin: n.conf(t, nil)}).run(t); o.err != nil || o.stderr == "" {
		t.Errorf("DEL: %+v", o)
	}
}

func TestCheckFindsWhatDrifted(t *testing.T) {
	n := newNode(t)
	ns, other := sandbox.Netns(t), sandbox.Netns(t)
	call{command: "ADD", netns: ns.Path(), stdin: n.conf(t, nil)}.run(t).ok(t, prevResult)
	check := func(netns string, changes keys, want string) {
		t.Helper()
		o := call{command: "CHECK", netns: netns, stdin: n.conf(t, changes)}.run(t)
		o.fails(t, codeDrifted)
		if o.err != nil && !strings.Contains(o.err.Msg, want) {
			t.Errorf("%q does not say %q", o.err.Msg, want)
		}
	}
	check(other.Path(), nil, "another network namespace")
	check(ns.Path(), keys{"name": "storage"}, "for network pods and not storage")
	check(ns.Path(), keys{"prevResult": json.RawMessage(`{"ips":[{"address":"10.1.2.4/24"}]}`)}, "10.1.2.4/24")
	file := filepath.Join(n.attachments(), "c1:eth0.json")
	if err := os.Truncate(file, 50); err != nil {
		t.Fatal(err)
	}
	check(ns.Path(), nil, file)
}

func TestGC(t *testing.T) {
	n := newNode(t)
	ns := sandbox.Netns(t)
	inode, err := attach.NetnsInode(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	ref := func(ids ...string) []map[string]string {
		list := []map[string]string{}
		for _, id := range ids {
			list = append(list, map[string]string{"containerID": id, "ifname": "eth0"})
		}
		return list
	}
	null := json.RawMessage("null")
	for name, c := range map[string]struct {
		conf keys
		want string // the IDs that stay
	}{
		"a list":         {keys{"cni.dev/valid-attachments": ref("alive")}, "alive broken foreign"},
		"its old name":   {keys{"cni.dev/attachments": ref("dead")}, "broken dead foreign"},
		"both names":     {keys{"cni.dev/valid-attachments": ref("alive", "dead"), "cni.dev/attachments": ref()}, "alive broken dead foreign"},
		"an empty list":  {keys{"cni.dev/valid-attachments": ref()}, "broken foreign"},
		"another ifname": {keys{"cni.dev/valid-attachments": []keys{{"containerID": "alive", "ifname": "net1"}}}, "broken foreign"},
		"no list":        {nil, "alive broken foreign"},
		"null":           {keys{"cni.dev/valid-attachments": null, "cni.dev/attachments": null}, "alive broken foreign"},
	} {
		t.Run(name, func(t *testing.T) {
			n := *n
			n.stateDir = t.TempDir()
			for _, a := range []attach.Attachment{
				{ContainerID: "alive", Network: "pods", Netns: ns.Path(), NetnsInode: inode},
				{ContainerID: "dead", Network: "pods", Netns: "/run/netns/gone", NetnsInode: inode},
				{ContainerID: "reused", Network: "pods", Netns: ns.Path(), NetnsInode: inode - 1},
				{ContainerID: "foreign", Network: "storage", Netns: "/run/netns/gone"},
			} {
				a.IfName = "eth0"
				if err := attach.Write(n.attachments(), a); err != nil {
					t.Fatal(err)
				}
			}
			broken := filepath.Join(n.attachments(), "broken:eth0.json")
			if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			heard := n.dnsd(t, func(context.Context, attach.Op) error { return nil })
			o := call{command: "GC", stdin: n.conf(t, c.conf)}.run(t)
			o.fails(t, 5)
			if o.err != nil && !strings.Contains(o.err.Msg, broken) {
				t.Errorf("%q does not name %s", o.err.Msg, broken)
			}
			entries, err := os.ReadDir(n.attachments())
			if err != nil {
				t.Fatal(err)
			}
			var stay []string
			for _, e := range entries {
				stay = append(stay, strings.TrimSuffix(e.Name(), ":eth0.json"))
			}
			if got := strings.Join(stay, " "); got != c.want {
				t.Errorf("%q stay; want %q", got, c.want)
			}
			if len(heard())+len(stay) != 5 {
				t.Errorf("dnsd heard %q", heard())
			}
			if err := os.Remove(broken); err != nil {
				t.Fatal(err)
			}
			call{command: "GC", stdin: n.conf(t, c.conf)}.run(t).ok(t, "")
		})
	}
	// A list that cannot be read is not an empty list.
	call{command: "GC", stdin: n.conf(t, keys{"cni.dev/valid-attachments": "all"})}.run(t).fails(t, 6)
}
