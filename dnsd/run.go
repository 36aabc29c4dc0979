package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodens-dns/nodens/dnsd/file"
	"github.com/nodens-dns/nodens/dnsd/lb"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/pods"
	"github.com/nodens-dns/nodens/dnsd/resolve"
	"github.com/nodens-dns/nodens/dnsd/serve"
	"github.com/nodens-dns/nodens/dnsd/upstream"
	"github.com/nodens-dns/nodens/dnsd/xds"
	"github.com/nodens-dns/nodens/ebpf"
)

// beatEvery is how often the kernel is told that this process runs; after two seconds without, queries
// go to the nameserver the pod asked.
const beatEvery = 500 * time.Millisecond

// daemon is everything dnsd consists of, wired but not yet running.
type daemon struct {
	config   *Config
	log      *slog.Logger
	started  time.Time
	datapath *ebpf.Datapath
	vips     *mesh.VIPs
	upstream *upstream.Client
	server   *serve.Server
	pods     *pods.Pods
	resolver *resolve.Resolver
	adopted  chan struct{} // closed when the pods that were there before are known
	keep     *keeper
	hub      *hub
	sources  []source
	drain    drainer
}

// source is one place the mesh is learnt from.
type source struct {
	name string
	run  func(ctx context.Context, emit func(mesh.Input)) error
	// follow says which namespaces have pods here, streams is what comes of it, and idle that nothing can
	// be expected from the source now; nil where a source does not care.
	follow  func(namespaces []string)
	streams func() []xds.Stream
	idle    func() bool
}

// run is the daemon's life: attach, remember, first pass, then everything at once until ctx is done.
// The programs, the rows and their maps stay when it returns: the next daemon adopts them, and until
// then queries go to the nameservers the pods asked.
func run(ctx context.Context, c *Config, log *slog.Logger) error {
	for _, dir := range []string{c.StateDir, c.RunDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	unlock, err := alone(c.StateDir, c.RunDir)
	if err != nil {
		return err
	}
	defer unlock()
	d, err := wire(ctx, c, log)
	if err != nil {
		return err
	}
	defer func() { _ = d.datapath.Close() }()

	// The first pass comes before the first listener: a name known from the last run must not be
	// asked elsewhere because its table was a moment late.
	d.datapath.Beat()
	due := d.hub.pass()
	log.Info("started", "version", version, "sources", d.hub.sources,
		"names", len(d.hub.state.Load().plan.Names), "took", time.Since(d.started).Round(time.Millisecond))

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.beat(ctx) })
	g.Go(func() error { return d.hub.run(ctx, due) })
	g.Go(func() error { return d.keep.run(ctx) })
	g.Go(func() error { return tidy(ctx, log) })
	g.Go(func() error { return d.resolve(ctx) })
	g.Go(func() error { return d.pods.Run(ctx) })
	g.Go(func() error { return d.endSockets(ctx) })
	g.Go(func() error { return d.serveAdmin(ctx) })
	g.Go(func() error { return d.logQueries(ctx) })
	for _, s := range d.sources {
		g.Go(func() error {
			if err := s.run(ctx, d.hub.emit(ctx)); err != nil && ctx.Err() == nil {
				return fmt.Errorf("source %s: %w", s.name, err)
			}
			return nil
		})
	}
	err = g.Wait()
	d.pods.Close()
	log.Info("stopped; pods keep their connections, their queries go to their own nameservers")
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// wire makes the parts in the order they need each other; nothing runs yet.
func wire(ctx context.Context, c *Config, log *slog.Logger) (*daemon, error) {
	d := &daemon{config: c, log: log, started: time.Now()}
	var err error
	if d.keep, err = newKeeper(c.inputs(), log); err != nil {
		return nil, err
	}
	if d.vips, err = mesh.OpenVIPs(c.vips(), c.VIPs.V4, c.VIPs.V6); err != nil {
		return nil, err
	}
	d.sources = c.sources(log)
	var order []string
	for _, s := range d.sources {
		order = append(order, s.name)
	}
	d.hub = newHub(log, d.vips, append(order, "resolve"), d.keep)

	if d.datapath, err = ebpf.Upgrade(d.ebpfOptions()); err != nil {
		return nil, fmt.Errorf("attach the kernel half: %w", err)
	}
	if err := d.datapath.SetRanges(c.VIPs.V4, c.VIPs.V6); err != nil {
		return nil, err
	}
	if d.hub.services, err = d.datapath.Services(); err != nil {
		return nil, fmt.Errorf("read back the kernel's services: %w", err)
	}
	d.upstream = upstream.New(upstream.Options{Zones: c.zones, Dial: marked})
	d.hub.answers = newAnswers(c.KernelAnswers, d.datapath, log)
	d.server = serve.New(serve.Options{Upstream: d.upstream, Learn: d.hub.answers.learn()})
	d.resolver = resolve.New(resolve.Options{
		Exchange: d.upstream.Ask, Servers: d.resolvers, Emit: d.hub.emit(ctx),
		Initial: d.hub.resolved, Log: log,
	})
	d.adopted = make(chan struct{})
	adopted := sync.OnceFunc(func() { close(d.adopted) })
	d.pods = pods.New(pods.Options{
		Dir: c.attachments(), Bell: c.bell(), Kernel: d.datapath, Answers: d.hub.answers.attacher(), Serve: d.server,
		Nameservers: c.Nameservers, ClusterDomain: c.ClusterDomain, Log: log, Host: c.host(),
		Changed: func() { d.follow(); adopted(); d.resolver.Reask() },
	})
	d.hub.server, d.hub.resolver = d.server, d.resolver
	d.hub.balancer = lb.New(d.hub.services, lb.Options{})
	d.hub.names.ClusterDomain, d.hub.names.VIPs = c.ClusterDomain, []netip.Prefix{c.VIPs.V4, c.VIPs.V6}
	return d, nil
}

func (d *daemon) ebpfOptions() ebpf.Options {
	return ebpf.Options{CgroupPath: d.config.Cgroup, PinPath: d.config.BPFPath}
}

// sources are the configured ones in order of precedence: what a file says wins over the control plane.
func (c *Config) sources(log *slog.Logger) []source {
	var s []source
	if c.File != nil {
		f := file.New(file.Options{Dir: c.File.Dir, ClusterDomain: c.ClusterDomain, Log: log})
		s = append(s, source{name: "file", run: f.Run})
	}
	if c.Etcd != nil {
		s = append(s, source{name: "etcd", run: c.Etcd.source(log).Run})
	}
	if c.XDS != nil {
		x := c.XDS.source(log)
		s = append(s, source{
			name: "xds", run: x.Run, follow: x.Follow, streams: x.Streams,
			// Without a pod there is nobody to ask for.
			idle: func() bool { return len(x.Streams()) == 0 },
		})
	}
	return s
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
	if len(d.config.resolvers) > 0 {
		return d.config.resolvers
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
