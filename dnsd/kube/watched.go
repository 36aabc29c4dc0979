package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/nodens-dns/nodens/dnsd/objects"
)

// kind is one kind of objects to watch.
type kind struct {
	objects.Kind
	schema.GroupVersion
	resource string
	example  runtime.Object
	// read takes what counts of an object; nil where it is enough that it is there.
	read func(objects.Meta, runtime.Object) (objects.Object, error)
}

// Kinds that the source itself looks at.
const (
	kindNamespace objects.Kind = "Namespace"
	kindNode      objects.Kind = "Node"
)

var kinds = []kind{
	{kindNamespace, core, "namespaces", &corev1.Namespace{}, nil},
	{kindNode, core, "nodes", &corev1.Node{}, nil},
	{objects.KindService, core, "services", &corev1.Service{}, func(m objects.Meta, o runtime.Object) (objects.Object, error) {
		return objects.NewService(m, o.(*corev1.Service)), nil
	}},
	{objects.KindEndpointSlice, discovery, "endpointslices", &discoveryv1.EndpointSlice{}, func(m objects.Meta, o runtime.Object) (objects.Object, error) {
		return objects.NewEndpointSlice(m, o.(*discoveryv1.EndpointSlice)), nil
	}},
	{objects.KindServiceImport, multi, "serviceimports", &custom{}, readServiceImport},
	{objects.KindServiceEntry, istio, "serviceentries", &custom{}, readServiceEntry},
	{objects.KindWorkloadEntry, istio, "workloadentries", &custom{}, readWorkloadEntry},
	{objects.KindPod, core, "pods", &corev1.Pod{}, func(m objects.Meta, o runtime.Object) (objects.Object, error) {
		return objects.NewPod(m, o.(*corev1.Pod)), nil
	}},
	{objects.KindDestinationRule, istio, "destinationrules", &custom{}, readDestinationRule},
}

// watched is a kind as a source watches it. A cache.Reflector lists and watches, and finds again what it has
// missed; this is the store that it fills.
type watched struct {
	kind
	source *Source
	stop   context.CancelFunc // ends the reflector

	// guarded by source.mu
	held    map[string]string // the resource version of each object, by namespace and name
	listed  bool              // once at least, or known not to exist
	failure error             // why it could not be asked for the last time
	since   time.Time         // when that changed
}

// item is an object as it is kept while a list of them comes in: what it is called, and what counts of it.
type item struct {
	metav1.ObjectMeta
	object objects.Object
	zone   string // of a node
	err    error  // why it cannot be used
}

// run watches until ctx is done. Kinds of others than Kubernetes itself exist where somebody has defined them.
func (w *watched) run(ctx context.Context, client rest.Interface) {
	if w.Kind == objects.KindPod { // of which there are many, and few clusters have entries that select them
		select {
		case <-w.source.selecting:
		case <-ctx.Done():
			return
		}
	}
	for {
		session, stop := context.WithCancel(ctx)
		w.stop = stop
		cache.NewReflectorWithOptions(w.listWatch(client), w.example, w, cache.ReflectorOptions{Name: w.resource}).RunWithContext(session)
		stop()
		if !sleep(ctx, w.source.timing.missing) {
			return
		}
	}
}

// listWatch asks for the kind and notes how that went.
func (w *watched) listWatch(client rest.Interface) *cache.ListWatch {
	request := func(o metav1.ListOptions) *rest.Request {
		if w.Kind == kindNode { // only this one
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", w.source.options.Node).String()
		}
		return client.Get().Resource(w.resource).VersionedParams(&o, metav1.ParameterCodec)
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			ctx, cancel := context.WithTimeout(ctx, w.source.timing.list)
			defer cancel()
			list, err := request(o).MaxRetries(0).Do(ctx).Get()
			return list, w.judge(err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			events, err := w.open(ctx, request(o).MaxRetries(0).Timeout(time.Duration(value(o.TimeoutSeconds)+60)*time.Second))
			return events, w.judge(err)
		},
	}
}

// open opens a stream of events, and fails where the server does not answer in time. The client library makes
// an empty stream of a connection that breaks or times out; that is none.
func (w *watched) open(ctx context.Context, request *rest.Request) (watch.Interface, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	late := time.AfterFunc(w.source.timing.answer, func() { cancel(errLate) })
	events, err := request.Watch(ctx)
	if _, open := events.(*watch.StreamWatcher); err == nil && !open {
		err = errBroken
	}
	if !late.Stop() {
		err = errLate
	}
	if err != nil {
		cancel(err)
		if events != nil { // it came too late, and somebody reads in its name
			events.Stop()
		}
		return nil, err
	}
	return &stream{events, cancel}, nil
}

