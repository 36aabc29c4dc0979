package conformance_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/script"
	"github.com/nodens-dns/nodens/conformance/world"
)

func TestMain(m *testing.M) {
	app.Main()
	os.Exit(m.Run())
}

// TestPromises runs every script of testdata/script. With KERNEL=1 the kernel answers, too, in all of them.
//
//	go test ./conformance -run 'TestPromises/^kill$' -v
func TestPromises(t *testing.T) {
	promises(t, nil, os.Getenv("KERNEL") == "1")
}

// TestPromisesInKernel runs those scripts that ask most a second time, where the kernel answers, too.
func TestPromisesInKernel(t *testing.T) {
	promises(t, []string{"names", "kubernetes", "views", "querylog"}, true)
}

func promises(t *testing.T, only []string, inKernel bool) {
	seeds, err := filepath.Abs("testdata/seeds")
	if err != nil {
		t.Fatal(err)
	}
	config := map[string]any{}
	if inKernel {
		config["kernelAnswers"] = true
	}
	script.Run(t, script.Suite{
		Dir: "testdata/script", Only: only, Config: config,
		Setup: func(env *testscript.Env, _ *world.World) error {
			env.Setenv("SEEDS", seeds)
			return nil
		},
	})
}
