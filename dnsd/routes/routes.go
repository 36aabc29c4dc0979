// Package routes keeps the node's nginx equal to the host and path routes of the mesh, and says where their
// hosts are.
//
// A route is an object of kind DNS: a host, and for each of its paths the address and port of a service, or
// the name of one. The configuration is rendered whole each time. A host has a name on this node only
// while nginx serves it: what DNS answers can be connected to. What nginx refuses changes nothing. Of several
// that would keep one nginx's file only one does, until it ends.
package routes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// sourceName is what inputs and problems of this package are signed with.
const sourceName = "routes"

// port is where hosts are served.
const port = 80

// Options say which nginx, and where it is.
type Options struct {
	// Address says which of the node's own pods reach nginx at. It is asked before each change and every
	// few seconds; while it knows none, what nginx serves stays.
	Address func() (netip.Addr, error)
	// File is ours in nginx's configuration, included in its http block.
	File string
	// Command is how nginx is run to check its configuration and to reload it; empty means nginx.
	Command []string
	// ClusterDomain is the domain of Kubernetes services; empty means cluster.local.
	ClusterDomain string
	// Log takes changes of state. Nil means nobody listens.
	Log *slog.Logger
}

// Source renders routes. Run it once.
type Source struct {
	nginx  nginx
	domain string
	log    *slog.Logger
	where  func() (netip.Addr, error)
	timing timing
	plans  chan *mesh.Plan // holds the newest

	folder *os.File    // of nginx's file, locked while Run writes there; nil before
	stamp  string      // of what nginx serves; empty before
	hosts  []mesh.Host // what it serves
	last   *mesh.Input // newest emitted
}

// timing is every duration of the source, so that tests need not wait for them.
type timing struct {
	// gap is the least time between two reloads: each starts new workers, while the old ones finish. retry
	// is when one that failed is tried again, and look when it is looked whether the node's address is the same,
	// and nginx serves what it should.
	gap, retry, look time.Duration
}

