// Package lb makes the kernel's frontends equal to a plan's, and lets none go while clients remember it.
//
// It is the one place where xDS words become kernel words: an assignment becomes a service for each
// address family, its endpoints become backends, a view becomes a number.
package lb

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/ebpf"
)

// DefaultLinger is how long a frontend outlives its name: the 30 s an answer may be remembered, and
// some seconds for the client that uses it at the last moment.
const DefaultLinger = 35 * time.Second

// Options are a Balancer's settings; the zero value is the usual one.
type Options struct {
	// Linger is how long frontends stay after the plan dropped them; 0 means DefaultLinger.
	Linger time.Duration
}

// kernel is what is needed of ebpf.Services.
type kernel interface {
	// Apply makes the kernel hold these frontends and services and no others.
	Apply(frontends map[ebpf.Frontend]string, services map[string]ebpf.Service) (ebpf.Changes, error)
	// Change does the same to these alone; a frontend whose service is "" goes.
	Change(frontends map[ebpf.Frontend]string, services map[string]ebpf.Service) (ebpf.Changes, error)
	// Dump returns what it holds.
	Dump() []ebpf.ServiceState
	// Ejected returns the backends of a service whose handshakes failed.
	Ejected(service string) []netip.AddrPort
}

// Balancer makes the kernel's frontends equal to the newest plan's. It belongs to one goroutine.
//
// Of what is in the kernel it remembers only what the last plan does not say: what lingers, and what
// stands in for clusters that are not warm. What a plan says with the pointers of the last one is there.
type Balancer struct {
	kernel kernel
	linger time.Duration

	plan      *mesh.Plan                   // as last applied
	sound     bool                         // the kernel holds all of it
	lingering map[ebpf.Frontend]*lingering // that no plan has any more
	standIns  map[string]ebpf.Service      // what serves instead of services that are not warm
	ejected   ejections                    // as Look last saw them
}

// lingering is what serves a frontend that the plan has dropped.
type lingering struct {
	name    string
	service ebpf.Service
	since   time.Time // zero as long as no whole plan has left it out
}

// New returns a Balancer that is the only writer of k. What k holds already, from a dnsd before this
// one, counts as applied: it goes the way of everything a plan leaves out, and not before.
func New(k kernel, o Options) *Balancer {
	b := &Balancer{
		kernel:    k,
		linger:    o.Linger,
		plan:      &mesh.Plan{},
		lingering: make(map[ebpf.Frontend]*lingering),
		standIns:  make(map[string]ebpf.Service),
	}
	if b.linger == 0 {
		b.linger = DefaultLinger
	}
	for i, held := range k.Dump() {
		name := fmt.Sprintf("%s %d", formerly, i) // the kernel does not keep names
		for _, f := range held.Frontends {
			b.lingering[f] = &lingering{name: name, service: held.Service}
		}
	}
	return b
}

// formerly begins the names of services found in the kernel.
const formerly = "formerly"

// Assignments returns the assignments of the plan that a service in the kernel stands for: one, or none
// for a service of a former dnsd. It may be called at any time.
func (b *Balancer) Assignments(service string) []string {
	for _, family := range []string{family4, family6} {
		if name, ok := strings.CutSuffix(service, family); ok {
			return []string{name}
		}
	}
	return nil
}

// Apply makes the kernel equal to plan, which is sorted, as plans are. Frontends the plan no longer has
// stay for the linger time, with the newest backends known for them, so that an address answered a moment
// ago still works; on the word of a partial plan none goes at all. Apply must be called again, with the
// same plan or a newer one, at next unless that is zero, and soon after an error: it repeats what could
// not be written.
//
// Frontends go on with what served them before, also before a restart, for as long as no name behind their
// new assignment has been looked up. Envoy, too, replaces a cluster only by one that is warm.
func (b *Balancer) Apply(plan *mesh.Plan) (next time.Time, err error) {
	c := b.compare(plan)
	next = b.bury(c, plan.Partial)
	whole := !b.sound
	b.plan, b.sound = plan, false
	if whole {
		frontends, services := b.whole()
		_, err = b.kernel.Apply(frontends, services)
	} else if len(c.frontends)+len(c.services) > 0 {
		_, err = b.kernel.Change(c.frontends, c.services)
	}
	if err != nil {
		return next, fmt.Errorf("write frontends to the kernel: %w", first(err))
	}
	b.sound = true
	return next, nil
}

// bury lets go of what has lingered long enough, and returns when the first of the others will have.
func (b *Balancer) bury(c *changes, partial bool) (next time.Time) {
	if partial {
		return next
	}
	now := time.Now()
	for key, l := range b.lingering {
		if l.since.IsZero() {
			l.since = now
		}
		due := l.since.Add(b.linger)
		switch {
		case !now.Before(due):
			delete(b.lingering, key)
			c.frontends[key] = ""
		case next.IsZero() || due.Before(next):
			next = due
		}
	}
	return next
}

// whole returns all that the kernel is to hold.
func (b *Balancer) whole() (map[ebpf.Frontend]string, map[string]ebpf.Service) {
	frontends, services := translate(b.plan, b.ejected)
	for key, l := range b.lingering {
		frontends[key] = l.name
		if _, ok := services[l.name]; !ok {
			services[l.name] = b.newest(l)
		}
	}
	for name, standIn := range b.standIns {
		if _, needed := services[name]; needed {
			services[name] = standIn
		}
	}
	return frontends, services
}

// newest is what serves a frontend that the plan has dropped: its assignment may still be there.
func (b *Balancer) newest(l *lingering) ebpf.Service {
	for _, name := range b.Assignments(l.name) {
		if i, ok := find(b.plan, name); ok {
			return b.service(b.plan.Assignments[i], strings.TrimPrefix(l.name, name))
		}
	}
	return l.service
}

// Held counts what the kernel holds, lingering frontends among it.
func (b *Balancer) Held() (frontends, backends int) {
	for _, service := range b.kernel.Dump() {
		frontends += len(service.Frontends)
		backends += len(service.Backends)
	}
	return frontends, backends
}

// Missing returns the hosts of plan of which the kernel does not hold every frontend: none, unless the
// Apply before failed.
func (b *Balancer) Missing(plan *mesh.Plan) map[string]bool {
	held := b.held()
	missing := make(map[string]bool)
	for _, f := range plan.Frontends {
		if !held[frontend(f)] {
			missing[f.Host] = true
		}
	}
	return missing
}

// Unheld returns those of the hosts of which the kernel holds no frontend of plan.
func (b *Balancer) Unheld(plan *mesh.Plan, hosts map[string]bool) map[string]bool {
	if len(hosts) == 0 {
		return nil
	}
	held, unheld := b.held(), maps.Clone(hosts)
	for _, f := range plan.Frontends {
		if held[frontend(f)] {
			delete(unheld, f.Host)
		}
	}
	return unheld
}

func (b *Balancer) held() map[ebpf.Frontend]bool {
	held := make(map[ebpf.Frontend]bool)
	for _, service := range b.kernel.Dump() {
		for _, f := range service.Frontends {
			held[f] = true
		}
	}
	return held
}

// first shortens an error that is many to a few and their number: when a map is full thousands of
// services say so.
func first(err error) error {
	const few = 3
	many, ok := err.(interface{ Unwrap() []error })
	if !ok || len(many.Unwrap()) <= few {
		return err
	}
	all := many.Unwrap()
	return errors.Join(append(slices.Clone(all[:few]), fmt.Errorf("and %d more", len(all)-few))...)
}
