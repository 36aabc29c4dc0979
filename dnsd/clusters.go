package main

import (
	"context"
	"log/slog"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/nodens-dns/nodens/dnsd/keep"
	"github.com/nodens-dns/nodens/dnsd/kube"
	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// clusters are several Kubernetes clusters that are one source: the first is the one this node is of.
type clusters struct {
	sources    []*kube.Source
	localFirst bool
	keep       *keep.Inputs
	log        *slog.Logger

	mu      sync.Mutex // guards members, and what follows from them until it is emitted
	members []kube.Member
}

// run watches all of them, and says what they come to together. One whose API is away is what it was last,
// also over a restart; as long as nothing was ever heard of this node's own, nothing is said.
func (c *clusters) run(ctx context.Context, emit func(mesh.Input)) error {
	for i := range c.members {
		kept, err := c.keep.Load(c.kept(i))
		if err != nil {
			c.log.Warn("what the cluster's API last said is lost; waiting for it", "cluster", c.members[i].Cluster, "error", err)
		}
		kept.Source, kept.Zones = c.members[i].Input.Source, nil // there are other names by now
		c.members[i].Input = kept
	}
	var g errgroup.Group
	for i, s := range c.sources {
		g.Go(func() error {
			return s.Run(ctx, func(in mesh.Input) { c.hear(i, in, emit) })
		})
	}
	return g.Wait()
}

// kept is under which name a cluster's own words are on disk: beside those of all of them.
func (c *clusters) kept(i int) string { return "kube-" + c.members[i].Cluster }

// hear takes what one of the clusters says.
func (c *clusters) hear(i int, in mesh.Input, emit func(mesh.Input)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own := &c.members[0].Input
	if said := &c.members[i].Input; in.Pending && !said.Pending {
		said.Problems = in.Problems // it only tells why it cannot speak yet; what it said in an earlier life stays
	} else {
		*said = in
	}
	in.Source = c.kept(i)
	c.keep.Save(in)
	if own.Pending {
		emit(mesh.Input{Source: own.Source, Pending: true, Problems: own.Problems})
		return
	}
	var spoken []kube.Member
	for _, m := range c.members {
		if !m.Input.Pending {
			spoken = append(spoken, m)
		}
	}
	emit(kube.Join(spoken, c.localFirst))
}