// New returns a Source that has not rendered anything yet.
func New(o Options) *Source {
	s := &Source{
		domain: o.ClusterDomain, log: o.Log, where: o.Address, plans: make(chan *mesh.Plan, 1),
		timing: timing{gap: 500 * time.Millisecond, retry: 15 * time.Second, look: 10 * time.Second},
		nginx: nginx{
			command: o.Command, file: o.File,
			// A kept connection would stay with a worker of before.
			client: http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		},
	}
	if len(s.nginx.command) == 0 {
		s.nginx.command = []string{"nginx"}
	}
	if s.domain == "" {
		s.domain = "cluster.local"
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log = s.log.With("source", sourceName)
	return s
}

// Set says what is known now. It never blocks; of plans in a row the last one counts.
func (s *Source) Set(plan *mesh.Plan) {
	for {
		select {
		case s.plans <- plan:
			return
		default:
		}
		select {
		case <-s.plans:
		default:
		}
	}
}

// Run renders what Set says, and calls emit with the hosts that nginx serves, until ctx is done; then it
// returns nil. nginx goes on serving them.
func (s *Source) Run(ctx context.Context, emit func(mesh.Input)) error {
	var plan *mesh.Plan
	var again <-chan time.Time
	defer func() { _ = s.folder.Close() }() // and with it the lock
	for {
		select {
		case <-ctx.Done():
			return nil
		case plan = <-s.plans:
		case <-again:
		}
		again = time.After(s.timing.look)
		if s.sync(ctx, plan, emit) != nil {
			again = time.After(s.timing.retry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(s.timing.gap):
		}
	}
}

// sync makes nginx serve the plan's routes, unless it does.
func (s *Source) sync(ctx context.Context, plan *mesh.Plan, emit func(mesh.Input)) error {
	all, problems := sites(plan, s.domain)
	if plan.Partial && slices.ContainsFunc(s.hosts, func(h mesh.Host) bool {
		return !slices.ContainsFunc(all, func(s *site) bool { return s.host == h.Name })
	}) {
		return nil // nothing may be removed on the word of a source that has not spoken
	}
	if err := s.locate(); err != nil {
		problems = append(problems, mesh.Problem{Source: sourceName, Object: "routes.address", Reason: err.Error()})
		// As long as nothing is known here of what nginx serves, what was said in an earlier life stays.
		s.emit(mesh.Input{Source: sourceName, Pending: s.stamp == "", Hosts: s.hosts, Problems: problems}, emit)
		return err
	}
	if err := s.claim(); err != nil {
		// Who writes there says what is served; so far nothing is known here.
		s.emit(mesh.Input{Source: sourceName, Pending: true, Problems: []mesh.Problem{{Source: sourceName, Object: s.nginx.file, Reason: err.Error()}}}, emit)
		return err
	}
	text, stamp := render(all, s.nginx.address)
	hosts := s.hostsOf(all)
	lost := stamp == s.stamp && !s.nginx.has(ctx, stamp)
	if lost {
		s.log.Warn("nginx does not serve the routes any more; telling it again", "file", s.nginx.file)
	}
	if stamp != s.stamp || lost {
		if len(s.hosts) > 0 {
			// What goes has no name any more before it is not served any more.
			staying := slices.DeleteFunc(slices.Clone(s.hosts), func(h mesh.Host) bool {
				return !slices.ContainsFunc(hosts, func(o mesh.Host) bool { return o.Name == h.Name })
			})
			s.emit(mesh.Input{Source: sourceName, Hosts: staying, Problems: problems}, emit)
		}
		if err := s.nginx.apply(ctx, text, stamp); err != nil {
			if ctx.Err() != nil {
				return err
			}
			if lost || s.stamp != "" && !s.nginx.has(ctx, s.stamp) {
				s.stamp, s.hosts = "", nil
			}
			problems = append(problems, mesh.Problem{Source: sourceName, Object: "nginx", Reason: err.Error()})
			s.emit(mesh.Input{Source: sourceName, Hosts: s.served(hosts), Problems: problems}, emit)
			return err
		}
		s.log.Info("nginx serves the routes", "hosts", len(hosts), "file", s.nginx.file)
		s.stamp, s.hosts = stamp, hosts
	}
	s.emit(mesh.Input{Source: sourceName, Hosts: hosts, Problems: problems}, emit)
	return nil
}

// claim makes the folder of nginx's file this Source's own to write in. The lock goes with the process.
func (s *Source) claim() error {
	if s.folder != nil {
		return nil
	}
	dir := filepath.Dir(s.nginx.file)
	folder, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open the folder of nginx's file: %w", err)
	}
	if err := syscall.Flock(int(folder.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = folder.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errors.New("somebody else has it; dnsd waits until he ends (another dnsd that keeps routes here? give it another folder)")
		}
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	s.folder = folder
	return nil
}

// locate asks for the node's address.
func (s *Source) locate() error {
	address, err := s.where()
	if err != nil {
		return fmt.Errorf("the node's address is not known: %w", err)
	}
	s.nginx.address = address
	return nil
}

// served are those of hosts that nginx has served so far: a change that it refuses takes nothing from them.
func (s *Source) served(hosts []mesh.Host) []mesh.Host {
	return slices.DeleteFunc(slices.Clone(s.hosts), func(h mesh.Host) bool {
		return !slices.ContainsFunc(hosts, func(o mesh.Host) bool { return o.Name == h.Name })
	})
}

func (s *Source) hostsOf(all []*site) []mesh.Host {
	var hosts []mesh.Host
	for _, site := range all {
		hosts = append(hosts, mesh.Host{
			Name: site.host, Object: strings.Join(site.objects, ", "), Addresses: []netip.Addr{s.nginx.address}, Headless: true,
		})
	}
	return hosts
}

// emit tells in, if it is news.
func (s *Source) emit(in mesh.Input, emit func(mesh.Input)) {
	if s.last != nil && sameInput(s.last, &in) {
		return
	}
	s.last = &in
	emit(in)
}

func sameInput(a, b *mesh.Input) bool {
	return a.Pending == b.Pending && slices.Equal(a.Problems, b.Problems) && slices.EqualFunc(a.Hosts, b.Hosts, func(x, y mesh.Host) bool {
		return x.Name == y.Name && x.Object == y.Object && slices.Equal(x.Addresses, y.Addresses)
	})
}
