package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/conformance/sandbox"
)

var operations = []string{"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"}

// situation is how things stand when a runtime calls.
type situation struct {
	name string
	// want is what each of operations comes to: ok, in silence; told, a success with a word on stderr; may,
	// either of these; or the code of an error.
	want     string
	conf     keys // changes of the configuration
	stdin    string
	netns    string                                 // other than the pod's; "-" is none
	args     string                                 // CNI_ARGS; "-" is none
	before   string                                 // operations done to the pod, well, before: ADD unless said otherwise
	arrange  func(t *testing.T, n *node)            // changes of the node
	daemon   func(context.Context, attach.Op) error // who answers the bell; nil is nobody
	parallel int                                    // so many at once, each its own pod
}

func inVersion(v string) keys {
	return keys{"cniVersion": v, "prevResult": json.RawMessage(strings.Replace(prevResult, "1.0.0", v, 1))}
}

func well(context.Context, attach.Op) error { return nil }

// situations is the table.
func situations() []situation {
	return []situation{
		//                                    ADD  DEL  CHECK GC   STATUS VERSION
		{name: "valid", want: "               ok   ok   ok    ok   ok     ok", daemon: well},
		{name: "version 1.0.0", want: "       ok   ok   ok    1    1      ok", conf: inVersion("1.0.0")},
		{name: "version 0.4.0", want: "       ok   ok   ok    1    1      ok", conf: inVersion("0.4.0")},
		{name: "version 0.3.1", want: "       ok   ok   1     1    1      ok", conf: inVersion("0.3.1")},
		{name: "version 0.2.0", want: "       1    1    1     1    1      ok", conf: inVersion("0.2.0")},
		{name: "version 2.0.0", want: "       1    1    1     1    1      ok", conf: inVersion("2.0.0")},
		{name: "no prevResult", want: "       7    ok   7     ok   ok     ok", conf: keys{"prevResult": nil}},
		{name: "prevResult null", want: "     7    ok   7     ok   ok     ok", conf: keys{"prevResult": json.RawMessage("null")}},
		{name: "netns gone", want: "          8    ok   8     ok   ok     ok", netns: "/run/netns/nodens-gone"},
		{name: "netns a plain file", want: "  8    ok   8     ok   ok     ok", netns: "/etc/hostname"},
		{name: "netns empty", want: "         4    ok   4     ok   ok     ok", netns: "-"},
		{name: "twice", want: "               ok   ok   ok    ok   ok     ok", before: "ADD ADD"},
		{name: "never added", want: "         ok   ok   101   ok   ok     ok", before: "-"},
		{name: "deleted already", want: "     ok   ok   101   ok   ok     ok", before: "ADD DEL"},
		{name: "unknown key", want: "         7    ok   7     7    7      ok", conf: keys{"nameserver": "10.96.0.10"}},
		{name: "somebody's key", want: "      ok   ok   ok    ok   ok     ok", conf: keys{"example.com/x": 1}},
		{name: "unknown capability", want: "  ok   ok   ok    ok   ok     ok", conf: keys{"runtimeConfig": keys{"portMappings": []int{}}}},
		{name: "unknown CNI_ARGS", want: "    ok   ok   ok    ok   ok     ok", args: "X=1;;=;Y"},
		{name: "no CNI_ARGS", want: "         ok   ok   ok    ok   ok     ok", args: "-"},
		{name: "no runtimeConfig", want: "    ok   ok   ok    ok   ok     ok", conf: keys{"runtimeConfig": nil, "capabilities": nil}},
		{name: "no JSON", want: "             6    6    6     6    6      ok", stdin: "{"},
		{name: "dnsd down", want: "           ok   ok   ok    ok   ok     ok"},
		{name: "dnsd slow", want: "           ok   ok   ok    ok   ok     ok", daemon: slowly},
		{name: "dnsd hung", want: "           ok   ok   ok    ok   ok     ok", daemon: never},
		{name: "dnsd refusing", want: "       ok   ok   100   ok   ok     ok", daemon: refusing},
		{name: "pins missing", want: "        may  ok   100   ok   ok     ok", arrange: otherPins},
		{name: "no bpffs", want: "            told ok   100   ok   ok     ok", arrange: noBPFFS},
		{name: "state folder a file", want: " 5    told 100   5    50     ok", arrange: noFolder},
		{name: "20 in parallel", want: "      ok   ok   ok    ok   ok     ok", daemon: well, parallel: 20},
	}
}

func slowly(ctx context.Context, _ attach.Op) error {
	select {
	case <-ctx.Done():
	case <-time.After(100 * time.Millisecond):
	}
	return nil
}

func never(ctx context.Context, _ attach.Op) error { <-ctx.Done(); return ctx.Err() }

func refusing(context.Context, attach.Op) error { return errors.New("no free port in the pod") }

