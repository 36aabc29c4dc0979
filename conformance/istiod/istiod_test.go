package istiod_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"istio.io/istio/pilot/pkg/features"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/istiod"
	"github.com/nodens-dns/nodens/conformance/script"
	"github.com/nodens-dns/nodens/conformance/world"
)

func TestMain(m *testing.M) {
	app.Main()
	features.EnableDualStack = true // as ISTIO_DUAL_STACK does; for a node of one family nothing changes
	os.Exit(m.Run())
}

// TestIstiod runs every script of testdata/script, each with an istiod of its own.
func TestIstiod(t *testing.T) {
	script.Run(t, script.Suite{
		Dir:   "testdata/script",
		Verbs: map[string]script.Verb{"istiod": istiodVerb},
		Setup: func(env *testscript.Env, w *world.World) error {
			w.ADS.Stop() // its address is istiod's
			plane, err := istiod.New(func() (plain, secure net.Listener, err error) {
				err = w.Node.Do(func() error {
					if plain, err = net.Listen("tcp", world.ADSAddress); err != nil {
						return err
					}
					secure, err = net.Listen("tcp", secureAddress)
					return err
				})
				return plain, secure, err
			})
			if err != nil {
				return err
			}
			env.Values[planeKey{}] = plane
			env.Defer(func() {
				if err := plane.Stop(); err != nil {
					t.Errorf("stop istiod: %v", err)
				}
			})
			env.Setenv("SECURE", secureAddress)
			env.Setenv("NAME", istiod.ServerName)
			env.Setenv("ROOT", filepath.Join(w.Dir, "root-cert.pem"))
			return os.WriteFile(env.Getenv("ROOT"), plane.Root(), 0o644)
		},
	})
}

// secureAddress is where istiod speaks TLS, on the node.
const secureAddress = "127.0.0.1:15012"

type planeKey struct{}

// istiod start, istiod stop.
// istiod apply FILE ...: objects for the API server. istiod delete KIND NAMESPACE/NAME, istiod get KIND NAMESPACE/NAME.
// istiod clients: who is connected, and what it says to what it got.
// istiod token NAMESPACE FILE, istiod certificate NAMESPACE FILE KEYFILE: of the namespace's service account.
// istiod revoke: no token so far is good any more.
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
	case "token":
		return "", os.WriteFile(l.Word(2), []byte(plane.Token(l.Word(1))+"\n"), 0o600)
	case "revoke":
		plane.Revoke()
		return "", nil
	case "certificate":
		cert, key, err := plane.Certificate(l.Word(1))
		return "", errors.Join(err, os.WriteFile(l.Word(2), cert, 0o600), os.WriteFile(l.Word(3), key, 0o600))
	}
	return "", errors.New("usage: istiod start|stop|apply FILE|delete KIND NAME|get KIND NAME|clients|token NAMESPACE FILE|certificate NAMESPACE FILE KEYFILE|revoke")
}
