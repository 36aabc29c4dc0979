package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
)

// silent is a node on which no runtime says what it has loaded.
func silent(context.Context) *loaded { return nil }

// reading is a runtime that has loaded what is in the installer's folder, with what is dropped in or without.
func reading(in *installer, version string, dropIns bool) func(context.Context) *loaded {
	return func(context.Context) *loaded {
		l := &loaded{socket: "test", version: version, PluginDirs: []string{in.bin.dir}, PluginConfDir: in.net.dir}
		net, err := in.net.network()
		if err != nil || net.list == nil {
			return l
		}
		n := len(net.list.ours)
		if _, err := in.net.disk.Read(in.net.dropPath(net.list.name)); err == nil && dropIns && !net.list.inlined {
			n++
		}
		l.load(net.list.name, n)
		return l
	}
}

// load has nodens n times in a network.
func (l *loaded) load(network string, n int) {
	l.Networks = append(l.Networks, struct {
		Config struct {
			Name    string
			Plugins []struct {
				Network struct {
					Type string `json:"type"`
				}
			}
		}
	}{})
	config := &l.Networks[len(l.Networks)-1].Config
	config.Name = network
	for range n {
		config.Plugins = append(config.Plugins, struct {
			Network struct {
				Type string `json:"type"`
			}
		}{})
		config.Plugins[len(config.Plugins)-1].Network.Type = pluginType
	}
}

// settles until there is nothing to do, and says where nodens is then.
func (in *installer) settles(t *testing.T) (where string) {
	t.Helper()
	for range 3 {
		if wrote, err := in.settle(t.Context()); err != nil {
			t.Fatal(err)
		} else if !wrote {
			where, err := in.net.chained()
			if err != nil {
				t.Fatal(err)
			}
			return where
		}
	}
	t.Fatal("it goes on writing")
	return ""
}

// Where the runtime shows that it reads the network's folder, the list is left to its owner, byte for byte;
// where it does not, or nobody says, nodens is in the list.
func TestDropIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it waits for the runtime
		in := onNode(t)
		list := in.write(t, "10-pods.conflist", testList, 0o600)
		drop := in.net.dropPath("pods")
		for _, step := range []struct {
			name  string
			ask   func(context.Context) *loaded
			where string
		}{
			{"nobody says", silent, list},
			{"it is too old", reading(in, "2.0.4", false), list},
			{"it does", reading(in, "v2.1.0", true), drop},
			{"nobody says any more", silent, drop},
			{"it is older now", reading(in, "1.7.2", false), list},
			{"it is newer again", reading(in, "2.4.2", true), drop},
			{"another runtime is there, too", func(ctx context.Context) *loaded {
				l := reading(in, "2.4.2", true)(ctx)
				l.beside = true
				return l
			}, list},
			{"it is alone again", reading(in, "2.4.2", true), drop},
			{"it is to, and does not", reading(in, "2.4.2", false), list},
			{"it is not tried again", reading(in, "2.4.2", true), list},
		} {
			in.net.ask = step.ask
			if where := in.settles(t); where != step.where {
				t.Errorf("%s: in %s, want %s", step.name, where, step.where)
			}
			data, err := os.ReadFile(list)
			if err != nil || (string(data) == testList) != (step.where == drop) {
				t.Errorf("%s: the list is %s (%v)", step.name, data, err)
			}
			if step.where == drop {
				if data, err := os.ReadFile(drop); err != nil || !sameJSON(data, []byte(testEntry)) {
					t.Errorf("%s: the drop-in is %s (%v)", step.name, data, err)
				}
			} else if _, err := os.Stat(filepath.Dir(drop)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: the drop-in's folder: %v", step.name, err)
			}
		}
		// A list that does not want drop-ins has nodens itself.
		in.net.refused, in.net.ask = "", reading(in, "2.4.2", true)
		in.write(t, "10-pods.conflist", strings.Replace(testList, "{\n", "{\n  \"loadOnlyInlinedPlugins\": true,\n", 1), 0o600)
		if where := in.settles(t); where != list {
			t.Error(where)
		}
	})
}

// A pod made while it is not known whether the drop-in is read has nodens.
func TestDropInLeavesNoGap(t *testing.T) {
	in := onNode(t)
	list := in.write(t, "10-pods.conflist", testList, 0o600)
	in.settles(t)
	asks := 0
	in.net.ask = func(ctx context.Context) *loaded {
		asks++
		l := reading(in, "2.1.0", asks > 3)(ctx) // it takes its time
		if l.has("pods") == 0 {
			t.Errorf("nodens is not loaded when asked for the %d. time", asks)
		}
		return l
	}
	if where := in.settles(t); where == list || asks < 4 {
		t.Errorf("in %s, asked %d times", where, asks)
	}
}

