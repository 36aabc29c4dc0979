package istiod

import (
	"istio.io/istio/pilot/pkg/config/kube/crdclient"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/schema/collections"
	"istio.io/istio/pkg/kube"
	"istio.io/istio/pkg/kube/controllers"
	"istio.io/istio/pkg/kube/kclient"
)

const domain = "cluster.local"

// follower watches one of Istio's kinds at the API server. The discovery server has its configuration in
// a store of its own; in a pod of istiod that store is the watch.
type follower struct {
	kind     config.GroupVersionKind
	informer kclient.Untyped
}

// newFollowers must be called before c runs.
func newFollowers(c kube.Client) []follower {
	var all []follower
	for _, s := range collections.Pilot.All() {
		if !s.IsSynthetic() {
			informer := kclient.NewUntypedInformer(c, s.GroupVersionResource(), kclient.Filter{})
			all = append(all, follower{s.GroupVersionKind(), informer})
		}
	}
	return all
}

// follow keeps the store as the API server is, until the client ends.
func (f follower) follow(store model.ConfigStore) {
	f.informer.AddEventHandler(controllers.EventHandler[controllers.Object]{
		AddFunc:    func(o controllers.Object) { f.write(store, o) },
		UpdateFunc: func(_, o controllers.Object) { f.write(store, o) },
		DeleteFunc: func(o controllers.Object) {
			must(store.Delete(f.kind, o.GetName(), o.GetNamespace(), nil))
		},
	})
}

func (f follower) write(store model.ConfigStore, o controllers.Object) {
	c := crdclient.TranslateObject(o, f.kind, domain)
	old := store.Get(f.kind, c.Name, c.Namespace)
	if old == nil {
		_, err := store.Create(c)
		must(err)
		return
	}
	// The store numbers versions by itself.
	if c.ResourceVersion = old.ResourceVersion; c.Equals(old) {
		return
	}
	_, err := store.Update(c)
	must(err)
}

// must holds for a store in memory that one goroutine writes to.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// configs are Istio's objects as the store has them.
func configs(all []object) []config.Config {
	var out []config.Config
	for _, o := range all {
		if isIstio(o) {
			out = append(out, crdclient.TranslateObject(o, config.FromKubernetesGVK(o.GetObjectKind().GroupVersionKind()), domain))
		}
	}
	return out
}