func otherPins(t *testing.T, n *node) {
	n.bpfPath = sandbox.Pins(t)
	t.Cleanup(func() { n.detach(t) })
}

func noBPFFS(t *testing.T, n *node) { n.bpfPath = filepath.Join(t.TempDir(), "plain") }

func noFolder(t *testing.T, n *node) {
	n.stateDir = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(n.stateDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestMatrix calls every operation in every situation, each on a pod of its own that ADD has noted before,
// and prints what came of it as a table. An error is an object on stdout with its code and a remedy; a
// success says nothing but ADD's result; and whatever happens to it, a DEL leaves nothing noted.
func TestMatrix(t *testing.T) {
	n := newNode(t)
	pod := sandbox.Netns(t)
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-20s %s\n", "", strings.Join(operations, "\t"))
	for _, s := range situations() {
		t.Run(s.name, func(t *testing.T) {
			now := *n
			now.stateDir = t.TempDir()
			want := strings.Fields(s.want)
			got := make([]string, len(operations))
			for i, operation := range operations {
				got[i] = s.call(t, now, pod.Path(), operation)
				if !agrees(got[i], want[i]) {
					t.Errorf("%s: %s; want %s", operation, got[i], want[i])
				}
			}
			fmt.Fprintf(&table, "%-20s %s\n", s.name, strings.Join(got, "\t"))
		})
	}
	t.Log(table.String())
}

func agrees(got, want string) bool {
	return got == want || want == "may" && (got == "ok" || got == "told")
}

// call does the operation in the situation, on a node of its own state, and says what came of it: the
// worst of several.
func (s situation) call(t *testing.T, n node, netns, operation string) string {
	t.Helper()
	n.stateDir = filepath.Join(n.stateDir, operation)
	for before := range strings.FieldsSeq(strings.Trim(cmp.Or(s.before, "ADD"), "-")) {
		call{command: before, netns: netns, stdin: n.conf(t, nil)}.run(t).ok(t, map[string]string{"ADD": prevResult}[before])
	}
	if s.daemon != nil {
		n.dnsd(t, s.daemon)
	}
	if s.arrange != nil {
		s.arrange(t, &n)
	}
	outcomes := make([]string, max(1, s.parallel))
	var calls sync.WaitGroup
	for i := range outcomes {
		c, prev := s.prepare(t, &n, operation, netns)
		if s.parallel > 0 {
			c.id = fmt.Sprintf("c%d", i)
			call{command: "ADD", id: c.id, netns: netns, stdin: n.conf(t, nil)}.run(t).ok(t, prevResult)
		}
		calls.Go(func() { outcomes[i] = c.run(t).said(t, operation, prev) })
	}
	calls.Wait()
	if operation == "DEL" && outcomes[0] == "ok" {
		if left := n.noted(t); len(left) > 0 {
			t.Errorf("DEL leaves %v", left)
		}
	}
	for _, o := range outcomes {
		if o != outcomes[0] {
			return o
		}
	}
	return outcomes[0]
}

// prepare is the call, and the result that ADD is to pass on.
func (s situation) prepare(t *testing.T, n *node, operation, netns string) (c call, prev string) {
	t.Helper()
	changes := keys{"runtimeConfig": keys{"dns": keys{"servers": []string{"10.96.0.10"}}}}
	maps.Copy(changes, s.conf)
	prev = prevResult
	if raw, ok := changes["prevResult"].(json.RawMessage); ok {
		prev = string(raw)
	}
	c = call{command: operation, netns: netns, args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0", stdin: n.conf(t, changes)}
	if s.netns != "" {
		c.netns = strings.Trim(s.netns, "-")
	}
	if s.args != "" {
		c.args = strings.Trim(s.args, "-")
	}
	if s.stdin != "" {
		c.stdin = s.stdin
	}
	return c, prev
}

// said sums the outcome up, and holds it to what is so in every situation.
func (o outcome) said(t *testing.T, operation, prev string) string {
	t.Helper()
	switch {
	case o.took > tooLong:
		t.Errorf("%s took %v", operation, o.took)
	case o.err != nil && o.err.Code != 1 && o.err.Code != 4 && o.err.Code != 6 && o.err.Details == "": // those are skel's
		t.Errorf("%s: an error without a remedy: %+v", operation, *o.err)
	case o.err == nil && operation == "ADD" && o.stdout != prev:
		t.Errorf("ADD passed on %q", o.stdout)
	case o.err == nil && operation != "ADD" && operation != "VERSION" && o.stdout != "":
		t.Errorf("%s said %q", operation, o.stdout)
	}
	switch {
	case o.err != nil:
		return fmt.Sprint(o.err.Code)
	case o.stderr != "":
		return "told"
	}
	return "ok"
}
