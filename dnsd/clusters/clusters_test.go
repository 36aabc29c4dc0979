package clusters

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/keep"
	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// speaker is a cluster that says what it is told to.
type speaker struct {
	Cluster
	say chan mesh.Input
}

func newSpeaker(name string) *speaker {
	sp := &speaker{say: make(chan mesh.Input)}
	sp.Cluster = Cluster{Name: name, Run: func(ctx context.Context, emit func(mesh.Input)) error {
		for {
			select {
			case in := <-sp.say:
				emit(in)
			case <-ctx.Done():
				return nil
			}
		}
	}}
	return sp
}

// Who cannot speak yet, or no more, is what he was last, and one's own cluster is waited for.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	east, west := newSpeaker("east"), newSpeaker("west")
	log := slog.New(slog.DiscardHandler)
	run := func() (heard chan mesh.Input, stop func()) {
		kept, err := keep.Open(dir, log)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		heard = make(chan mesh.Input, 1)
		s := New(Options{Source: "xds", Clusters: []Cluster{east.Cluster, west.Cluster}, Keep: kept, Log: log})
		go func() { ended <- s.Run(ctx, func(in mesh.Input) { heard <- in }) }()
		go func() { ended <- kept.Run(ctx) }()
		return heard, func() {
			cancel()
			for range 2 {
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
		}
	}
	heard, stop := run()
	why := mesh.Problem{Source: "xds", Object: "control plane", Reason: "lost"}
	west.say <- said("xds", "stock", "10.96.0.9", "10.2.0.1", 80)
	if in := <-heard; !in.Pending || len(in.Hosts) > 0 {
		t.Errorf("without this node's own cluster: %+v", in)
	}
	east.say <- said("xds", "cart", "10.96.0.1", "10.1.0.1", 80)
	if got := spreadOver(<-heard); got != "cart 0 10.1.0.1, stock 0 10.2.0.1" {
		t.Errorf("both: %s", got)
	}
	stop()

	heard, stop = run()
	defer stop()
	west.say <- mesh.Input{Source: "xds", Pending: true, Problems: []mesh.Problem{why}}
	in := <-heard
	if got := spreadOver(in); got != "cart 0 10.1.0.1, stock 0 10.2.0.1" || in.Source != "xds" {
		t.Errorf("after a restart: %s", got)
	}
	if len(in.Problems) != 1 || in.Problems[0].Source != "xds-west" || !strings.Contains(in.Problems[0].Reason, "lost") {
		t.Errorf("problems %v", in.Problems)
	}
}
