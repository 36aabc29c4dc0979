package istiod

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/schema/gvk"
	"istio.io/istio/pkg/kube"
	"istio.io/istio/pkg/kube/controllers"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	clienttesting "k8s.io/client-go/testing"
)

// object is a Kubernetes object, Istio's kinds included, of its Go type.
type object = controllers.Object

// key names an object: "ServiceEntry default/shop".
type key struct{ kind, name string }

func keyOf(o object) key {
	return key{o.GetObjectKind().GroupVersionKind().Kind, o.GetNamespace() + "/" + o.GetName()}
}

// objects is what the API server has.
type objects map[key]object

// decoder refuses fields that a kind does not have.
var decoder = serializer.NewCodecFactory(kube.IstioScheme, serializer.EnableStrict).UniversalDeserializer()

// parse reads YAML documents. An object without a namespace is in "default".
func parse(text string) ([]object, error) {
	var out []object
	for doc := range strings.SplitSeq(text, "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		decoded, kind, err := decoder.Decode([]byte(doc), nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, doc)
		}
		o, ok := decoded.(object)
		if !ok {
			return nil, fmt.Errorf("%s is not an object", kind)
		}
		if o.GetNamespace() == "" && kind.Kind != "Namespace" && kind.Kind != "Node" {
			o.SetNamespace("default")
		}
		out = append(out, o)
	}
	return out, nil
}

// put stores o as an API server does when its user writes: the time of creation and the status are not
// the user's.
func (all objects) put(o object) {
	k := keyOf(o)
	o.SetCreationTimestamp(metav1.Now())
	if old := all[k]; old != nil {
		o.SetCreationTimestamp(old.GetCreationTimestamp())
		if entry, ok := o.(*networking.ServiceEntry); ok {
			old.(*networking.ServiceEntry).Status.DeepCopyInto(&entry.Status)
		}
	}
	all[k] = o
}

// copies are all objects, sorted, for somebody who may write into them.
func (all objects) copies() []object {
	var out []object
	for _, k := range slices.SortedFunc(maps.Keys(all), func(a, b key) int {
		return strings.Compare(a.kind+" "+a.name, b.kind+" "+b.name)
	}) {
		out = append(out, all[k].DeepCopyObject().(object))
	}
	return out
}

// readBack takes over what istiod wrote through its client: addresses in the status of ServiceEntries.
func (all objects) readBack(c kube.Client) error {
	for k, o := range all {
		if k.kind != gvk.ServiceEntry.Kind {
			continue
		}
		written, err := trackerOf(c, o).Get(resourceOf(o), o.GetNamespace(), o.GetName())
		if err != nil {
			return fmt.Errorf("read %s %s back: %w", k.kind, k.name, err)
		}
		entry := o.(*networking.ServiceEntry)
		written.(*networking.ServiceEntry).Status.DeepCopyInto(&entry.Status)
	}
	return nil
}

func runtimeObjects(all []object) []runtime.Object {
	var out []runtime.Object
	for _, o := range all {
		out = append(out, o)
	}
	return out
}

// resourceOf is under which name the API server keeps objects of o's kind.
func resourceOf(o object) schema.GroupVersionResource {
	r, ok := gvk.ToGVR(config.FromKubernetesGVK(o.GetObjectKind().GroupVersionKind()))
	if !ok {
		panic(fmt.Sprintf("istiod does not read objects of kind %s", o.GetObjectKind().GroupVersionKind()))
	}
	return r
}

// trackerOf is where a client made of memory keeps objects of o's kind.
func trackerOf(c kube.Client, o object) clienttesting.ObjectTracker {
	var set any = c.Kube()
	if isIstio(o) {
		set = c.Istio()
	}
	return set.(interface {
		Tracker() clienttesting.ObjectTracker
	}).Tracker()
}

func isIstio(o object) bool {
	return strings.HasSuffix(o.GetObjectKind().GroupVersionKind().Group, ".istio.io")
}
