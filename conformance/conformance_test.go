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

// TestPromises runs every script of testdata/script.
//
//	go test ./conformance -run 'TestPromises/^kill$' -v
func TestPromises(t *testing.T) {
	seeds, err := filepath.Abs("testdata/seeds")
	if err != nil {
		t.Fatal(err)
	}
	script.Run(t, script.Suite{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env, _ *world.World) error {
			env.Setenv("SEEDS", seeds)
			return nil
		},
	})
}