// What is not the runtime's folder is not written to: a plugin that is not found makes no pods.
func TestFoldersAreTheRuntimes(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*installer)
		want   string
	}{
		"another folder of plugins":  {func(in *installer) { in.bin.dir = t.TempDir() }, "--bin-dir"},
		"another folder of networks": {func(in *installer) { in.net.dir = t.TempDir() }, "--net-dir"},
	} {
		t.Run(name, func(t *testing.T) {
			in := onNode(t)
			in.net.ask = reading(&installer{bin: in.bin, net: in.net}, "1.6.20", false)
			test.change(in)
			in.write(t, "10-pods.conflist", testList, 0o600)
			if wrote, err := in.settle(t.Context()); wrote || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("wrote %v, %v; want %s", wrote, err, test.want)
			}
			if f := in.runtime(t.Context(), false); f.err == nil || !strings.Contains(f.err.Error(), test.want) {
				t.Errorf("status says %+v", f)
			}
		})
	}
	t.Run("none of the network's plugins", func(t *testing.T) {
		in := onNode(t)
		in.write(t, "10-pods.conflist", strings.Replace(testList, "bridge", "calico", 1), 0o600)
		if wrote, err := in.settle(t.Context()); wrote || err == nil || !strings.Contains(err.Error(), "calico") || !strings.Contains(err.Error(), "--bin-dir") {
			t.Errorf("wrote %v, %v", wrote, err)
		}
	})
	t.Run("through a link", func(t *testing.T) {
		in := onNode(t)
		in.write(t, "10-pods.conflist", testList, 0o600)
		in.net.ask = reading(&installer{bin: in.bin, net: in.net}, "1.6.20", false)
		link := filepath.Join(t.TempDir(), "bin")
		if err := os.Symlink(in.bin.dir, link); err != nil {
			t.Fatal(err)
		}
		in.bin.dir = link
		in.settles(t)
	})
}

// A runtime that may look in several folders has shown that it finds the plugin in this one by having run it.
func TestAnotherFolderThanTheNetworks(t *testing.T) {
	in := onNode(t)
	in.write(t, "10-pods.conflist", testList, 0o600)
	in.bin.dir, in.old.cache = t.TempDir(), t.TempDir()
	u := &uninstaller{cache: in.old.cache}
	refused := func(when string) {
		t.Helper()
		if wrote, err := in.settle(t.Context()); wrote || err == nil || !strings.Contains(err.Error(), "--bin-dir") {
			t.Errorf("%s: wrote %v, %v", when, wrote, err)
		}
	}
	refused("a new node")
	u.sandbox(t, "pods-1-eth0", chainedList, "/run")
	refused("the plugin was elsewhere")
	if err := os.WriteFile(in.bin.path(), []byte("older"), 0o755); err != nil {
		t.Fatal(err)
	}
	in.settles(t)
	if err := in.bin.is(in.program); err != nil {
		t.Error(err)
	}
	u.sandbox(t, "pods-1-eth0", testList, "/run")
	refused("no sandbox was made with it")
}

// A chain in a file is not one in the runtime.
func TestStatusOfWhatIsLoaded(t *testing.T) {
	in := onNode(t)
	in.write(t, "10-pods.conflist", testList, 0o600)
	in.settles(t)
	if f := in.runtime(t.Context(), true); f.err != nil || !strings.Contains(f.how, "not asked") {
		t.Errorf("%+v", f)
	}
	in.net.ask = reading(in, "1.6.20", false)
	if f := in.runtime(t.Context(), true); f.err != nil || !strings.Contains(f.how, "1.6.20") {
		t.Errorf("%+v", f)
	}
	in.net.ask = func(context.Context) *loaded {
		return &loaded{version: "1.6.20", PluginDirs: []string{in.bin.dir}, PluginConfDir: in.net.dir}
	}
	if f := in.runtime(t.Context(), true); f.err == nil || !strings.Contains(f.err.Error(), "has not loaded nodens") {
		t.Errorf("%+v", f)
	}
	in.net.ask = reading(in, "2.1.0", true)
	in.settles(t)
	in.net.ask = silent
	if f := in.runtime(t.Context(), true); f.err == nil || !strings.Contains(f.err.Error(), "nobody says") {
		t.Errorf("%+v", f)
	}
	in.net.entry = []byte(`{"type":"nodens","stateDir":"/run/other"}`)
	if _, err := in.net.chained(); err == nil || !strings.Contains(err.Error(), "--state-dir") {
		t.Errorf("%v; pods are noted elsewhere than dnsd looks", err)
	}
}
