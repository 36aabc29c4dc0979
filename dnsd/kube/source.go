// Package kube learns the mesh from the Kubernetes API, and says it in mesh words.
//
// It lists and watches Services, EndpointSlices, Namespaces and this node, and where their definitions exist
// Istio's ServiceEntries, WorkloadEntries and DestinationRules, and the ServiceImports of a set of clusters; a
// definition that appears later is noticed. Pods are watched from the first entry on that selects its endpoints
// by labels. Of each object only what counts is kept. Before everything has
// been listed once nothing is said, but why that is.
//
// While the API can be reached, its word on the cluster's domain is complete: what it does not know there
// does not exist. While it cannot, what it said last stays, and others may know better.
package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/objects"
)

// Options say which API to ask, and as whom.
type Options struct {
	// Name signs inputs and problems; empty means "kube".
	Name string
	// Kubeconfig is a file; empty means the service account of the pod that dnsd runs in.
	Kubeconfig string
	// Context is one of the kubeconfig's; empty means its current one.
	Context string
	// ClusterDomain is the domain of Kubernetes services; empty means cluster.local.
	ClusterDomain string
	// Remote means that this node is of another cluster: only Services and their endpoints count.
	Remote bool
	// Node is this node's name in Kubernetes.
	Node string
	// Log takes changes of state: lost, reached again. Nil means nobody listens.
	Log *slog.Logger
}

// Source is one cluster's API. Run it once.
type Source struct {
	options Options
	log     *slog.Logger
	timing  timing
	ring    chan struct{} // holds one: there is news
	// selecting is closed by watchPods, from the first entry on that selects pods.
	selecting chan struct{}
	watchPods func()

	mu         sync.Mutex // guards what follows
	set        *objects.Set
	wrong      map[string]mesh.Problem // what cannot be used, by what it is called: objects, kinds, the configuration
	namespaces map[string]bool
	kinds      []*watched
	spoken     bool // all that there was to list has been listed once
}

// timing is every duration of the source, so that tests need not wait for them.
type timing struct {
	// coalesce is how long after a change others are waited for; making an input of it all is rested from for
	// restFor times as long as it took.
	coalesce time.Duration
	restFor  int
	// missing is how often a definition that is not there is looked for, and a configuration that cannot be
	// used is read again.
	missing time.Duration
	// patience is how long the API may be out of reach before others are believed to know better.
	patience time.Duration
	// answer is how long the API may take to begin an answer that is a stream, list how long for a whole one.
	answer, list time.Duration
}

// New returns a source that has not asked anything yet.
func New(o Options) *Source {
	o.Name = cmp.Or(o.Name, "kube")
	o.ClusterDomain = cmp.Or(o.ClusterDomain, "cluster.local")
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Source{
		options: o, log: log.With("source", o.Name), ring: make(chan struct{}, 1),
		timing: timing{
			coalesce: 30 * time.Millisecond, restFor: 10, missing: 30 * time.Second, patience: 10 * time.Second,
			answer: 30 * time.Second, list: 2 * time.Minute,
		},
		set:        objects.New(objects.Options{Source: o.Name, ClusterDomain: o.ClusterDomain, Place: objects.Place{Node: o.Node}, Live: true}),
		wrong:      map[string]mesh.Problem{},
		namespaces: map[string]bool{},
	}
	s.selecting = make(chan struct{})
	s.watchPods = sync.OnceFunc(func() { close(s.selecting) })
	for _, k := range kinds {
		if o.Remote && k.Kind != objects.KindService && k.Kind != objects.KindEndpointSlice {
			continue
		}
		s.kinds = append(s.kinds, &watched{kind: k, source: s, held: map[string]string{}})
	}
	return s
}

