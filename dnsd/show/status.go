package show

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/dnsd/admin"
	"github.com/nodens-dns/nodens/dnsd/pods"
	"github.com/nodens-dns/nodens/ebpf"
)

// ready says why this node is not served as its configuration wants, or nil.
func (n *Node) ready() error {
	if err := ebpf.Attached(n.Attach); err != nil {
		return err
	}
	if !n.Pods.Settled() {
		return errors.New("opening the pods that were here before")
	}
	st := n.State()
	var pending []string
	for _, s := range n.Sources {
		if st.Said[s.Name].Pending && (s.Idle == nil || !s.Idle()) {
			pending = append(pending, s.Name)
		}
	}
	if len(pending) > 0 {
		return fmt.Errorf("waiting for the first word of: %s", strings.Join(pending, ", "))
	}
	return st.Err
}

func (n *Node) status() admin.Status {
	st := n.State()
	now := time.Now()
	s := admin.Status{
		Tenure:  n.Tenure(),
		Version: n.Version, Now: now, Started: n.Started,
		Kernel:   n.kernelStatus(now),
		Names:    len(st.Plan.Names),
		Clusters: len(st.Plan.Assignments),
		Queries:  n.outcomes(),
		Upstream: n.upstreamStatus(),
	}
	s.Node, _ = os.Hostname() // without one the line is shorter
	if err := n.ready(); err != nil {
		s.NotReady = oneLine(err)
	}
	for _, src := range n.Sources {
		said := st.Said[src.Name]
		row := admin.Source{
			Name: src.Name, Spoke: st.Spoke[src.Name], Pending: said.Pending,
			Hosts: said.Hosts, Clusters: said.Clusters, Problems: said.Problems,
		}
		if src.Streams != nil {
			row.Streams = src.Streams()
		}
		s.Sources = append(s.Sources, row)
	}
	for _, p := range n.Pods.List() {
		switch p.State {
		case pods.Captured:
			s.Pods.Captured++
		case pods.Balanced:
			s.Pods.Balanced++
		case pods.Shared:
			s.Pods.Shared++
		case pods.Opening:
			s.Pods.Opening++
		case pods.Failed:
			s.Pods.Failed++
		}
	}
	for _, p := range n.Pods.Problems() {
		s.Problems = append(s.Problems, admin.Problem{Source: "pods", Object: p.Object, Reason: p.Reason})
	}
	s.Frontends, s.Backends = n.Kernel.Held()
	s.VIPs = admin.VIPs{
		V4: n.V4.String(), V6: n.V6.String(),
		Used: st.VIPs.Used, Resting: st.VIPs.Resting, Size: st.VIPs.Size,
	}
	for _, p := range st.Plan.Problems {
		s.Problems = append(s.Problems, admin.Problem{Source: p.Source, Object: p.Object, Reason: p.Reason})
	}
	if off := n.Answers.Off(); off != nil {
		s.Problems = append(s.Problems, admin.Problem{Source: "dnsd", Object: "kernelAnswers", Reason: oneLine(off) + ": dnsd answers alone"})
	}
	if st.Err != nil {
		s.Problems = append(s.Problems, admin.Problem{Source: "dnsd", Object: "the plan as a whole", Reason: oneLine(st.Err)})
	}
	return s
}

// oneLine says what several errors joined say, where there is a line for it.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func (n *Node) kernelStatus(now time.Time) admin.Kernel {
	k := admin.Kernel{Heartbeat: now.Add(-n.Datapath.Heartbeat())}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		k.Release = unix.ByteSliceToString(u.Release[:])
	}
	if err := ebpf.Attached(n.Attach); err != nil {
		k.Detached = err.Error()
	}
	for _, f := range n.Datapath.Features() {
		k.Features = append(k.Features, admin.Feature{Name: f.Name, Present: f.Present, Note: f.Detail})
	}
	k.Counters, _ = n.Datapath.Counters()
	return k
}

func (n *Node) upstreamStatus() admin.Upstream {
	st := n.Upstream.Stats()
	u := admin.Upstream{Entries: int64(st.Entries), Bytes: int64(st.Bytes), Hits: st.Hits, Misses: st.Misses}
	for _, s := range st.Servers {
		u.Servers = append(u.Servers, admin.UpstreamServer{
			Address: s.Addr.String(), Down: s.Down, Queries: s.Queries, Failures: s.Failures, Error: s.Error,
		})
	}
	return u
}
