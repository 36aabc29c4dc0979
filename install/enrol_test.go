package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// noting is a plugin that notes pods in the folder it lies in, and what it was called with.
const noting = `#!/bin/sh
cd "${0%/*}" && echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS" >>calls
case $CNI_COMMAND in
CHECK) test -e "$CNI_CONTAINERID.json" || { echo '{"code":101,"msg":"not noted","details":"x"}'; exit 1; } ;;
ADD) test -e full && { echo '{"code":5,"msg":"disk full","details":"make room"}'; exit 1; }
	cat >"$CNI_CONTAINERID.json"
	test -e vanishing && rm -f "$(cat vanishing)"; true ;;
DEL) rm -f "$CNI_CONTAINERID.json" ;;
esac
`

// before is a runtime's folder with pods of the network "pods" and others.
func before(t *testing.T) (e *enroller, dir string, log *bytes.Buffer) {
	t.Helper()
	dir = t.TempDir()
	plugin := filepath.Join(dir, "nodens")
	if err := os.WriteFile(plugin, []byte(noting), 0o755); err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(dir, "results")
	if err := os.Mkdir(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"new": `{"kind":"cniCacheV1","containerId":"new","ifName":"eth0","networkName":"pods","netns":"/proc/self/ns/net",
			"cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAME","web-0"]],
			"capabilityArgs":{"dns":{"Servers":["10.96.0.10"]},"io.kubernetes.cri.pod-annotations":{"a":"b"},"portMappings":[]},
			"result":{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}],"vendor":9007199254740993}}`,
		"old": `{"kind":"cniCacheV1","containerId":"old","ifName":"eth0","networkName":"pods",
			"result":{"cniVersion":"0.4.0","interfaces":[{"name":"cni0"},{"name":"eth0","sandbox":"/proc/self/ns/net"}]}}`,
		"noted": `{"kind":"cniCacheV1","containerId":"noted","ifName":"eth0","networkName":"pods","netns":"/proc/self/ns/net","result":{}}`,
		"other": `{"kind":"cniCacheV1","containerId":"other","ifName":"eth0","networkName":"storage","netns":"/proc/self/ns/net","result":{}}`,
		"dead":  `{"kind":"cniCacheV1","containerId":"dead","ifName":"eth0","networkName":"pods","netns":"/run/netns/gone","result":{}}`,
		"where": `{"kind":"cniCacheV1","containerId":"where","ifName":"eth0","networkName":"pods","result":{}}`,
		"text":  `half of a fi`,
	} {
		if err := os.WriteFile(filepath.Join(cache, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "noted.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	log = new(bytes.Buffer)
	return &enroller{cache: cache, plugin: plugin, log: slog.New(slog.NewTextHandler(log, nil))}, dir, log
}

const enrolEntry = `{"type":"nodens","capabilities":{"dns":true,"io.kubernetes.cri.pod-annotations":true},"stateDir":"/run/x"}`

// calls are what the plugin was called with since they were last asked for.
func calls(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "calls")
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	_ = os.Remove(path)
	return string(data)
}

func TestEnrolsPodsFromBefore(t *testing.T) {
	e, dir, log := before(t)
	if err := e.run(t.Context(), "pods", []byte(enrolEntry)); err != nil {
		t.Fatal(err)
	}
	const want = "CHECK new eth0 IgnoreUnknown=1;K8S_POD_NAME=web-0\nADD new eth0 IgnoreUnknown=1;K8S_POD_NAME=web-0\n" +
		"CHECK noted eth0 \nCHECK old eth0 \nADD old eth0 \n"
	if got := calls(t, dir); got != want {
		t.Errorf("called\n%swant\n%s", got, want)
	}
	var stdin struct {
		CNIVersion, Name, StateDir string
		RuntimeConfig, PrevResult  json.RawMessage
	}
	data, err := os.ReadFile(filepath.Join(dir, "new.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &stdin); err != nil || stdin.CNIVersion != "1.0.0" || stdin.Name != "pods" || stdin.StateDir != "/run/x" ||
		!strings.Contains(string(stdin.PrevResult), "9007199254740993") ||
		string(stdin.RuntimeConfig) != `{"dns":{"Servers":["10.96.0.10"]},"io.kubernetes.cri.pod-annotations":{"a":"b"}}` {
		t.Errorf("%v: %s", err, data)
	}
	if n := strings.Count(log.String(), "is enrolled"); n != 2 {
		t.Errorf("said\n%s", log)
	}
	// All of them are known now.
	if err := e.run(t.Context(), "pods", []byte(enrolEntry)); err != nil || calls(t, dir) != "" {
		t.Errorf("%v, called again", err)
	}
}

func TestEnrolTriesAgain(t *testing.T) {
	e, dir, log := before(t)
	full := filepath.Join(dir, "full")
	if err := os.WriteFile(full, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := e.run(t.Context(), "pods", []byte(enrolEntry)); err == nil || !strings.Contains(err.Error(), "disk full; make room") {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "disk full"); n != 2 { // once for each pod
		t.Errorf("said %d times\n%s", n, log)
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	if err := e.run(t.Context(), "pods", []byte(enrolEntry)); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(e.plugin, 0o600); err != nil {
		t.Fatal(err)
	}
	e.seen = nil
	if err := e.run(t.Context(), "pods", []byte(enrolEntry)); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("without a plugin: %v", err)
	}
}

// A pod that is taken down while it is enrolled leaves nothing: its own DEL came too early.
func TestEnrolOfAPodThatGoes(t *testing.T) {
	e, dir, _ := before(t)
	if err := os.WriteFile(filepath.Join(dir, "vanishing"), []byte(filepath.Join(e.cache, "new")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.run(t.Context(), "pods", []byte(enrolEntry)); err != nil {
		t.Fatal(err)
	}
	if got := calls(t, dir); !strings.Contains(got, "\nDEL new ") || strings.Contains(got, "DEL old") {
		t.Errorf("called\n%s", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "new.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it is still noted")
	}
}

func TestEnrolWithoutARuntime(t *testing.T) {
	e := enroller{cache: filepath.Join(t.TempDir(), "none"), log: quiet}
	if err := e.run(t.Context(), "pods", []byte(enrolEntry)); err != nil {
		t.Error(err)
	}
}

// The number of a pod's process may be somebody else's by now: after a reboot, or a DEL that was lost.
func TestEnrolsNobodyElse(t *testing.T) {
	e, dir, _ := before(t)
	began, err := startTime("/proc/self")
	if err != nil {
		t.Fatal(err)
	}
	if now := time.Now(); began.After(now) || began.Before(now.Add(-24*time.Hour)) {
		t.Errorf("this process began at %v", began)
	}
	for _, pod := range []string{"new", "old", "noted"} {
		if err := os.Chtimes(filepath.Join(e.cache, pod), time.Time{}, began.Add(-time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.run(t.Context(), "pods", []byte(enrolEntry)); err != nil {
		t.Fatal(err)
	}
	if got := calls(t, dir); got != "" {
		t.Errorf("called\n%s", got)
	}
}

// A plugin that takes its time with the pods from before keeps nobody from mending the list.
func TestChainIsMendedWhilePodsAreEnrolled(t *testing.T) {
	e, dir, _ := before(t)
	in := onNode(t)
	in.old = enroller{cache: e.cache, plugin: in.bin.path(), log: quiet}
	gate := filepath.Join(dir, "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	in.program = []byte("#!/bin/sh\necho >" + dir + "/called; exec cat " + gate + "\n") // until somebody writes there
	list := in.write(t, "10-pods.conflist", testList, 0o600)
	chained := in.runs(t)
	chained("10-pods.conflist")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "called")); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("no pod is being enrolled")
		}
	}
	if err := os.WriteFile(list, []byte(testList), 0o600); err != nil {
		t.Fatal(err)
	}
	chained("10-pods.conflist")
}
