package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// leaving is an uninstaller of the installer's node, with an empty cache of libcni's.
func (in *installer) leaving(t *testing.T) *uninstaller {
	t.Helper()
	return &uninstaller{bin: in.bin, net: in.net, cache: t.TempDir(), stub: []byte("stub"), claims: in.claims, log: quiet}
}

// sandbox has libcni remember a pod that was made with the list as it is, in the namespace at netns.
func (u *uninstaller) sandbox(t *testing.T, name, list, netns string) (path string) {
	t.Helper()
	text, err := json.Marshal(map[string]string{
		"kind": "cniCacheV1", "containerId": name, "netns": netns, "config": base64.StdEncoding.EncodeToString([]byte(list)),
	})
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(u.cache, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const chainedList = `{"name":"pods","plugins":[{"type":"bridge"},{"type":"nodens"}]}`

func TestUninstall(t *testing.T) {
	in := onNode(t)
	list := in.write(t, "10-pods.conflist", testList, 0o600)
	if _, err := in.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	patched, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	u := in.leaving(t)
	kept := u.sandbox(t, "pods-1234-eth0", string(patched), "/run")
	if err := u.run(t.Context(), tillTried); err == nil || !strings.Contains(err.Error(), "1 sandbox was made with nodens in its list: pods-1234-eth0") {
		t.Errorf("%v, want to be told of the sandbox", err)
	}
	if data, err := os.ReadFile(list); err != nil || string(data) != testList {
		t.Errorf("the list is %s (%v)", data, err)
	}
	if err := u.run(t.Context(), tillListed); err != nil {
		t.Errorf("the lists are done: %v", err)
	}
	if err := in.bin.is(u.stub); err != nil {
		t.Error(err)
	}
	if err := os.Remove(kept); err != nil {
		t.Fatal(err)
	}
	if err := u.run(t.Context(), tillFree); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(in.bin.path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the plugin's file: %v", err)
	}
	if err := u.run(t.Context(), tillTried); err != nil {
		t.Errorf("uninstall of nothing: %v", err)
	}
}

// The stub must be let go by itself: a wait that is called off says so.
func TestUninstallWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlatter(map[string]file{
			"/bin/nodens":   {data: []byte("old"), mode: 0o755},
			"/cache/x-eth0": {data: []byte(`{"kind":"cniCacheV1","netns":"/run","config":"` + base64.StdEncoding.EncodeToString([]byte(`{"name":"n","plugins":[`+testEntry+`]}`)) + `"}`)},
		})
		u := uninstaller{bin: binDir{p, "/bin"}, net: netd{disk: p, dir: "/net", ask: silent}, cache: "/cache", stub: []byte("stub"), claims: t.TempDir(), log: quiet}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := u.run(ctx, tillFree); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// Where what ends is started again, an uninstaller stays when all is done, and its end is no failure.
func TestUninstallStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlatter(map[string]file{"/bin/nodens": {data: []byte("old"), mode: 0o755}})
		u := uninstaller{bin: binDir{p, "/bin"}, net: netd{disk: p, dir: "/net", ask: silent}, cache: "/cache", stub: []byte("stub"), claims: t.TempDir(), log: quiet}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- u.run(ctx, tillStopped) }()
		synctest.Wait()
		if _, err := p.Read("/bin/nodens"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the plugin's file: %v", err)
		}
		select {
		case err := <-done:
			t.Errorf("it ended: %v", err)
		default:
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// An installer that stays would put everything back: nothing is taken off beside it, and the list never
// names a plugin that is not there. One that comes later has the node.
func TestUninstallBesideAnInstaller(t *testing.T) {
	in := onNode(t)
	list := in.write(t, "10-pods.conflist", testList, 0o600)
	u := in.leaving(t)
	t.Run("that stays", func(t *testing.T) {
		in.runs(t)("10-pods.conflist")
		if err := u.run(t.Context(), tillFree); !errors.Is(err, errBusy) {
			t.Errorf("%v, want to be refused", err)
		}
		if err := in.bin.is(in.program); err != nil {
			t.Error(err)
		}
		if data, err := os.ReadFile(list); err != nil || string(data) == testList {
			t.Errorf("the list is %s (%v)", data, err)
		}
	})
	u.sandbox(t, "pods-1234-eth0", chainedList, "/run") // something to wait for
	done := make(chan error, 1)
	go func() { done <- u.run(t.Context(), tillFree) }()
	for deadline := time.Now().Add(20 * time.Second); in.bin.is(u.stub) != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the stub is not in place")
		}
	}
	in.runs(t)("10-pods.conflist")
	if err := <-done; !errors.Is(err, errInstalled) {
		t.Errorf("%v, want to be told that nodens stays", err)
	}
	holds(t, in)
}

