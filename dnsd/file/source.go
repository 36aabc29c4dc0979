// Package file learns the mesh from manifests in a folder, and goes on watching it.
//
// Every *.yaml, *.yml and *.json file of the folder is read, with any number of documents and lists in
// each: Istio's ServiceEntry, WorkloadEntry and DestinationRule, Kubernetes' Service and EndpointSlice, and routes (DNS).
// The folder is the whole truth of this source: an object is gone when its document is. A document that cannot be
// used is a problem with its file and place; the others work, and so does what it said before it broke.
//
// A folder that cannot be read at all says nothing, which is not the same as an empty one: what it said
// last stays, and if it never said anything, nothing is emitted.
package file

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/objects"
)

// sourceName is what inputs and problems of this package are signed with.
const sourceName = "file"

// Options say which folder to read.
type Options struct {
	// Dir is the folder. It need not exist yet.
	Dir string
	// ClusterDomain is the domain of Kubernetes services; empty means cluster.local.
	ClusterDomain string
	// Node is this node's name in Kubernetes: some Services are for its own endpoints only.
	Node string
	// Routes says that routes are served on this node; where they are not, each is a problem.
	Routes bool
	// Log takes changes of state: unreadable, readable again. Nil means nobody listens.
	Log *slog.Logger
}

// Source is one folder. Run it once.
type Source struct {
	dir, domain string
	node        string
	routes      bool // are served
	log         *slog.Logger
	timing      timing

	good     memory            // every object as it was last good
	problems []mesh.Problem    // of the newest input
	digest   [sha256.Size]byte // of what it was made of
	spoke    bool              // there was one
	lost     bool              // the folder could not be read last time
}

// timing is every duration of the source, so that tests need not wait for them.
type timing struct {
	// quiet is how long nothing may happen in the folder before it is read: files are often written
	// in pieces. After most it is read anyway.
	quiet, most time.Duration
	// resync is how often the folder is read though nobody reported a change: what a symbolic link
	// leads to changes unseen. retry is the same while the folder cannot be watched.
	resync, retry time.Duration
}

// New returns a source that has not read anything yet.
func New(o Options) *Source {
	s := &Source{dir: o.Dir, domain: o.ClusterDomain, node: o.Node, routes: o.Routes, log: o.Log, timing: timing{
		quiet: 100 * time.Millisecond, most: time.Second,
		resync: 30 * time.Second, retry: 2 * time.Second,
	}}
	if s.domain == "" {
		s.domain = "cluster.local"
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log = s.log.With("source", sourceName, "dir", o.Dir)
	return s
}

// Run reads the folder and calls emit with all it holds, at first and after each change, until ctx is
// done; then it returns nil. emit may block; the inputs are not touched again.
func (s *Source) Run(ctx context.Context, emit func(mesh.Input)) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		s.log.Warn("cannot watch, reading at intervals", "error", err, "every", s.timing.retry)
		watcher = &fsnotify.Watcher{} // its channels are nil: no events, only time
	} else {
		defer func() { _ = watcher.Close() }()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		// Watch before reading, so that no change falls between; again each time, since the folder
		// may be another one of the same name by now.
		next := s.timing.resync
		if err != nil || watcher.Add(s.dir) != nil {
			next = s.timing.retry
		}
		s.read(emit)
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
			s.settle(ctx, watcher)
		case <-watcher.Errors: // events were lost
		case <-timer.C:
		}
	}
}

// settle waits until nothing has happened for a while.
func (s *Source) settle(ctx context.Context, watcher *fsnotify.Watcher) {
	most := time.NewTimer(s.timing.most)
	defer most.Stop()
	quiet := time.NewTimer(s.timing.quiet)
	defer quiet.Stop()
	for {
		select {
		case <-watcher.Events:
			quiet.Reset(s.timing.quiet)
		case <-quiet.C:
			return
		case <-most.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// read emits what the folder holds, if that is news.
func (s *Source) read(emit func(mesh.Input)) {
	manifests, err := list(s.dir)
	if err != nil {
		s.lose(err, emit)
		return
	}
	digest := digest(manifests)
	if s.spoke && !s.lost && s.digest == digest {
		return
	}
	if s.lost {
		s.log.Info("the folder can be read again")
	}
	var in mesh.Input
	in, s.good = decode(manifests, s.options(), s.good)
	if !s.routes {
		refuseRoutes(&in)
	}
	s.digest, s.problems, s.spoke, s.lost = digest, in.Problems, true, false
	emit(in)
}

// lose says once that the folder cannot be read, and what it said last again.
func (s *Source) lose(err error, emit func(mesh.Input)) {
	if s.lost {
		return
	}
	s.log.Warn("cannot read the folder; what it said last stays", "error", err)
	if s.lost = true; !s.spoke {
		return
	}
	in := recall(s.options(), s.good)
	if !s.routes {
		in.Routes = nil
	}
	in.Problems = append(slices.Clone(s.problems), mesh.Problem{
		Source: sourceName, Object: "folder " + s.dir,
		Reason: fmt.Sprintf("%v; what it said last stays (to remove objects, leave the folder empty)", err),
	})
	emit(in)
}

func (s *Source) options() objects.Options {
	return objects.Options{Source: sourceName, ClusterDomain: s.domain, Place: objects.Place{Node: s.node}}
}

// refuseRoutes says of each route that nobody serves it.
func refuseRoutes(in *mesh.Input) {
	for _, r := range in.Routes {
		in.Problems = append(in.Problems, mesh.Problem{
			Source: sourceName, Object: r.Object, Reason: "routes are not served on this node: set routes.file in dnsd's configuration",
		})
	}
	in.Routes = nil
}
