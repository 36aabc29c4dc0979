package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/dnsd/admin"
	"github.com/nodens-dns/nodens/dnsd/answers"
	"github.com/nodens-dns/nodens/dnsd/config"
	"github.com/nodens-dns/nodens/dnsd/keep"
	"github.com/nodens-dns/nodens/dnsd/lb"
	"github.com/nodens-dns/nodens/dnsd/machine"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/pods"
	"github.com/nodens-dns/nodens/dnsd/resolve"
	"github.com/nodens-dns/nodens/dnsd/serve"
	"github.com/nodens-dns/nodens/dnsd/show"
	"github.com/nodens-dns/nodens/dnsd/tenure"
	"github.com/nodens-dns/nodens/dnsd/upstream"
	"github.com/nodens-dns/nodens/ebpf"
)

// beatEvery is how often the kernel is told that this process runs; after two seconds without, queries
// go to the nameserver the pod asked.
const beatEvery = 500 * time.Millisecond

// daemon is everything dnsd consists of, wired but not yet running.
type daemon struct {
	config   *config.Config
	log      *slog.Logger
	started  time.Time
	datapath *ebpf.Datapath
	vips     *mesh.VIPs
	upstream *upstream.Client
	server   *serve.Server
	pods     *pods.Pods
	resolver *resolve.Resolver
	adopted  chan struct{} // closed when the pods that were there before are known
	keep     *keep.Inputs
	hub      *hub
	sources  []source
	drain    drainer
	show     *show.Node
	admin    *admin.Server

	settled chan struct{} // closed when the pods that were there before are served

	learning  *group   // what writes
	answering *group   // what does not
	bell      *os.File // to be handed over
	begun     bool
	done      chan struct{}
	closing   sync.Once
	closed    error
}

// wire makes the parts in the order they need each other; nothing runs yet.
func wire(ctx context.Context, c *config.Config, log *slog.Logger, l *tenure.Lease, given estate) (_ *daemon, err error) {
	d := &daemon{config: c, log: log, started: time.Now(), settled: make(chan struct{})}
	defer func() {
		if err == nil {
			return
		}
		given.close()
		if d.datapath != nil {
			_ = d.datapath.Close()
		}
	}()
	if d.keep, err = keep.Open(c.Inputs(), log); err != nil {
		return nil, err
	}
	if d.vips, err = mesh.OpenVIPs(c.VIPFile(), c.VIPs.V4, c.VIPs.V6); err != nil {
		return nil, err
	}
	d.sources = sources(c, log, d.keep)
	var order []string
	for _, s := range d.sources {
		order = append(order, s.name)
	}
	d.hub = newHub(log, d.vips, append(order, "resolve"), d.keep)
	for _, s := range d.sources {
		if s.told != nil {
			d.hub.told = append(d.hub.told, s.told)
		}
	}

	if err := d.openKernel(l.From != nil); err != nil {
		return nil, err
	}
	d.upstream = upstream.New(upstream.Options{Zones: c.ForwardZones, Dial: machine.Marked})
	d.hub.answers = answers.New(c.KernelAnswers, d.datapath, log)
	d.server = serve.New(serve.Options{Upstream: d.upstream, Learn: d.hub.answers.Learn()})
	d.resolver = resolve.New(resolve.Options{
		Exchange: d.upstream.Ask, Servers: d.resolvers, Emit: d.hub.emit(ctx),
		Initial: d.hub.resolved, Log: log,
	})
	d.pods = d.newPods(given)
	d.hub.server, d.hub.resolver = d.server, d.resolver
	d.hub.balancer = lb.New(d.hub.services, lb.Options{})
	d.hub.names.Version = version
	d.hub.names.ClusterDomain, d.hub.names.VIPs = c.ClusterDomain, []netip.Prefix{c.VIPs.V4, c.VIPs.V6}
	d.hub.names.Elsewhere, d.hub.names.Endpoint = c.Elsewhere(), d.hub.spreads
	d.show = d.shown()
	d.show.Tenure = func() admin.Tenure { return told(l.Story()) }
	return d, nil
}

