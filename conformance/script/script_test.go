package script_test

import (
	"net"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/script"
	"github.com/nodens-dns/nodens/conformance/world"
)

// What conformance/istiod stands on. That is a module of its own, which "go vet ./..." does not see: a
// change that would break it must not get past here.
var (
	_ = app.Main
	_ = script.Run
	_ = script.Suite{
		Dir: "testdata/script",
		Verbs: map[string]script.Verb{"own": func(l *script.Line) (string, error) {
			_ = l.Value("key")
			return l.File(l.Word(0)), nil
		}},
		Setup: func(env *testscript.Env, w *world.World) error {
			w.ADS.Stop()
			env.Values["key"] = w
			return w.Node.Do(func() error {
				_, err := net.Listen("tcp", world.ADSAddress)
				return err
			})
		},
	}
)
