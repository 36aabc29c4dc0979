package istiod_test

import (
	"errors"
	"net"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/istiod"
	"github.com/nodens-dns/nodens/conformance/script"
	"github.com/nodens-dns/nodens/conformance/world"
)

func TestMain(m *testing.M) {
	app.Main()
	os.Exit(m.Run())
}

// TestIstiod runs every script of testdata/script, each with an istiod of its own.
func TestIstiod(t *testing.T) {
	script.Run(t, script.Suite{
		Dir:   "testdata/script",
		Verbs: map[string]script.Verb{"istiod": istiodVerb},
		Setup: func(env *testscript.Env, w *world.World) error {
			w.ADS.Stop() // its address is istiod's
			plane := istiod.New(func() (ln net.Listener, err error) {
				err = w.Node.Do(func() error {
					ln, err = net.Listen("tcp", world.ADSAddress)
					return err
				})
				return ln, err
			})
			env.Values[planeKey{}] = plane
			env.Defer(func() {
				if err := plane.Stop(); err != nil {
					t.Errorf("stop istiod: %v", err)
				}
			})
			return nil
		},
	})
}

type planeKey struct{}

// istiod start, istiod stop.
// istiod apply FILE ...: objects for the API server. istiod delete KIND NAMESPACE/NAME, istiod get KIND NAMESPACE/NAME.
// istiod clients: who is connected, and what it says to what it got.
func istiodVerb(l *script.Line) (string, error) {
	plane := l.Value(planeKey{}).(*istiod.Istiod)
	switch l.Word(0) {
	case "start":
		return "", plane.Start()
	case "stop":
		return "", plane.Stop()
	case "apply":
		for n := 1; l.Word(n) != ""; n++ {
			if err := plane.Apply(l.File(l.Word(n))); err != nil {
				return "", err
			}
		}
		return "", nil
	case "delete":
		return "", plane.Delete(l.Word(1), l.Word(2))
	case "get":
		return plane.Get(l.Word(1), l.Word(2))
	case "clients":
		return plane.Clients()
	}
	return "", errors.New("usage: istiod start|stop|apply FILE|delete KIND NAME|get KIND NAME|clients")
}
