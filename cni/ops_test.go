package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/conformance/sandbox"
)

var versions = []string{"0.4.0", "1.0.0", "1.1.0"}

// A pod's whole life, in every version promised, each step twice where that is allowed.
func TestLife(t *testing.T) {
	n := newNode(t)
	ns := sandbox.Netns(t)
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			prev := strings.Replace(prevResult, "1.0.0", v, 1)
			conf := n.conf(t, keys{"cniVersion": v, "prevResult": json.RawMessage(prev)})
			do := func(command, netns string) outcome {
				t.Helper()
				return call{command: command, netns: netns, stdin: conf}.run(t)
			}
			do("CHECK", ns.Path()).fails(t, codeUnknown)
			do("DEL", ns.Path()).ok(t, "") // never added
			do("ADD", ns.Path()).ok(t, prev)
			do("ADD", ns.Path()).ok(t, prev)
			if got := n.noted(t); len(got) != 1 || got[0].Problem != "" {
				t.Errorf("noted: %+v", got)
			}
			do("CHECK", ns.Path()).ok(t, "")
			if v == "1.1.0" {
				do("STATUS", "").ok(t, "")
				do("GC", "").ok(t, "")
			} else {
				for _, command := range []string{"STATUS", "GC"} {
					if o := do(command, ""); o.err == nil || o.err.Code != types.ErrIncompatibleCNIVersion {
						t.Errorf("%s of %s: %+v", command, v, o)
					}
				}
			}
			do("DEL", ns.Path()).ok(t, "")
			if got := n.noted(t); len(got) != 0 {
				t.Errorf("noted after DEL: %+v", got)
			}
			do("DEL", ns.Path()).ok(t, "")
			do("DEL", "").ok(t, "")
			do("DEL", "/run/netns/gone").ok(t, "")
			do("CHECK", ns.Path()).fails(t, codeUnknown)

			// DEL as a runtime does it that has lost its memory, or has none (cnitool).
			do("ADD", ns.Path()).ok(t, prev)
			bare := n.conf(t, keys{"cniVersion": v, "prevResult": nil, "capabilities": nil})
			call{command: "DEL", stdin: bare}.run(t).ok(t, "")
			if got := n.noted(t); len(got) != 0 {
				t.Errorf("noted after a DEL that knew nothing: %+v", got)
			}
		})
	}
	if o := (call{command: "VERSION"}).run(t); o.err != nil || !strings.Contains(o.stdout, `"0.4.0","1.0.0","1.1.0"`) {
		t.Errorf("VERSION: %+v", o)
	}
	if o := (call{command: "ADD", netns: ns.Path(), stdin: n.conf(t, keys{"cniVersion": "0.2.0"})}).run(t); o.err == nil || o.err.Code != types.ErrIncompatibleCNIVersion {
		t.Errorf("ADD of 0.2.0: %+v", o)
	}
}