// openKernel attaches the kernel half, or has it ready to be attached beside that of a dnsd that is at work.
func (d *daemon) openKernel(beside bool) (err error) {
	load := ebpf.Upgrade
	if beside {
		load = ebpf.Stage
	}
	if d.datapath, err = load(d.ebpfOptions()); err != nil {
		return fmt.Errorf("attach the kernel half: %w", err)
	}
	if err := d.datapath.SetRanges(d.config.VIPs.V4, d.config.VIPs.V6); err != nil {
		return err
	}
	if d.hub.services, err = d.datapath.Services(); err != nil {
		return fmt.Errorf("read back the kernel's services: %w", err)
	}
	return nil
}

// newPods makes what serves the pods, with the sockets that were handed over.
func (d *daemon) newPods(given estate) *pods.Pods {
	c := d.config
	var host func() (attach.Attachment, error)
	if c.CaptureHost {
		host = machine.Attachment
	}
	d.adopted = make(chan struct{})
	adopted := sync.OnceFunc(func() { close(d.adopted) })
	return pods.New(pods.Options{
		Dir: c.Attachments(), Bell: c.Bell(), Kernel: d.datapath, Serve: d.server,
		Answers: d.hub.answers.ForPods(d.namespaceOf), Light: c.Light, Nameservers: c.Nameservers,
		ClusterDomain: c.ClusterDomain, Log: d.log, Host: host,
		Changed:   func() { d.follow(); adopted(); d.resolver.Reask() },
		Inherited: given.sockets, Doorbell: given.bell, Settled: func() { close(d.settled) },
	})
}

// forget forgets what sources said that are not configured any more. It waits for who else might need that to
// have gone.
func (d *daemon) forget() {
	kept := slices.Clone(d.hub.sources)
	for _, s := range d.sources {
		kept = append(kept, s.members...)
	}
	if err := d.keep.Forget(kept...); err != nil {
		d.log.Warn("what is on disk may be believed when its source is configured again", "error", err)
	}
}

// letGo closes what is open of the kernel's half, which stays at work, and the bell that was handed over.
func (d *daemon) letGo() {
	_ = d.hub.answers.Close()
	_ = d.datapath.Close()
	if d.bell != nil {
		_ = d.bell.Close()
	}
}

// shown is what others may read of d.
func (d *daemon) shown() *show.Node {
	n := &show.Node{
		Version: version, Started: d.started, Log: d.log, State: d.hub.state.Load, Kernel: d.hub, Answers: d.hub.answers,
		Pods: d.pods, Server: d.server, Upstream: d.upstream, Resolver: d.resolver, Datapath: d.datapath, Attach: d.ebpfOptions(),
		Draining: d.drain.waits.Load, V4: d.config.VIPs.V4, V6: d.config.VIPs.V6,
	}
	for _, s := range d.sources {
		n.Sources = append(n.Sources, show.Source{Name: s.name, Idle: s.idle, Streams: s.streams})
	}
	return n
}

func (d *daemon) ebpfOptions() ebpf.Options {
	return ebpf.Options{CgroupPath: d.config.Cgroup, PinPath: d.config.BPFPath}
}

// resolve begins when the pods that were there before are known, and with them their nameservers: the
// node's own would say of a host in the cluster's domain that it does not exist.
func (d *daemon) resolve(ctx context.Context) error {
	select {
	case <-d.adopted:
		return d.resolver.Run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// resolvers are asked for names of DNS-type clusters that name no resolver: the configured ones, else
// the nameservers of this node's pods (a host may live in the cluster's own domain, which only they
// know), else the node's own.
func (d *daemon) resolvers() []netip.AddrPort {
	if len(d.config.ResolverAddresses) > 0 {
		return d.config.ResolverAddresses
	}
	if ns := d.pods.Nameservers(); len(ns) > 0 {
		return ns
	}
	servers, _, err := upstream.ResolvConf("/etc/resolv.conf")
	if err != nil {
		d.log.Warn("no resolver for DNS clusters; set resolvers in the configuration", "error", err)
	}
	return servers
}

// follow tells the sources which namespaces have pods here.
func (d *daemon) follow() {
	for _, s := range d.sources {
		if s.follow != nil {
			s.follow(d.pods.Namespaces())
		}
	}
}

func (d *daemon) beat(ctx context.Context) error {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		d.datapath.Beat()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// namespaceOf is that of the pod whose network namespace has this cookie.
func (d *daemon) namespaceOf(cookie uint64) string {
	for _, p := range d.pods.List() {
		if p.Cookie == cookie {
			return p.Namespace
		}
	}
	return ""
}
