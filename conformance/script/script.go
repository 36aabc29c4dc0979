// Package script holds a build of nodens to scripts, each in a world of its own.
//
// A script is a testscript file whose words are the verbs of conformance/README.md; a suite may add words.
package script

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nodens-dns/nodens/conformance/sandbox"
	"github.com/nodens-dns/nodens/conformance/world"
)

// Suite is a folder of scripts.
type Suite struct {
	// Dir holds them, as *.txtar; Only names some of them, nil means all.
	Dir  string
	Only []string
	// Config is what dnsd's configuration says in each beside the world's own.
	Config map[string]any
	// Verbs are the suite's own words, beside those of every script.
	Verbs map[string]Verb
	// Setup, if not nil, is called for each script when its world is made.
	Setup func(env *testscript.Env, w *world.World) error
}

type worldKey struct{}

// Run runs every script of the suite as a parallel subtest. It needs root, and app.Main called from
// TestMain. BINDIR names a folder with binaries to hold to the promises instead of freshly built ones.
// RACE=0 builds dnsd without the race detector.
func Run(t *testing.T, s Suite) {
	t.Helper()
	sandbox.Root(t)
	bin := build(t)
	verbs := builtin()
	maps.Copy(verbs, s.Verbs)
	dir := s.Dir
	var files []string
	for _, name := range s.Only {
		dir = ""
		files = append(files, filepath.Join(s.Dir, name+".txtar"))
	}
	testscript.Run(t, testscript.Params{
		Dir:                dir,
		Files:              files,
		RequireUniqueNames: true,
		Cmds:               commands(verbs),
		Setup: func(env *testscript.Env) error {
			w, err := world.New(world.Options{Bin: bin, Label: "test", Config: s.Config})
			if err != nil {
				return err
			}
			env.Defer(func() { finish(t, env, w) })
			env.Values[worldKey{}] = w
			setenv(env, w)
			furnishClusters(env, w)
			if s.Setup != nil {
				return s.Setup(env, w)
			}
			return nil
		},
	})
}

// NewWorld makes a world for a test that is no script. It is closed when the test ends.
func NewWorld(t *testing.T) *world.World {
	t.Helper()
	sandbox.Root(t)
	w, err := world.New(world.Options{Bin: build(t), Label: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		checkLogs(t, w)
		if t.Failed() {
			t.Log("dnsd said:\n" + w.DnsdLog())
		}
		if err := w.Close(); err != nil {
			t.Errorf("close the world: %v", err)
		}
	})
	return w
}

// setenv tells the script where things are.
func setenv(env *testscript.Env, w *world.World) {
	env.Setenv("NS", world.Nameservers[0].String())
	env.Setenv("NS6", world.Nameservers[1].String())
	env.Setenv("NS2", world.Nameservers[2].String())
	env.Setenv("STATE", filepath.Join(w.Dir, "state"))
	env.Setenv("ADSCA", filepath.Join(w.Dir, "ads-ca.pem"))
	env.Setenv("NETWORK", w.Network())
	env.Setenv("NETD", filepath.Join(w.Dir, "net.d"))
	env.Setenv("RUN", filepath.Dir(w.AttachmentDir()))
	env.Setenv("ATTACHMENTS", w.AttachmentDir())
	env.Setenv("PINS", w.Pins())
	env.Setenv("CGROUP", w.Cgroup())
	env.Setenv("HEALTH", "http://"+world.HealthAddress)
	env.Setenv("ETCD", world.EtcdAddress)
	env.Setenv("NODE", w.NodeAddress())
	env.Setenv("NGINXD", w.NginxDir())
	env.Setenv("NGINXCONF", w.NginxConf())
}

// finish takes the world away; a failed script gets dnsd's log first.
func finish(t *testing.T, env *testscript.Env, w *world.World) {
	checkLogs(t, w)
	log := w.DnsdLog()
	failed, ok := env.T().(interface{ Failed() bool })
	if ok && failed.Failed() && log != "" {
		env.T().Log("dnsd said:\n" + log)
	}
	if err := w.Close(); err != nil {
		t.Errorf("close the world: %v", err)
	}
}

// crash is how Go says that a program is wrong, whatever became of it.
var crash = regexp.MustCompile(`(?m)^(WARNING: DATA RACE|panic: |fatal error: )`)

// checkLogs fails the test if a daemon of the world has crashed, or raced, at any time.
func checkLogs(t *testing.T, w *world.World) {
	t.Helper()
	for name, log := range map[string]string{"dnsd": w.DnsdLog(), "nodens-install": w.InstallLog()} {
		if at := crash.FindStringIndex(log); at != nil {
			t.Errorf("%s has crashed:\n%s", name, log[at[0]:])
		}
	}
}

func build(t *testing.T) world.Binaries {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	dir := filepath.Join(t.TempDir(), "bin")
	bin, err := world.Build(ctx, dir, os.Getenv("RACE") != "0")
	if err != nil {
		t.Fatal(err)
	}
	return bin
}
