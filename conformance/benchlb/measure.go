package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/conformance/bench"
	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// results are everything one run found out.
type results struct {
	options
	machine bench.Machine
	began   time.Time
	took    time.Duration
	load    [2]string // the machine's load average of a minute, at the beginning and at the end
	missing []string  // of proxies: what could not be had

	udp, tcp         series
	udpWays, tcpWays []string

	full          update   // all services into an empty kernel
	changes       []update // one endpoint of one service
	empty, filled int64    // bytes of maps
	loads         map[string]time.Duration
	replacements  map[string][]time.Duration
}

// field is all that is set up for a run.
type field struct {
	options
	group   *group
	kernel  *kernel
	plain   *lane // no pod of nodens', no rules
	nodens  *lane
	proxied map[string]*lane
}

// measure sets everything up, measures, and takes everything away.
func measure(ctx context.Context, o options) (res *results, err error) {
	f := &field{options: o, proxied: make(map[string]*lane)}
	defer func() { err = errors.Join(err, f.close()) }()
	res = &results{
		options: o, machine: bench.ThisMachine(), began: time.Now(), load: [2]string{loadAverage()},
		loads: make(map[string]time.Duration), replacements: make(map[string][]time.Duration),
	}
	for _, step := range []func(context.Context, *results) error{
		f.setUp, f.fillKernel, f.fillProxies, f.connectUDP, f.connectTCP,
	} {
		if err := errors.Join(ctx.Err(), step(ctx, res)); err != nil {
			return nil, err
		}
	}
	res.took, res.load[1] = time.Since(res.began), loadAverage()
	return res, nil
}

// loadAverage is how many processes wanted to run in the last minute, "?" if that cannot be read.
func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, ok := strings.Cut(string(text), " ")
	if !ok {
		return "?"
	}
	return first
}

func (f *field) setUp(context.Context, *results) (err error) {
	if f.group, err = newGroup(); err != nil {
		return err
	}
	if f.plain, err = newLane("plain"); err != nil {
		return err
	}
	if f.nodens, err = newLane("nodens"); err != nil {
		return err
	}
	if f.kernel, err = newKernel(f.group); err != nil {
		return err
	}
	return f.kernel.enrol(f.nodens)
}

func (f *field) close() error {
	var errs []error
	if f.kernel != nil {
		errs = append(errs, f.kernel.close())
	}
	for _, l := range f.proxied {
		errs = append(errs, l.close())
	}
	for _, l := range []*lane{f.plain, f.nodens} {
		if l != nil {
			errs = append(errs, l.close())
		}
	}
	if f.group != nil {
		errs = append(errs, f.group.close())
	}
	return errors.Join(errs...)
}

// fillKernel writes all services, then one with another endpoint, again and again.
func (f *field) fillKernel(_ context.Context, res *results) (err error) {
	progress("nodens: %d services of %d endpoints", f.services, f.endpoints)
	if res.empty, err = memory(); err != nil {
		return err
	}
	in := f.input(false)
	if res.full, err = f.kernel.update(in); err != nil {
		return err
	}
	if res.filled, err = memory(); err != nil {
		return err
	}
	for round := range f.rounds {
		u, err := f.kernel.update(f.changed(in, round))
		if err != nil {
			return err
		}
		res.changes = append(res.changes, u)
	}
	_, err = f.kernel.update(f.input(true))
	return err
}

// another is an endpoint that no service had before.
func (f *field) another(round int) netip.AddrPort { return f.backend(f.services, round) }

// changed is an input of which the middle service has another first endpoint.
func (f *field) changed(in mesh.Input, round int) mesh.Input {
	in.Clusters = slices.Clone(in.Clusters)
	c := &in.Clusters[f.services/2]
	c.Localities = slices.Clone(c.Localities)
	c.Localities[0].Endpoints = slices.Clone(c.Localities[0].Endpoints)
	c.Localities[0].Endpoints[0].Address = f.another(round).Addr().String()
	return in
}

// fillProxies does the same with kube-proxy's rules, each kind in a node of its own.
func (f *field) fillProxies(ctx context.Context, res *results) error {
	for _, p := range proxies {
		if _, err := exec.LookPath(p.restore[0]); err != nil {
			res.missing = append(res.missing, fmt.Sprintf("%s: %s is not installed", p.name, p.restore[0]))
			continue
		}
		progress("%s: %d services of %d endpoints", p.name, f.services, f.endpoints)
		l, err := newLane(fmt.Sprintf("proxy%d", len(f.proxied)))
		f.proxied[p.name] = l
		if err != nil {
			return err
		}
		if res.loads[p.name], err = p.load(f.options, l.node); err != nil {
			return err
		}
		for round := range min(f.rounds, 5) {
			if err := ctx.Err(); err != nil {
				return err
			}
			took, err := p.replace(f.options, l.node, f.another(round))
			if err != nil {
				return err
			}
			res.replacements[p.name] = append(res.replacements[p.name], took)
		}
	}
	return nil
}

const (
	without     = "without nodens"
	notEnrolled = "not enrolled"
	noVIP       = "enrolled, not a VIP"
)

// connectUDP measures connect() alone: of a UDP socket it sends nothing.
func (f *field) connectUDP(ctx context.Context, res *results) (err error) {
	progress("connect()")
	direct := func(i int) netip.AddrPort { return f.backend(i, 0) }
	ways := []way{
		{without, f.plain, false, direct},
		{notEnrolled, f.plain, true, direct},
		{noVIP, f.nodens, true, direct},
	}
	for j, s := range special {
		ways = append(ways, way{s.name, f.nodens, true, func(int) netip.AddrPort { return vip(f.services + j) }})
	}
	for _, w := range ways {
		res.udpWays = append(res.udpWays, w.name)
	}
	res.udp, err = measureWays(ctx, f.options, f.group, ways, unix.SOCK_DGRAM)
	return err
}

const (
	tcpDirect = "to the backend itself"
	tcpNodens = "nodens"
)

// connectTCP measures new connections, from the first packet to the handshake's end, to services at random.
func (f *field) connectTCP(ctx context.Context, res *results) (err error) {
	progress("new TCP connections")
	ways := []way{
		{tcpDirect, f.plain, false, func(i int) netip.AddrPort { return f.backend(i, 0) }},
		{tcpNodens, f.nodens, true, vip},
	}
	for _, p := range proxies {
		if l := f.proxied[p.name]; l != nil {
			ways = append(ways, way{p.name, l, false, vip})
		}
	}
	for _, w := range ways {
		res.tcpWays = append(res.tcpWays, w.name)
	}
	res.tcp, err = measureWays(ctx, f.options, f.group, ways, unix.SOCK_STREAM)
	return err
}
