// Package show says what this node's dnsd does and why: the status, the rows and explanations of the commands
// that ask, and the metrics. It reads what the parts of the daemon know at that moment, and changes nothing.
package show

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/nodens-dns/nodens/dnsd/admin"
	"github.com/nodens-dns/nodens/dnsd/answers"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/pods"
	"github.com/nodens-dns/nodens/dnsd/resolve"
	"github.com/nodens-dns/nodens/dnsd/serve"
	"github.com/nodens-dns/nodens/dnsd/upstream"
	"github.com/nodens-dns/nodens/ebpf"
)

// Node is everything there is to be read. All of it must be set.
type Node struct {
	Version string
	Started time.Time
	Log     *slog.Logger
	// State is what the last pass left.
	State    func() *State
	Sources  []Source // in order of precedence
	Pods     *pods.Pods
	Server   *serve.Server
	Upstream *upstream.Client
	Resolver *resolve.Resolver
	Answers  *answers.Answers
	Datapath *ebpf.Datapath
	Attach   ebpf.Options // of Datapath
	Kernel   kernel
	// Tenure is how this dnsd came to work here.
	Tenure func() admin.Tenure
	// Draining is how many connections are in their drain time.
	Draining func() int64
	// V4 and V6 are the ranges of virtual addresses.
	V4, V6 netip.Prefix
}

// kernel is what the kernel holds of the plan.
type kernel interface {
	Held() (frontends, backends int)
	Backends() map[string][]ebpf.BackendState // by assignment
}

// Source is one place the mesh is learnt from.
type Source struct {
	Name string
	// Idle says that nothing can be expected from it now, and Streams how its connections are; nil where there
	// is nothing to say.
	Idle    func() bool
	Streams func() []admin.Stream
}

// State is what a pass left: a plan, and how far it is applied. It is never edited.
type State struct {
	Plan   *mesh.Plan
	VIPs   mesh.Usage
	Said   map[string]Said      // by source
	Spoke  map[string]time.Time // when each source last said something in this process
	Err    error                // why the last pass is not wholly applied
	Passes uint64
	Took   time.Duration
}

// Said is how much a source has told of.
type Said struct {
	Pending                   bool
	Hosts, Clusters, Problems int
}

// Options are what admin answers of n; where, the caller adds.
func (n *Node) Options() admin.Options {
	return admin.Options{
		Status: n.status, Names: n.nameRows, Clusters: n.clusterRows, Pods: n.podRows,
		Explain: n.explain, Queries: n.queries, Ready: n.ready, Registry: n.registry(),
	}
}
