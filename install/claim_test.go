package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestClaims(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "installers")
	is := func(who string, c *claim, want bool) {
		t.Helper()
		if have, err := c.newest(); err != nil || have != want {
			t.Errorf("%s is the newest: %v, %v; want %v", who, have, err, want)
		}
	}
	stakes := func() *claim {
		t.Helper()
		c, err := stake(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.release)
		return c
	}
	first := stakes()
	for path, want := range map[string]os.FileMode{filepath.Dir(dir): 0o755, dir: 0o700} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s has mode %v (%v), want %v", path, st.Mode(), err, want)
		}
	}
	is("the only one", first, true)
	second := stakes()
	is("the older one", first, false)
	is("the newer one", second, true)

	_ = second.held.Close() // it was killed
	is("the one that is left", first, true)
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("%v, %v; the dead one's claim was to go", names, err)
	}

	third := stakes()
	is("the older one", first, false)
	third.release()
	is("the one that is left", first, true)
}

// A claim that was cleared away with its folder is made again, in its old place: the newer one stays the newer.
func TestClaimsComeBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "installers")
	old, err := stake(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer old.release()
	next, err := stake(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer next.release()
	for _, remove := range []string{dir, filepath.Join(dir, old.name), filepath.Join(dir, next.name)} {
		if err := os.RemoveAll(remove); err != nil {
			t.Fatal(err)
		}
		for range 2 { // whoever looks first sees nobody; each is there after it has looked
			_, _ = next.newest()
			_, _ = old.newest()
		}
		if newest, err := next.newest(); err != nil || !newest {
			t.Errorf("the newer one after %s was removed: %v, %v", remove, newest, err)
		}
		if newest, err := old.newest(); err != nil || newest {
			t.Errorf("the older one after %s was removed: %v, %v", remove, newest, err)
		}
	}
}

// What takes nodens off, or installs once, neither crosses the work of an installer that stays nor is crossed.
func TestAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "installers")
	stays, err := stake(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alone(dir); !errors.Is(err, errBusy) {
		t.Errorf("%v, want to be refused", err)
	}
	if newest, err := stays.newest(); err != nil || !newest {
		t.Errorf("the one that stays was relieved: %v", err)
	}
	stays.release()
	only, err := alone(dir)
	if err != nil {
		t.Fatal(err)
	}
	only.release()
}

// TestNewestInstallerHasTheSay runs two at once on one node, as an update does: the file is the newer
// one's and stays so, though the older one watches it; when the newer one goes, the older one takes over.
func TestNewestInstallerHasTheSay(t *testing.T) {
	old := onNode(t)
	old.claims = filepath.Join(t.TempDir(), "installers")
	old.write(t, "10-pods.conflist", testList, 0o600)
	next := &installer{bin: old.bin, net: old.net, program: []byte("#!/bin/false\n"), claims: old.claims, log: quiet}
	old.runs(t)("10-pods.conflist")

	t.Run("beside", func(t *testing.T) {
		next.runs(t)("10-pods.conflist")
		holds(t, next)
		if err := os.Remove(old.bin.path()); err != nil { // both see it
			t.Fatal(err)
		}
		holds(t, next)
		if wrote, err := next.settle(t.Context()); err != nil || wrote {
			t.Errorf("wrote %v, %v: the older one had written", wrote, err)
		}
	})
	holds(t, old)
}

// holds waits until the plugin is in's.
func holds(t *testing.T, in *installer) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := in.bin.is(in.program)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