// What ADD refuses, CHECK and STATUS refuse too, each saying what is wrong; DEL forgives all of it.
func TestBadConfiguration(t *testing.T) {
	n := newNode(t)
	ns := sandbox.Netns(t)
	const statusToo = "ADD CHECK STATUS"
	for name, c := range map[string]struct {
		stdin    string
		code     uint
		want     string // in the error
		commands string
	}{
		"no prevResult":      {n.conf(t, keys{"prevResult": nil}), 7, "chained plugin", "ADD CHECK"},
		"null prevResult":    {n.conf(t, keys{"prevResult": json.RawMessage("null")}), 7, "chained plugin", "ADD CHECK"},
		"prevResult a list":  {n.conf(t, keys{"prevResult": json.RawMessage("[]")}), 6, "prevResult", "ADD CHECK"},
		"misspelt key":       {n.conf(t, keys{"nameserver": []string{"10.0.0.10"}}), 7, `"nameserver"`, statusToo},
		"key in other case":  {n.conf(t, keys{"StateDir": "/x"}), 7, `"StateDir"`, statusToo},
		"not a list":         {n.conf(t, keys{"nameservers": "10.0.0.10"}), 6, "nameservers", statusToo},
		"not an IP":          {n.conf(t, keys{"nameservers": []string{"10.0.0.1", "dns.local"}}), 7, `"dns.local"`, statusToo},
		"bpfPath relative":   {n.conf(t, keys{"bpfPath": "pins"}), 7, "bpfPath", statusToo},
		"cgroup relative":    {n.conf(t, keys{"cgroup": "pods"}), 7, "cgroup", statusToo},
		"cgroup of no text":  {n.conf(t, keys{"cgroup": 1}), 6, "cgroup", statusToo},
		"annotations a list": {n.conf(t, keys{"runtimeConfig": keys{"io.kubernetes.cri.pod-annotations": []int{1}}}), 6, "annotations", statusToo},
	} {
		t.Run(name, func(t *testing.T) {
			for _, command := range strings.Fields(c.commands) {
				o := call{command: command, netns: ns.Path(), stdin: c.stdin}.run(t)
				o.fails(t, c.code)
				if o.err != nil && !strings.Contains(o.err.Msg, c.want) {
					t.Errorf("%s: %q does not name %s", command, o.err.Msg, c.want)
				}
			}
			call{command: "DEL", netns: ns.Path(), stdin: c.stdin}.run(t).ok(t, "")
		})
	}
	for _, stdin := range []string{"", "{", `{"name":`, `["name"]`, "null"} {
		for _, command := range []string{"ADD", "CHECK", "DEL", "GC", "STATUS"} {
			if o := (call{command: command, netns: ns.Path(), stdin: stdin}).run(t); o.err == nil {
				t.Errorf("%s took %q", command, stdin)
			}
		}
	}
	relative := n.conf(t, keys{"stateDir": "run"})
	call{command: "ADD", netns: ns.Path(), stdin: relative}.run(t).fails(t, types.ErrInvalidNetworkConfig)
	if got := n.noted(t); len(got) != 0 {
		t.Errorf("noted: %+v", got)
	}
}

// The result goes on byte for byte, whatever the plugins before us put in it, and the runtime may add
// what it likes to the configuration.
func TestResultIsPassedOn(t *testing.T) {
	n := newNode(t)
	ns := sandbox.Netns(t)
	const vendor = `{ "cniVersion" : "1.0.0", "vendorTop":{"<a>":9007199254740993, "e":1e3},
		"dns":{},"ips":[{"address":"10.1.2.3/24","vendorX":[ null ]}],	"interfaces":[] }`
	for name, c := range map[string]struct{ prev, want string }{
		"vendor keys": {vendor, vendor},
		"no version":  {`{"ips":[]}`, `{"cniVersion":"1.1.0","ips":[]}`},
		"empty":       {`{}`, `{"cniVersion":"1.1.0"}`},
		"unreadable":  {`{"cniVersion":"1.0.0","ips":{"a":1}}`, `{"cniVersion":"1.0.0","ips":{"a":1}}`},
	} {
		t.Run(name, func(t *testing.T) {
			// Not through json.Marshal, which would compact it.
			stdin := strings.Replace(n.conf(t, keys{"prevResult": "HERE"}), `"HERE"`, c.prev, 1)
			o := call{command: "ADD", netns: ns.Path(), stdin: stdin}.run(t)
			if o.err != nil || o.stdout != c.want {
				t.Errorf("got %q\nwant %q", o.stdout, c.want)
			}
			if problem := n.noted(t)[0].Problem; (problem != "") != (name == "unreadable") || (o.stderr != "") != (problem != "") {
				t.Errorf("problem noted: %q, stderr %q", problem, o.stderr)
			}
		})
	}
	added := n.conf(t, keys{
		"cni.dev/attachments": []int{}, "example.com/anything": true, "cniVersions": []string{"1.0.0"}, "disableCheck": true,
		"loadOnlyInlinedPlugins": true, "args": keys{"cni": keys{}}, "ipam": keys{}, "dns": keys{}, "ipMasq": false, "disableGC": true,
		"runtimeConfig": keys{"portMappings": []int{}, "aliases": keys{"pods": []string{"x"}}},
	})
	call{command: "ADD", netns: ns.Path(), stdin: added}.run(t).ok(t, prevResult)
}