// Run watches, and calls emit with all there is, at first and after each change, until ctx is done; then it
// returns nil. emit may block; the inputs are not touched again.
func (s *Source) Run(ctx context.Context, emit func(mesh.Input)) error {
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, klog.Logger{})) // the log is ours
	defer cancel()
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { s.watch(ctx) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.ring:
		}
		if !sleep(ctx, s.timing.coalesce) {
			return nil
		}
		start := time.Now()
		in, ready := s.input()
		took := time.Since(start)
		if !ready {
			continue
		}
		emit(in)
		if !sleep(ctx, time.Duration(s.timing.restFor)*took) {
			return nil
		}
	}
}

// watch makes clients, and watches all kinds with them until ctx is done.
func (s *Source) watch(ctx context.Context) {
	var clients []rest.Interface
	for said := ""; ; {
		var err error
		clients, err = s.clients()
		s.configured(err)
		if err == nil {
			break
		}
		if err.Error() != said {
			said = err.Error()
			s.log.Error("the Kubernetes API cannot be asked; trying again", "error", err, "every", s.timing.missing)
		}
		if !sleep(ctx, s.timing.missing) {
			return
		}
	}
	var all sync.WaitGroup
	defer all.Wait()
	for i, w := range s.kinds {
		all.Go(func() { w.run(ctx, clients[i]) })
	}
}

// clients reads the configuration, and the files that it names.
func (s *Source) clients() (all []rest.Interface, err error) {
	config, err := s.options.client()
	if err != nil {
		return nil, err
	}
	for _, w := range s.kinds {
		client, err := restClient(config, w.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("configuration of the Kubernetes API: %w", err)
		}
		all = append(all, client)
	}
	return all, nil
}

// configured notes whether the configuration can be used.
func (s *Source) configured(err error) {
	const object = "configuration of the Kubernetes API"
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.wrong, object)
	if err != nil {
		s.wrong[object] = mesh.Problem{Source: s.options.Name, Object: object, Reason: err.Error() + "; it is read again and again"}
		s.changed()
	}
}

// sleep is false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// changed lets Run know that there is news.
func (s *Source) changed() {
	select {
	case s.ring <- struct{}{}:
	default: // it is ringing already
	}
}

// input is all there is. As long as something has never been listed, it is at most why, and nothing where
// there is no why. Pods are waited for only at first: who selects some later has no endpoints until they are
// listed, and holds up nobody else.
func (s *Source) input() (in mesh.Input, ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending := slices.ContainsFunc(s.kinds, func(w *watched) bool {
		return !w.listed && (w.Kind != objects.KindPod || s.set.Selects() && !s.spoken)
	})
	s.spoken = s.spoken || !pending
	if in = (mesh.Input{Source: s.options.Name, Pending: true}); !pending {
		in = s.set.Input()
	}
	for _, key := range slices.Sorted(maps.Keys(s.wrong)) {
		in.Problems = append(in.Problems, s.wrong[key])
	}
	lost := false
	for _, w := range s.kinds {
		if w.failure == nil || time.Since(w.since) < s.timing.patience {
			continue
		}
		lost = true
		in.Problems = append(in.Problems, mesh.Problem{
			Source: s.options.Name, Object: w.resource + " of the Kubernetes API",
			Reason: fmt.Sprintf("out of reach: %v; what it said last stays", w.failure),
		})
	}
	if !lost && !pending && !s.options.Remote {
		in.Zones = []mesh.Zone{{Name: strings.ToLower(s.options.ClusterDomain), Namespaces: slices.Sorted(maps.Keys(s.namespaces))}}
	}
	return in, !pending || len(in.Problems) > 0
}

// reached notes how asking for a kind went; err is nil where it went well.
func (s *Source) reached(w *watched, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	s.mu.Lock()
	before := w.failure
	w.failure = err
	if before == nil {
		w.since = time.Now()
	}
	s.mu.Unlock()
	switch {
	case before == nil && err != nil:
		time.AfterFunc(s.timing.patience, s.changed)
		s.log.Warn("the Kubernetes API does not answer; what it said last stays", "kind", w.resource, "error", err)
	case before != nil && err == nil:
		s.log.Info("the Kubernetes API answers again", "kind", w.resource)
		s.changed()
	}
}
