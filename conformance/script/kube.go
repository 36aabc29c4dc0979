package script

import (
	"net"
	"path/filepath"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nodens-dns/nodens/conformance/kubeapi"
	"github.com/nodens-dns/nodens/conformance/world"
)

type clustersKey struct{}

// clusters are the Kubernetes APIs of one script, by name.
type clusters map[string]*kubeapi.Server

// furnishClusters gives a script its clusters, of which there are none yet.
func furnishClusters(env *testscript.Env, w *world.World) {
	c := clusters{}
	env.Values[clustersKey{}] = c
	env.Setenv("CLUSTERS", w.Dir)
	env.Defer(func() {
		for _, api := range c {
			api.Close()
		}
	})
}

// kube CLUSTER start: an API server on the node, whose kubeconfig is $CLUSTERS/CLUSTER.kubeconfig.
// kube CLUSTER put FILE ..., kube CLUSTER remove FILE ...: objects.
// kube CLUSTER down, kube CLUSTER up; forget: watches cannot go on from before.
// kube CLUSTER lists RESOURCE: how often they have been listed.
func kubeVerb(l *Line) (string, error) {
	all := l.Value(clustersKey{}).(clusters)
	name := l.word(0)
	api := all[name]
	if l.word(1) == "start" {
		var ln net.Listener
		if err := l.w.Node.Do(func() (err error) {
			ln, err = net.Listen("tcp", "127.0.0.1:0")
			return err
		}); err != nil {
			return "", err
		}
		all[name] = kubeapi.Serve(ln)
		return "", all[name].WriteKubeconfig(filepath.Join(l.w.Dir, name+".kubeconfig"))
	}
	if api == nil {
		return "", usage("kube CLUSTER start, then kube CLUSTER put|remove|down|up|forget|lists")
	}
	switch l.word(1) {
	case "put", "remove":
		do := map[string]func(string) error{"put": api.Put, "remove": api.Remove}[l.word(1)]
		for i := 2; l.word(i) != ""; i++ {
			if err := do(l.File(l.word(i))); err != nil {
				return "", err
			}
		}
	case "down", "up":
		api.Down(l.word(1) == "down")
	case "forget":
		api.Forget()
	case "lists":
		return strconv.Itoa(api.Lists(l.word(2))) + "\n", nil
	default:
		return "", usage("kube CLUSTER start|put|remove|down|up|forget|lists")
	}
	return "", nil
}
