// Package etcd learns names from the keys of SkyDNS in etcd, as CoreDNS's etcd plugin reads them, and goes
// on watching them.
//
// /skydns/com/example/web {"host": "192.0.2.1"} is web.example.com. Within the zones that are served, a
// name has what is below it: .../web/1 and .../web/2 are two values of web.example.com, and names of their
// own. Without zones each key is one name, since nobody can tell then which names are the store's and
// which only lie above one of its own. What a zone has no key for is asked upstream.
//
// Everything is read; then the store tells of changes, and as long as one of its members can be reached,
// another goes on where one has ended. After an outage everything is read again: what answers then may be
// another store, or the same one put back to an earlier state, and would not say so. What was said last stays
// until then. A key that cannot be used is a problem with its name, and the others work.
package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// sourceName is what inputs and problems of this package are signed with.
const sourceName = "etcd"

// Options say which keys to read.
type Options struct {
	Store
	// Path is what all keys begin with; empty means /skydns.
	Path string
	// Zones are the domains served; empty means that each key is one name.
	Zones []string
	// Routes says that route objects are read too.
	Routes bool
	// Log takes changes of state: out of reach, in reach again. Nil means nobody listens.
	Log *slog.Logger
}

// Source is one store. Run it once.
type Source struct {
	store  Store
	zones  []string
	roots  []*root
	log    *slog.Logger
	timing timing

	whole  bool // what follows is all there is, not half of what is being read
	tree   *tree
	routes map[string]mesh.Route       // by key
	bad    map[string]mesh.Problem     // by key
	leases map[clientv3.LeaseID]uint32 // seconds granted; never of no lease
	lost   error                       // why the store is out of reach
	said   *mesh.Input                 // newest input, but for the store being out of reach
	last   *mesh.Input                 // newest input emitted
}

// root is a part of the store.
type root struct {
	prefix string
	put    func(key string, data []byte, lease uint32) error // lease is in seconds, 0 for ever
	remove func(key string)
	clear  func()
}

// timing is every duration of the source, so that tests need not wait for them.
type timing struct {
	// quiet is how long nothing may happen before what has changed is told: changes come in bursts. After
	// most it is told anyway.
	quiet, most time.Duration
	// probe is how often the store is asked whether it is there: a watch alone would stay silent.
	probe time.Duration
	// first and longest bound the pause before the next try.
	first, longest time.Duration
}

// New returns a source that has not read anything yet.
func New(o Options) *Source {
	s := &Source{store: o.Store, log: o.Log, leases: map[clientv3.LeaseID]uint32{}, timing: timing{
		quiet: 20 * time.Millisecond, most: time.Second, probe: 5 * time.Second,
		first: 500 * time.Millisecond, longest: 20 * time.Second,
	}}
	for _, zone := range o.Zones {
		s.zones = append(s.zones, strings.ToLower(strings.TrimSuffix(zone, ".")))
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log = s.log.With("source", sourceName, "endpoints", strings.Join(o.Endpoints, " "))
	s.bad = map[string]mesh.Problem{}
	s.roots = append(s.roots, s.names(pathOf(o.Path)))
	if o.Routes {
		s.roots = append(s.roots, s.objects())
	}
	return s
}

// pathOf is what keys begin with.
func pathOf(path string) string {
	if path == "" {
		path = DefaultPath
	}
	return "/" + strings.Trim(path, "/") + "/"
}

// names is the part of the store that holds SkyDNS keys.
func (s *Source) names(path string) *root {
	return &root{
		prefix: path,
		clear:  func() { s.tree = newTree(path, s.zones) },
		remove: func(key string) { s.tree.put(key, nil) },
		put: func(key string, data []byte, lease uint32) error {
			r, err := decode(key, s.tree.nameOf(key), data, lease)
			s.tree.put(key, r) // of a value that cannot be used, nothing stays
			return err
		},
	}
}

// Run reads the store and calls emit with all it holds, at first and after each change, until ctx is
// done; then it returns nil. emit may block; the inputs are not touched again.
func (s *Source) Run(ctx context.Context, emit func(mesh.Input)) error {
	pause := s.timing.first
	for {
		start := time.Now()
		err := s.session(ctx, emit)
		if ctx.Err() != nil {
			return nil
		}
		s.miss(s.store.why(ctx, err), emit)
		if time.Since(start) > s.timing.longest {
			pause = s.timing.first // it had worked for a while
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause/2 + rand.N(pause)): // a cluster's nodes must not come all at once
		}
		pause = min(2*pause, s.timing.longest)
	}
}

// session connects, reads everything, and follows the changes until that fails. Each step but the last ends
// within callTimeout, so that a store that is back is found.
func (s *Source) session(ctx context.Context, emit func(mesh.Input)) error {
	client, err := s.store.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	if err := s.probe(ctx, client); err != nil {
		return err
	}
	ctx, cancel := whileConnected(ctx, client)
	defer cancel(nil)
	at, err := s.read(ctx, client)
	if err == nil {
		s.found()
		s.emit(emit)
		err = s.follow(ctx, client, at+1, emit)
	}
	return because(ctx, err)
}

// probe asks whether the store is there: a watch alone would stay silent.
func (s *Source) probe(ctx context.Context, client *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := client.Get(ctx, s.roots[0].prefix, clientv3.WithCountOnly())
	return err
}

// miss notes and tells that the store is out of reach. What it said last stays.
func (s *Source) miss(err error, emit func(mesh.Input)) {
	if s.lost == nil {
		s.log.Warn("cannot follow the store; what it said last stays", "error", err)
	}
	s.lost = err
	s.emit(emit)
}

func (s *Source) found() {
	if s.lost != nil {
		s.log.Info("the store is in reach again")
		s.lost = nil
	}
}

// emit tells what the store holds, if that is news.
func (s *Source) emit(emit func(mesh.Input)) {
	if s.whole {
		in := s.input()
		s.said = &in
	}
	if s.said == nil && s.lost == nil {
		return
	}
	in := mesh.Input{Source: sourceName, Pending: true}
	if s.said != nil {
		in = *s.said
	}
	if s.lost != nil {
		in.Problems = append([]mesh.Problem{{
			Source: sourceName, Object: "etcd " + strings.Join(s.store.Endpoints, " "),
			Reason: fmt.Sprintf("%v; what it said last stays", s.lost),
		}}, in.Problems...)
	}
	if s.last != nil && reflect.DeepEqual(*s.last, in) {
		return
	}
	s.last = &in
	emit(in)
}

func (s *Source) input() mesh.Input {
	in := mesh.Input{Source: sourceName, Hosts: s.tree.hosts()}
	for _, key := range slices.Sorted(maps.Keys(s.routes)) {
		in.Routes = append(in.Routes, s.routes[key])
	}
	for _, key := range slices.Sorted(maps.Keys(s.bad)) {
		in.Problems = append(in.Problems, s.bad[key])
	}
	return in
}
