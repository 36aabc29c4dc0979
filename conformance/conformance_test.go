package conformance_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/sandbox"
	"github.com/nodens-dns/nodens/conformance/world"
)

func TestMain(m *testing.M) {
	app.Main()
	os.Exit(m.Run())
}

// TestPromises runs every script of testdata/script, each in a world of its own.
//
//	go test ./conformance -run 'TestPromises/^kill$' -v
//
// BINDIR names a folder with binaries to hold to the promises instead of freshly built ones. RACE=0
// builds dnsd without the race detector.
func TestPromises(t *testing.T) {
	sandbox.Root(t)
	bin := build(t)
	seeds, err := filepath.Abs("testdata/seeds")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		RequireUniqueNames: true,
		Cmds:               commands(),
		Setup: func(env *testscript.Env) error {
			w, err := world.New(world.Options{Bin: bin, Label: "test"})
			if err != nil {
				return err
			}
			env.Defer(func() { finish(t, env, w) })
			env.Values[worldKey{}] = w
			env.Setenv("NS", world.Nameservers[0].String())
			env.Setenv("NS6", world.Nameservers[1].String())
			env.Setenv("NS2", world.Nameservers[2].String())
			env.Setenv("STATE", filepath.Join(w.Dir, "state"))
			env.Setenv("SEEDS", seeds)
			env.Setenv("NETWORK", w.Network())
			env.Setenv("RUN", filepath.Dir(w.AttachmentDir()))
			env.Setenv("ATTACHMENTS", w.AttachmentDir())
			env.Setenv("PINS", w.Pins())
			env.Setenv("CGROUP", w.Cgroup())
			env.Setenv("HEALTH", "http://"+world.HealthAddress)
			return nil
		},
	})
}

type worldKey struct{}

func worldOf(ts *testscript.TestScript) *world.World { return ts.Value(worldKey{}).(*world.World) }

// finish takes the world away; a failed script gets dnsd's log first, and a data race in dnsd fails it.
func finish(t *testing.T, env *testscript.Env, w *world.World) {
	log := w.DnsdLog()
	failed, ok := env.T().(interface{ Failed() bool })
	if ok && failed.Failed() && log != "" {
		env.T().Log("dnsd said:\n" + log)
	}
	if err := w.Close(); err != nil {
		t.Errorf("close the world: %v", err)
	}
	if containsRace(log) {
		t.Errorf("dnsd has a data race:\n%s", log)
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
