package runtimes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// two is a containerd 2 that the Makefile has built from its module; $CONTAINERD is the folder it is in.
func two(t *testing.T) edition {
	t.Helper()
	bin := os.Getenv("CONTAINERD")
	if bin == "" {
		t.Fatal("no containerd 2: make conformance-runtimes builds one and says in $CONTAINERD where it is")
	}
	return edition{version: "containerd 2.", bin: bin, config: `version = 3
root = %[1]q
state = %[2]q
[grpc]
  address = %[3]q
[plugins."io.containerd.nri.v1.nri"]
  disable = true # its socket would be the machine's
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "native"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = %[4]q
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [%[5]q]
    conf_dir = %[6]q
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    runtime_path = %[7]q
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = false
`}
}

// TestContainerd2 is the same life with containerd 2, which reads the folder beside the list, so that the list
// stays as it is, and asks for STATUS.
func TestContainerd2(t *testing.T) {
	c := startContainerd(t, two(t))
	c.speak(t, "1.1.0")
	was := c.list(t)
	life(t, c)
	if now := c.list(t); now != was {
		t.Errorf("the list was\n%s\nand is\n%s", was, now)
	}

	calls := c.listen(t)
	if said, ready := c.ready(); !ready {
		t.Error(said)
	}
	p := c.pod("heard", 0, nil)
	captured(t, p)
	p.stop()
	p.remove()
	if said := calls(); said["STATUS"] == 0 || said["ADD"] != 1 || said["DEL"] == 0 {
		t.Errorf("containerd has asked for %v", said)
	}
}

// TestContainerd2List: where nobody is asked what containerd reads, nodens is in the list.
func TestContainerd2List(t *testing.T) {
	c := startContainerd(t, two(t))
	early := c.pod("early", 0, nil)
	untouched(t, early)
	c.socket = ""
	c.install(t)
	late := c.pod("late", 0, nil)
	captured(t, late)
	captured(t, early)
	if now := c.list(t); !strings.Contains(now, `"type":"nodens"`) {
		t.Errorf("the list is\n%s", now)
	}
	for _, p := range []*pod{early, late} {
		p.stop()
		p.remove()
	}
	c.noted(t, 0)
	c.kernelHolds(t, 0)
}

// list is the text of the node's network.
func (s *stage) list(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.networks(), s.Network()+".conflist"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// speak has the node's network be of a version of the specification.
func (s *stage) speak(t *testing.T, version string) {
	t.Helper()
	text := s.list(t)
	now := strings.Replace(text, `"cniVersion": "1.0.0"`, `"cniVersion": "`+version+`"`, 1)
	if now == text {
		t.Fatalf("the list is of no known version:\n%s", text)
	}
	if err := s.WriteNetwork([]byte(now)); err != nil {
		t.Fatal(err)
	}
}

// listen puts an ear before the installed plugin. What it returns counts the verbs heard since.
func (s *stage) listen(t *testing.T) func() map[string]int {
	t.Helper()
	plugin, heard := filepath.Join(s.plugins(), "nodens"), filepath.Join(s.dir, "heard")
	ear := fmt.Sprintf("#!/bin/sh\necho $CNI_COMMAND >>%s\nexec %s\n", heard, plugin+"-itself")
	if err := os.Rename(plugin, plugin+"-itself"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(plugin, []byte(ear), 0o755); err != nil {
		t.Fatal(err)
	}
	return func() map[string]int {
		text, err := os.ReadFile(heard)
		if err != nil {
			t.Error(err)
		}
		counts := map[string]int{}
		for verb := range strings.FieldsSeq(string(text)) {
			counts[verb]++
		}
		return counts
	}
}