// Somebody's own template may bring the entry back while the stub waits: it is taken out again, and the
// plugin's file outlives the last list that names it.
func TestUninstallOfAListThatComesBack(t *testing.T) {
	in := onNode(t)
	u := in.leaving(t)
	for range 3 {
		in.write(t, "10-pods.conflist", chainedList, 0o600)
		if done, err := u.round(t.Context(), tillFree); done || err != nil {
			t.Fatalf("done %v, %v; the runtime may be reading the list", done, err)
		}
	}
	if done, err := u.round(t.Context(), tillFree); !done || err != nil {
		t.Errorf("done %v, %v", done, err)
	}
}

// The plugin's folder may have been replaced while sandboxes that name it live: they get the stub.
func TestUninstallPutsTheStubBack(t *testing.T) {
	in := onNode(t)
	u := in.leaving(t)
	u.sandbox(t, "pods-1234-eth0", chainedList, "/run")
	if err := u.run(t.Context(), tillListed); err != nil {
		t.Fatal(err)
	}
	if err := in.bin.is(u.stub); err != nil {
		t.Error(err)
	}
}

// Who waits says for what, once; what a reboot left behind in libcni's folder is not waited for.
func TestUninstallSaysWhatItWaitsFor(t *testing.T) {
	in := onNode(t)
	u := in.leaving(t)
	var log bytes.Buffer
	u.log = slog.New(slog.NewTextHandler(&log, nil))
	stale := u.sandbox(t, "pods-stale-eth0", chainedList, "/run/netns/gone")
	lost := u.sandbox(t, "pods-lost-eth0", chainedList, "/run/netns/gone")
	early := u.sandbox(t, "pods-early-eth0", chainedList, "/run")
	began, err := bootTime()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{stale, early} {
		if err := os.Chtimes(path, time.Time{}, began.Add(-time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if done, err := u.round(t.Context(), tillFree); done || err != nil {
			t.Fatalf("done %v, %v", done, err)
		}
	}
	const want = "2 sandboxes were made with nodens in their list: pods-early-eth0, pods-lost-eth0"
	if n := strings.Count(log.String(), want); n != 1 {
		t.Errorf("said %d times in\n%s", n, &log)
	}
	for _, path := range []string{early, lost} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if done, err := u.round(t.Context(), tillFree); !done || err != nil {
		t.Errorf("done %v, %v: %s is nobody's", done, err, stale)
	}
}

// The plugin's file stays for as long as the runtime says that it would run it.
func TestUninstallWaitsForTheRuntime(t *testing.T) {
	in := onNode(t)
	in.write(t, "10-pods.conflist", testList, 0o600)
	in.settles(t)
	u := in.leaving(t)
	slow := reading(in, "1.6.20", false)(t.Context())
	u.net.ask = func(context.Context) *loaded { return slow }
	var log bytes.Buffer
	u.log = slog.New(slog.NewTextHandler(&log, nil))
	for range 2 * reloads {
		if done, err := u.round(t.Context(), tillFree); done || err != nil {
			t.Fatalf("done %v, %v", done, err)
		}
		if err := u.bin.is(u.stub); err != nil {
			t.Error(err)
		}
	}
	const remedy = "still has nodens loaded in network pods, though no file says so: restart it"
	if n := strings.Count(log.String(), remedy); n != 1 {
		t.Errorf("said %d times in\n%s", n, &log)
	}
	if done, err := u.round(t.Context(), tillTried); done || err == nil || !strings.Contains(err.Error(), remedy) {
		t.Errorf("done %v, %v; want not to wait for ever", done, err)
	}
	slow = reading(in, "1.6.20", false)(t.Context())
	if done, err := u.round(t.Context(), tillFree); !done || err != nil {
		t.Errorf("done %v, %v", done, err)
	}
}