func TestWhatIsNoted(t *testing.T) {
	n := newNode(t)
	ns := sandbox.Netns(t)
	cookie, err := ns.Cookie()
	if err != nil {
		t.Fatal(err)
	}
	inode, err := attach.NetnsInode(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	pod := attach.Attachment{
		Version: attach.Version, Network: "pods", ContainerID: "c1", IfName: "eth0",
		Netns: ns.Path(), NetnsInode: inode, NetnsCookie: cookie, Interface: "eth0",
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/24"), netip.MustParsePrefix("fd00::3/64")},
	}
	type change func(*attach.Attachment)
	addrs := func(s ...string) (list []netip.Addr) {
		for _, a := range s {
			list = append(list, netip.MustParseAddr(a))
		}
		return list
	}
	for name, c := range map[string]struct {
		args string
		conf keys
		want change
	}{
		"containerd": {
			"K8S_POD_UID=u-1;IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_NAME=web-0",
			keys{"nameservers": []string{"192.0.2.1"}, "runtimeConfig": keys{
				"dns":                               keys{"Servers": []string{"10.96.0.10", "fd00::a"}, "Searches": []string{"svc.cluster.local"}, "Options": []string{"ndots:5"}},
				"io.kubernetes.cri.pod-annotations": keys{"nodens.io/capture": "off"},
			}},
			func(a *attach.Attachment) {
				a.PodNamespace, a.PodName, a.PodUID = "default", "web-0", "u-1"
				a.DNS = attach.DNS{Nameservers: addrs("10.96.0.10", "fd00::a"), Searches: []string{"svc.cluster.local"}, Options: []string{"ndots:5"}}
				a.Annotations = map[string]string{"nodens.io/capture": "off"}
			},
		},
		"as the specification writes dns": {
			"", keys{"runtimeConfig": keys{"dns": keys{"servers": []string{"10.96.0.10"}, "searches": []string{"a", "b"}}}},
			func(a *attach.Attachment) {
				a.DNS = attach.DNS{Nameservers: addrs("10.96.0.10"), Searches: []string{"a", "b"}}
			},
		},
		"podman, nameservers of the plugin": {
			"IgnoreUnknown=1;K8S_POD_NAME=x=y", keys{"nameservers": []string{"192.0.2.1"}},
			func(a *attach.Attachment) { a.PodName, a.DNS.Nameservers = "x=y", addrs("192.0.2.1") },
		},
		"no CNI_ARGS, no capabilities": {"", keys{"capabilities": nil}, func(*attach.Attachment) {}},
		"CNI_ARGS of a stranger":       {";;=;a;B=c=d;", nil, func(*attach.Attachment) {}},
		"a result that names another interface": {
			"", keys{"prevResult": json.RawMessage(`{"cniVersion":"1.1.0","interfaces":[{"name":"h0"},{"name":"net7","sandbox":"x"}],
				"ips":[{"address":"192.0.2.9/32","interface":0},{"address":"10.9.9.9/32","interface":1}]}`)},
			func(a *attach.Attachment) {
				a.Interface, a.Addresses = "net7", []netip.Prefix{netip.MustParsePrefix("10.9.9.9/32")}
			},
		},
		"a nonsense of addresses": {
			"", keys{"runtimeConfig": keys{"dns": keys{"servers": []string{"x", "10.96.0.10"}}},
				"prevResult": json.RawMessage(`{"cniVersion":"1.1.0","ips":[{"address":"10.9.9.256/32","interface":7},{"address":"10.9.9.9/32","interface":-1}]}`)},
			func(a *attach.Attachment) {
				a.Addresses, a.DNS.Nameservers = []netip.Prefix{netip.MustParsePrefix("10.9.9.9/32")}, addrs("10.96.0.10")
				a.Problem = `prevResult: netip.ParsePrefix("10.9.9.256/32"): ParseAddr("10.9.9.256"): IPv4 field has value >255; ` +
					`runtimeConfig: DNS server "x" is not an IP address`
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if o := (call{command: "ADD", netns: ns.Path(), args: c.args, stdin: n.conf(t, c.conf)}).run(t); o.err != nil {
				t.Fatal(o)
			}
			want := pod
			c.want(&want)
			got := n.noted(t)
			if len(got) != 1 {
				t.Fatalf("noted: %+v", got)
			}
			want.Created = got[0].Created
			if age := time.Since(got[0].Created); age < 0 || age > time.Hour || !reflect.DeepEqual(got[0], want) {
				t.Errorf("got  %+v\nwant %+v", got[0], want)
			}
		})
	}
}

func TestLoIsSetUp(t *testing.T) {
	n := newNode(t)
	ns := sandbox.Netns(t)
	inside := func(f func(lo netlink.Link) error) {
		t.Helper()
		err := ns.Do(func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return f(lo)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	inside(netlink.LinkSetDown)
	for range 2 {
		call{command: "ADD", netns: ns.Path(), stdin: n.conf(t, nil)}.run(t).ok(t, prevResult)
		inside(func(lo netlink.Link) error {
			if lo.Attrs().RawFlags&1 == 0 {
				return errors.New("lo is down")
			}
			return nil
		})
	}
}

// The node's own namespace, too, is none to enrol.
func TestNamespaceThatIsNone(t *testing.T) {
	n := newNode(t)
	unmounted := filepath.Join(t.TempDir(), "unmounted")
	if err := os.WriteFile(unmounted, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/run/netns/gone", unmounted} {
		for _, command := range []string{"ADD", "CHECK"} {
			call{command: command, netns: path, stdin: n.conf(t, nil)}.run(t).fails(t, types.ErrInvalidNetNS)
		}
		call{command: "DEL", netns: path, stdin: n.conf(t, nil)}.run(t).ok(t, "")
	}
	if o := (call{command: "ADD", stdin: n.conf(t, nil)}).run(t); o.err == nil || o.err.Code != types.ErrInvalidEnvironmentVariables {
		t.Errorf("ADD without CNI_NETNS: %+v", o)
	}
	for _, command := range []string{"ADD", "CHECK", "DEL"} {
		want := map[string]string{"ADD": prevResult}[command]
		call{command: command, netns: "/proc/self/ns/net", anyNetns: true, stdin: n.conf(t, nil)}.run(t).ok(t, want)
	}
	if got := n.noted(t); len(got) != 0 {
		t.Errorf("noted: %+v", got)
	}
}

func TestTwentyAtOnce(t *testing.T) {
	n := newNode(t)
	var spaces []*sandbox.NS
	for range 4 {
		spaces = append(spaces, sandbox.Netns(t))
	}
	heard := n.dnsd(t, func(context.Context, attach.Op) error { return nil })
	all := func(command, want string) {
		var calls sync.WaitGroup
		for i := range 20 {
			calls.Go(func() {
				call{command: command, id: fmt.Sprint("c", i), netns: spaces[i%4].Path(), stdin: n.conf(t, nil)}.run(t).ok(t, want)
			})
		}
		calls.Wait()
	}
	all("ADD", prevResult)
	all("CHECK", "")
	if got := n.noted(t); len(got) != 20 {
		t.Errorf("%d noted", len(got))
	}
	all("DEL", "")
	if got := n.noted(t); len(got) != 0 || len(heard()) != 60 {
		t.Errorf("%d noted after DEL, bell heard %d", len(got), len(heard()))
	}
}
