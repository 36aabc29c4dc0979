// Package clusters makes one source of several clusters, each with a control plane or an API of its own.
//
// Each is followed by itself and remembered by itself, so that one that is away is what it was last, also over
// a restart, while the others go on.
package clusters

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/nodens-dns/nodens/dnsd/keep"
	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// Cluster is one of several.
type Cluster struct {
	// Name is what it is called, Network which network its pods are in.
	Name, Network string
	// Run follows it, and calls emit with all it says, at first and after each change, until ctx is done.
	Run func(ctx context.Context, emit func(mesh.Input)) error
}

// Options say which clusters there are.
type Options struct {
	// Source signs the input of all, and of the first cluster's; those of the others have a hyphen and the
	// cluster's name behind it.
	Source string
	// Clusters are in order: the first is the one that this node is of.
	Clusters []Cluster
	// LocalFirst has connections stay in this cluster as long as enough of a service's endpoints here work.
	LocalFirst bool
	// Keep remembers what each said.
	Keep *keep.Inputs
	Log  *slog.Logger
}

// Source is several clusters as one. Run it once.
type Source struct {
	options Options

	mu   sync.Mutex // guards said, and what follows from it until it is emitted
	said []Said     // by each cluster
}

// New returns a source that nobody has told anything yet.
func New(o Options) *Source {
	s := &Source{options: o}
	for _, c := range o.Clusters {
		s.said = append(s.said, Said{Cluster: c.Name, Network: c.Network})
	}
	return s
}

// Run follows all of them, and says what they come to together, until ctx is done. As long as nothing was ever
// heard of this node's own, nothing is said but why. emit may block; the inputs are not touched again.
func (s *Source) Run(ctx context.Context, emit func(mesh.Input)) error {
	for i := range s.said {
		kept, err := s.options.Keep.Load(s.kept(i))
		if err != nil {
			s.options.Log.Warn("what the cluster last said is lost; waiting for it", "cluster", s.said[i].Cluster, "error", err)
		}
		kept.Zones = nil // there are other names by now
		s.said[i].Input = s.signed(i, kept)
	}
	var g errgroup.Group
	for i, c := range s.options.Clusters {
		g.Go(func() error {
			return c.Run(ctx, func(in mesh.Input) { s.hear(i, s.signed(i, in), emit) })
		})
	}
	return g.Wait()
}

// Kept is under which names it has Options.Keep remember the clusters' own words.
func (s *Source) Kept() (names []string) {
	for i := range s.said {
		names = append(names, s.kept(i))
	}
	return names
}

// kept is under which name a cluster's own words are on disk: beside those of all of them.
func (s *Source) kept(i int) string { return s.options.Source + "-" + s.said[i].Cluster }

// signed is what a cluster says, under its name.
func (s *Source) signed(i int, in mesh.Input) mesh.Input {
	in.Source = s.options.Source
	if i > 0 {
		in.Source = s.kept(i)
	}
	in.Problems = slices.Clone(in.Problems)
	for at := range in.Problems {
		in.Problems[at].Source = in.Source
	}
	return in
}

// hear takes what one of the clusters says.
func (s *Source) hear(i int, in mesh.Input, emit func(mesh.Input)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := &s.said[0].Input
	if said := &s.said[i].Input; in.Pending && !said.Pending {
		said.Problems = in.Problems // it only tells why it cannot speak yet; what it said in an earlier life stays
	} else {
		*said = in
	}
	in.Source = s.kept(i)
	s.options.Keep.Save(in)
	if own.Pending {
		emit(mesh.Input{Source: own.Source, Pending: true, Problems: own.Problems})
		return
	}
	spoken := []Said{s.said[0]}
	for _, other := range s.said[1:] {
		if other.Input.Pending {
			spoken[0].Input.Problems = slices.Concat(spoken[0].Input.Problems, other.Input.Problems)
			continue
		}
		spoken = append(spoken, other)
	}
	emit(Join(spoken, s.options.LocalFirst))
}