var (
	errLate   = errors.New("no answer in time")
	errBroken = errors.New("the connection broke, or could not be made in time")
)

// stream is an open watch; who stops it ends its request.
type stream struct {
	watch.Interface
	end context.CancelCauseFunc
}

func (s *stream) Stop() {
	s.Interface.Stop()
	s.end(nil)
}

func value(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// judge notes what came of asking. What the server says of the version that was asked for, or of a way to
// ask that it does not know, is an answer, too: the reflector then asks otherwise.
func (w *watched) judge(err error) error {
	err = worded(err)
	switch {
	case err == nil:
		w.source.reached(w, nil)
	case apierrors.IsNotFound(err) && w.defined():
		w.absent()
	case apierrors.IsResourceExpired(err), apierrors.IsGone(err), apierrors.IsInvalid(err):
	case apierrors.IsForbidden(err) && (w.defined() || w.Kind == kindNode || w.Kind == objects.KindPod):
		w.source.refused(w, fmt.Sprintf("they are not read; what was read before stays: %v", err))
		w.stop()
	default:
		w.source.reached(w, err)
	}
	return err
}

// worded gives words to a refusal without any, as proxies and aggregated API servers send them.
func worded(err error) error {
	var said apierrors.APIStatus
	if err == nil || err.Error() != "" || !errors.As(err, &said) {
		return err
	}
	return fmt.Errorf("HTTP %d %s%w", said.Status().Code, said.Status().Reason, err)
}

// defined says that the kind is not Kubernetes' own, and exists where somebody has defined it.
func (k *kind) defined() bool { return k.GroupVersion != core && k.GroupVersion != discovery }

// absent is for a kind that nobody has defined: there are none of it, until it is looked for again.
func (w *watched) absent() {
	_ = w.Replace(nil, "")
	w.source.reached(w, nil)
	w.stop()
}

// Transformer has lists kept as items while they come in.
func (w *watched) Transformer() cache.TransformFunc {
	return func(o any) (any, error) { return w.item(o) }
}

// item takes what counts of an object.
func (w *watched) item(o any) (*item, error) {
	if i, ok := o.(*item); ok {
		return i, nil
	}
	m, err := meta.Accessor(o)
	if err != nil {
		return nil, err
	}
	i := &item{ObjectMeta: metav1.ObjectMeta{Namespace: m.GetNamespace(), Name: m.GetName(), ResourceVersion: m.GetResourceVersion()}}
	i.zone = m.GetLabels()[corev1.LabelTopologyZone]
	if w.read != nil {
		i.object, i.err = w.read(objects.Meta{
			Kind: w.Kind, Namespace: i.Namespace, Name: i.Name, Labels: m.GetLabels(), Annotations: m.GetAnnotations(),
		}, o.(runtime.Object))
	}
	return i, nil
}

// Add takes an object that is new.
func (w *watched) Add(o any) error { return w.Update(o) }

// Update takes an object as it is now.
func (w *watched) Update(o any) error {
	i, err := w.item(o)
	if err != nil {
		return err
	}
	w.source.mu.Lock()
	defer w.source.mu.Unlock()
	if w.put(i) {
		w.source.changed()
	}
	return nil
}

// Delete takes an object out.
func (w *watched) Delete(o any) error {
	m, err := meta.Accessor(o)
	if err != nil {
		return err
	}
	w.source.mu.Lock()
	defer w.source.mu.Unlock()
	if w.drop(m.GetNamespace(), m.GetName()) {
		w.source.changed()
	}
	return nil
}

// Replace takes all objects there are. Of those that have not changed it only learns that.
func (w *watched) Replace(list []any, _ string) error {
	w.source.mu.Lock()
	defer w.source.mu.Unlock()
	there := make(map[string]bool, len(list))
	_, complained := w.source.wrong[w.resource]
	news := !w.listed || complained
	for _, o := range list {
		m, err := meta.Accessor(o)
		if err != nil {
			return err
		}
		key := m.GetNamespace() + "/" + m.GetName()
		there[key] = true
		if version, held := w.held[key]; held && version == m.GetResourceVersion() {
			continue
		}
		i, err := w.item(o)
		if err != nil {
			return err
		}
		news = w.put(i) || news
	}
	for key := range w.held {
		if !there[key] {
			namespace, name, _ := cutKey(key)
			news = w.drop(namespace, name) || news
		}
	}
	w.listed = true
	delete(w.source.wrong, w.resource)
	if news {
		w.source.changed()
	}
	return nil
}

// Resync is never asked for.
func (w *watched) Resync() error { return nil }
