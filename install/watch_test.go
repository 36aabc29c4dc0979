package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// onNode is an installer of this machine's disk with empty folders.
func onNode(t *testing.T) *installer {
	t.Helper()
	dir := t.TempDir()
	in := &installer{
		bin:     binDir{node{}, filepath.Join(dir, "bin")},
		net:     netd{disk: node{}, dir: filepath.Join(dir, "net.d"), entry: []byte(testEntry), ask: silent},
		program: []byte("#!/bin/true\n"), claims: filepath.Join(dir, "run", "installers"), log: quiet,
	}
	for _, dir := range []string{in.bin.dir, in.net.dir} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(in.bin.dir, "bridge"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(in.bin.dir, "ptp"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	return in
}

func (in *installer) write(t *testing.T, name, data string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(in.net.dir, name)
	if err := os.WriteFile(path, []byte(data), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// runs starts the installer and returns a function that waits until it has made the chain.
func (in *installer) runs(t *testing.T) (chained func(want string)) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- in.run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func(want string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			where, err := in.net.chained()
			if err == nil && filepath.Base(where) == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("chained in %q (%v), want %s", where, err, want)
			}
		}
	}
}

func TestWatchesWhatTheNetworkDoes(t *testing.T) {
	in := onNode(t)
	chained := in.runs(t) // nothing there yet: a node that starts
	list := in.write(t, "10-pods.conflist", testList, 0o640)
	chained("10-pods.conflist")
	if info, err := os.Stat(list); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v (%v) of the list, it was 640", info.Mode(), err)
	}
	if err := in.bin.is(in.program); err != nil {
		t.Error(err)
	}

	in.write(t, "10-pods.conflist", strings.Replace(testList, "bridge", "ptp", 1), 0o640) // rewritten in place
	chained("10-pods.conflist")
	in.write(t, "05-other.conflist", strings.Replace(testList, "pods", "other", 1), 0o600) // another comes first
	chained("05-other.conflist")
	if err := os.Rename(filepath.Join(in.net.dir, "05-other.conflist"), filepath.Join(in.net.dir, "01-new.conflist")); err != nil {
		t.Fatal(err)
	}
	chained("01-new.conflist")
	conf := in.write(t, "00-single.conf", testConf, 0o600) // a single plugin, which has no room for a second
	chained("00-single.conflist")
	if _, err := os.Stat(conf); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s would be loaded before the list: %v", conf, err)
	}
	if err := os.Remove(in.bin.path()); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); in.bin.is(in.program) != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the plugin's file did not come back")
		}
	}
}

// A file that is as it should be is not written: others watch the folder, and may answer each write.
func TestWritesOnlyWhatDiffers(t *testing.T) {
	in := onNode(t)
	path := in.write(t, "10-pods.conflist", testList, 0o600)
	if wrote, err := in.settle(t.Context()); err != nil || !wrote {
		t.Fatal(wrote, err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if wrote, err := in.settle(t.Context()); err != nil || wrote {
		t.Errorf("wrote %v, %v", wrote, err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("the list is another file: %v", err)
	}
}

func TestInvalidFirstFileIsPassedOver(t *testing.T) {
	in := onNode(t)
	in.write(t, "00-broken.conflist", `{"name": "x", "plugins": [`, 0o600)
	in.write(t, "05-empty.conf", "", 0o600)
	if _, err := in.settle(t.Context()); !errors.Is(err, errWait) || !strings.Contains(err.Error(), "00-broken") {
		t.Errorf("%v, want to wait and to know why", err)
	}
	in.write(t, "10-pods.conflist", testList, 0o600)
	if _, err := in.settle(t.Context()); err != nil {
		t.Error(err)
	}
	if where, err := in.net.chained(); filepath.Base(where) != "10-pods.conflist" {
		t.Errorf("%s, %v", where, err)
	}
	if f := in.runtime(t.Context(), true); f.err != nil || !strings.Contains(f.how, "00-broken") || !strings.Contains(f.how, "05-empty") {
		t.Errorf("status says %+v", f)
	}
}

func TestFight(t *testing.T) {
	var f fight
	var pauses []time.Duration
	for range 12 {
		f.round(true)
		pauses = append(pauses, f.pause())
	}
	if pauses[0] != settling || pauses[1] != backOff || pauses[2] != 2*backOff || pauses[11] != backMost {
		t.Error(pauses)
	}
	f.round(false)
	if f.round(true); f.pause() != settling {
		t.Error("peace did not end the back-off")
	}
}

func TestReadOnlyFolder(t *testing.T) {
	in := onNode(t)
	in.write(t, "10-pods.conflist", testList, 0o600)
	in.bin.dir = filepath.Join(in.bin.dir, "missing")
	_, err := in.settle(t.Context())
	if err == nil || !strings.Contains(err.Error(), "--bin-dir") {
		t.Errorf("%v, want a remedy", err)
	}
	if _, err := in.net.chained(); err == nil {
		t.Error("the list names a plugin that is not there")
	}
}

func TestStatus(t *testing.T) {
	in := onNode(t)
	healthy := false
	dnsd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !healthy {
			http.Error(w, "no source has spoken", http.StatusServiceUnavailable)
		}
	}))
	defer dnsd.Close()
	var out strings.Builder
	addr := strings.TrimPrefix(dnsd.URL, "http://")
	if err := show(&out, in.status(t.Context(), addr)); err == nil || !strings.Contains(err.Error(), "4 of 4") {
		t.Errorf("%v\n%s", err, &out)
	}
	if !strings.Contains(out.String(), "no source has spoken") {
		t.Error(out.String())
	}
	in.write(t, "10-pods.conflist", testList, 0o600)
	if _, err := in.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	healthy = true
	out.Reset()
	if err := show(&out, in.status(t.Context(), addr)); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
}
