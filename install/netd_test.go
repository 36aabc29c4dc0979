package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

// A list that stands where a single plugin's has to go is somebody else's: it is kept, that is said, and
// it comes back. One that was made of an earlier version of the same plugin's file is ours.
func TestPromoteKeepsWhatItReplaces(t *testing.T) {
	in := onNode(t)
	others := strings.Replace(testList, "pods", "others", 1)
	list := in.write(t, "10-pods.conflist", others, 0o640)
	conf := in.write(t, "10-pods.conf", testConf, 0o604)
	done, err := in.net.chain(t.Context(), nil)
	if err != nil || done.path != list || len(done.notes) != 1 || !strings.Contains(done.notes[0], list+keptMark) {
		t.Fatalf("%+v, %v; want to be told of the copy", done, err)
	}
	newer := strings.Replace(testConf, "bridge", "ptp", 1)
	in.write(t, "10-pods.conf", newer, 0o600)
	if done, err := in.net.chain(t.Context(), nil); err != nil || done.path != list || len(done.notes) != 0 {
		t.Errorf("%+v, %v: the list there was ours", done, err)
	}
	if _, err := in.net.unchain(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{conf: newer, list: others} {
		if have, err := os.ReadFile(path); err != nil || string(have) != want {
			t.Errorf("%s is %s (%v), want %s", path, have, err, want)
		}
	}
	if info, err := os.Stat(conf); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, err := filepath.Glob(filepath.Join(in.net.dir, "*"+keptMark)); err != nil || len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// What is kept for a list that is just being written is kept until that is whole, and then comes back.
func TestUninstallOfAListThatIsHalfWritten(t *testing.T) {
	in := onNode(t)
	conf := in.write(t, "10-pods.conf", testConf, 0o600)
	if _, err := in.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(in.net.dir, "10-pods.conflist")
	whole, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(whole[:len(whole)/2]), string(whole)} {
		in.write(t, "10-pods.conflist", text, 0o600)
		if _, err := in.net.unchain(); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(conf); err != nil || string(have) != testConf {
		t.Errorf("%s is %s (%v), want what it was", conf, have, err)
	}
	if left, err := filepath.Glob(filepath.Join(in.net.dir, "*"+keptMark)); err != nil || len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// A list that was changed since it was made of a .conf is its owner's, and stays one.
func TestUninstallKeepsAChangedList(t *testing.T) {
	in := onNode(t)
	conf := in.write(t, "10-pods.conf", testConf, 0o600)
	if _, err := in.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	list := in.write(t, "10-pods.conflist", testList, 0o600)
	if _, err := in.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := in.net.unchain(); err != nil {
		t.Fatal(err)
	}
	if have, err := os.ReadFile(list); err != nil || string(have) != testList {
		t.Errorf("the list is %s (%v)", have, err)
	}
	if _, err := os.Stat(conf); err == nil {
		t.Error("a .conf that its owner had given up is back, before the list")
	}
}

// A container is not given every capability. A list's owner that cannot be kept keeps no pod from being
// captured; one that cannot be read is not taken for one that is not there.
func TestOwnersWithoutCapabilities(t *testing.T) {
	sandbox.Root(t)
	in := onNode(t)
	list := in.write(t, "10-pods.conflist", testList, 0o640)
	if err := os.Chown(list, 0, 1234); err != nil {
		t.Fatal(err)
	}
	done, err := powerless(t, in)
	if err != nil || done.path != list || len(done.notes) != 1 || !strings.Contains(done.notes[0], "CAP_CHOWN") {
		t.Errorf("%+v, %v; want it done, and to be told of the owner", done, err)
	}
	if done, err := powerless(t, in); err != nil || done.path != "" || done.notes != nil {
		t.Errorf("again: %+v, %v", done, err)
	}
	hidden := in.write(t, "05-hidden.conflist", testList, 0o600)
	if err := os.Chown(hidden, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	if _, err := powerless(t, in); err == nil || !strings.Contains(err.Error(), hidden) || !strings.Contains(err.Error(), "CAP_DAC_OVERRIDE") {
		t.Errorf("%v, want a remedy", err)
	}
	if done, err := in.net.chain(t.Context(), nil); err != nil || done.path != hidden || len(done.notes) != 0 {
		t.Errorf("with the capabilities: %+v, %v", done, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(hidden, &st); err != nil || st.Uid != 1234 || st.Gid != 1234 {
		t.Errorf("it belongs to %d:%d (%v)", st.Uid, st.Gid, err)
	}
}

// powerless chains as root without the capabilities over other users' files.
func powerless(t *testing.T, in *installer) (done change, err error) {
	t.Helper()
	finished := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with what it gave up
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var sets [2]unix.CapUserData
		dropped := unix.Capget(&header, &sets[0])
		if dropped == nil {
			sets[0].Effective &^= 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_FOWNER
			dropped = unix.Capset(&header, &sets[0])
		}
		if dropped == nil {
			done, err = in.net.chain(t.Context(), nil)
		}
		finished <- dropped
	}()
	if dropped := <-finished; dropped != nil {
		t.Fatal(dropped)
	}
	return done, err
}
