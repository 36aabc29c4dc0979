package main

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

// openAdmin makes what answers health checks, metrics and the ask commands; d.admin.Serve must follow.
func (d *daemon) openAdmin() (err error) {
	d.admin, err = admin.Listen(admin.Options{
		Socket: d.config.AdminSocket(), Listen: d.config.Listen, Health: d.lease.health,
		Status: d.status, Names: d.nameRows, Clusters: d.clusterRows, Pods: d.podRows,
		Explain: d.explain, Queries: d.queries, Ready: d.ready, Registry: d.registry(),
	})
	return err
}

// ready says why this node is not served as its configuration wants, or nil.
func (d *daemon) ready() error {
	if err := ebpf.Attached(d.ebpfOptions()); err != nil {
		return err
	}
	if !d.pods.Settled() {
		return errors.New("opening the pods that were here before")
	}
	st := d.hub.state.Load()
	var pending []string
	for _, s := range d.sources {
		if st.said[s.name].pending && (s.idle == nil || !s.idle()) {
			pending = append(pending, s.name)
		}
	}
	if len(pending) > 0 {
		return fmt.Errorf("waiting for the first word of: %s", strings.Join(pending, ", "))
	}
	return st.err
}

func (d *daemon) status() admin.Status {
	st := d.hub.state.Load()
	now := time.Now()
	s := admin.Status{
		Version: version, Now: now, Started: d.started,
		Kernel:   d.kernelStatus(now),
		Names:    len(st.plan.Names),
		Clusters: len(st.plan.Assignments),
		Queries:  d.outcomes(),
		Upstream: d.upstreamStatus(),
	}
	s.Node, _ = os.Hostname() // without one the line is shorter
	if err := d.ready(); err != nil {
		s.NotReady = oneLine(err)
	}
	for _, src := range d.sources {
		said := st.said[src.name]
		s.Sources = append(s.Sources, admin.Source{
			Name: src.name, Spoke: st.spoke[src.name], Pending: said.pending,
			Hosts: said.hosts, Clusters: said.clusters, Problems: said.problems,
			Streams: src.streamStatus(),
		})
	}
	for _, p := range d.pods.List() {
		switch p.State {
		case pods.Captured:
			s.Pods.Captured++
		case pods.Balanced, pods.Shared:
			s.Pods.Balanced++
		case pods.Opening:
			s.Pods.Opening++
		case pods.Failed:
			s.Pods.Failed++
		}
	}
	for _, p := range d.pods.Problems() {
		s.Problems = append(s.Problems, admin.Problem{Source: "pods", Object: p.Object, Reason: p.Reason})
	}
	s.Frontends, s.Backends = d.hub.held()
	s.VIPs = admin.VIPs{
		V4: d.config.VIPs.V4.String(), V6: d.config.VIPs.V6.String(),
		Used: st.vips.Used, Resting: st.vips.Resting, Size: st.vips.Size,
	}
	for _, p := range st.plan.Problems {
		s.Problems = append(s.Problems, admin.Problem{Source: p.Source, Object: p.Object, Reason: p.Reason})
	}
	if off := d.hub.answers.off; off != nil {
		s.Problems = append(s.Problems, admin.Problem{Source: "dnsd", Object: "kernelAnswers", Reason: oneLine(off) + ": dnsd answers alone"})
	}
	if st.err != nil {
		s.Problems = append(s.Problems, admin.Problem{Source: "dnsd", Object: "the plan as a whole", Reason: oneLine(st.err)})
	}
	return s
}

// streamStatus is how each stream of a source stands.
func (s source) streamStatus() []admin.Stream {
	if s.streams == nil {
		return nil
	}
	var shown []admin.Stream
	for _, st := range s.streams() {
		shown = append(shown, admin.Stream{
			Namespace: st.Namespace, Protocol: st.Protocol, Connected: st.Connected, Versions: st.Versions,
			Error: strings.ReplaceAll(st.Error, "\n", "; "),
		})
	}
	return shown
}

// oneLine says what several errors joined say, where there is a line for it.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func (d *daemon) kernelStatus(now time.Time) admin.Kernel {
	k := admin.Kernel{Heartbeat: now.Add(-d.datapath.Heartbeat())}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		k.Release = unix.ByteSliceToString(u.Release[:])
	}
	if err := ebpf.Attached(d.ebpfOptions()); err != nil {
		k.Detached = err.Error()
	}
	for _, f := range d.datapath.Features() {
		k.Features = append(k.Features, admin.Feature{Name: f.Name, Present: f.Present, Note: f.Detail})
	}
	k.Counters, _ = d.datapath.Counters()
	return k
}

func (d *daemon) upstreamStatus() admin.Upstream {
	st := d.upstream.Stats()
	u := admin.Upstream{Entries: int64(st.Entries), Bytes: int64(st.Bytes), Hits: st.Hits, Misses: st.Misses}
	for _, s := range st.Servers {
		u.Servers = append(u.Servers, admin.UpstreamServer{
			Address: s.Addr.String(), Down: s.Down, Queries: s.Queries, Failures: s.Failures,
		})
	}
	return u
}
