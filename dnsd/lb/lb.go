// Package lb makes the kernel's frontends equal to a plan's, and lets none go while clients remember it.
//
// It is the one place where xDS words become kernel words: an assignment becomes a service for each
// address family, its endpoints become backends, a view becomes a number.
package lb

import (
	"errors"
	"fmt"
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
	// Dump returns what it holds.
	Dump() []ebpf.ServiceState
}

// Balancer makes the kernel's frontends equal to the newest plan's. It belongs to one goroutine.
type Balancer struct {
	kernel kernel
	linger time.Duration

	frontends map[ebpf.Frontend]string    // as last applied, lingering ones included
	services  map[string]ebpf.Service     // of frontends
	dropped   map[ebpf.Frontend]time.Time // the lingering ones, since when
}

// New returns a Balancer that is the only writer of k. What k holds already, from a dnsd before this
// one, counts as applied: it goes the way of everything a plan leaves out, and not before.
func New(k kernel, o Options) *Balancer {
	b := &Balancer{
		kernel:    k,
		linger:    o.Linger,
		frontends: make(map[ebpf.Frontend]string),
		services:  make(map[string]ebpf.Service),
		dropped:   make(map[ebpf.Frontend]time.Time),
	}
	if b.linger == 0 {
		b.linger = DefaultLinger
	}
	for i, held := range k.Dump() {
		name := fmt.Sprintf("%s %d", formerly, i) // the kernel does not keep names
		b.services[name] = held.Service
		for _, f := range held.Frontends {
			b.frontends[f] = name
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

// Apply makes the kernel equal to plan. Frontends the plan no longer has stay for the linger time, with
// the newest backends known for them, so that an address answered a moment ago still works; on the
// word of a partial plan none goes at all. Apply must be called again, with the same plan or a newer
// one, at next unless that is zero, and soon after an error: it repeats what could not be written.
func (b *Balancer) Apply(plan *mesh.Plan) (next time.Time, err error) {
	frontends, services := translate(plan)
	b.keepWarm(plan, frontends, services)
	next = b.keepDropped(frontends, services, plan.Partial)
	b.frontends, b.services = frontends, services
	if _, err := b.kernel.Apply(frontends, services); err != nil {
		return next, fmt.Errorf("write frontends to the kernel: %w", first(err))
	}
	return next, nil
}

// keepWarm leaves frontends what served them before, also before a restart, for as long as no name behind
// their new assignment has been looked up. Envoy, too, replaces a cluster only by one that is warm.
func (b *Balancer) keepWarm(plan *mesh.Plan, frontends map[ebpf.Frontend]string, services map[string]ebpf.Service) {
	warming := make(map[string]bool)
	for _, a := range plan.Assignments {
		if a.Warming {
			warming[a.Name+family4], warming[a.Name+family6] = true, true
		}
	}
	for f, name := range frontends {
		before := b.services[b.frontends[f]]
		if warming[name] && len(services[name].Backends) == 0 && len(before.Backends) > 0 {
			services[name] = before
		}
	}
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
	held := make(map[ebpf.Frontend]bool)
	for _, service := range b.kernel.Dump() {
		for _, f := range service.Frontends {
			held[f] = true
		}
	}
	missing := make(map[string]bool)
	for _, f := range plan.Frontends {
		if !held[frontend(f)] {
			missing[f.Host] = true
		}
	}
	return missing
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

// keepDropped adds to what a plan wants what it left out too recently, and returns when the first of
// those will have lingered long enough.
func (b *Balancer) keepDropped(frontends map[ebpf.Frontend]string, services map[string]ebpf.Service, partial bool) (next time.Time) {
	now := time.Now()
	for f, service := range b.frontends {
		if _, wanted := frontends[f]; wanted {
			delete(b.dropped, f)
			continue
		}
		if !partial {
			since, ok := b.dropped[f]
			if !ok {
				since = now
				b.dropped[f] = now
			}
			due := since.Add(b.linger)
			if !now.Before(due) {
				delete(b.dropped, f)
				continue
			}
			if next.IsZero() || due.Before(next) {
				next = due
			}
		}
		frontends[f] = service
		if _, ok := services[service]; !ok {
			services[service] = b.services[service]
		}
	}
	return next
}
