package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/nodens-dns/nodens/dnsd/answers"
	"github.com/nodens-dns/nodens/dnsd/keep"
	"github.com/nodens-dns/nodens/dnsd/lb"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/dnsd/resolve"
	"github.com/nodens-dns/nodens/dnsd/serve"
	"github.com/nodens-dns/nodens/dnsd/show"
	"github.com/nodens-dns/nodens/ebpf"
)

// burst is how long the hub waits for more after an input before it compiles: long enough to take a
// control plane's CDS, EDS and LDS of one push together, too short to be felt by a first answer.
const burst = 10 * time.Millisecond

// retry is the least time until a failed write to the kernel or the disk is tried again. Each try takes
// as long as a pass; most of the time must be left for other things.
const retry = time.Second

// lookEvery is how soon load moves away from endpoints that were ejected. Until then the kernel finds
// others among those it has.
const lookEvery = time.Second

// longPass is how long a pass takes that leaves much to tidy.
const longPass = 50 * time.Millisecond

// wait is when to try again after a pass that took so long.
func wait(took time.Duration) time.Duration { return max(retry, 5*took) }

// hub is where everything known meets. One goroutine owns the compiler: it hands it the inputs, then
// tells the disk (virtual addresses), the kernel, the names and the resolver, in that order, so that a
// name is never answered before its address can be connected to.
type hub struct {
	log      *slog.Logger
	sources  []string // in order of precedence
	compiler *mesh.Compiler
	emitted  chan mesh.Input
	ended    chan struct{}     // closed when run has returned: nobody takes inputs any more
	vips     *mesh.VIPs        // the compiler's
	resolved []mesh.Resolution // when dnsd last ran
	kernel   sync.Mutex        // held to use services, by the hub to write and by admin to read
	services *ebpf.Services
	balancer *lb.Balancer // writes services
	server   *serve.Server
	resolver *resolve.Resolver
	keep     *keep.Inputs
	names    names.Options
	answers  *answers.Answers
	told     []func(*mesh.Plan) // who else wants to know; none of them blocks
	worked   chan struct{}      // gets something after a pass that leaves much to tidy

	state atomic.Pointer[show.State]
}

// newHub starts with what each source said before the last stop; a source that never spoke is pending.
func newHub(log *slog.Logger, vips *mesh.VIPs, sources []string, kept *keep.Inputs) *hub {
	h := &hub{
		log: log, sources: sources, keep: kept, vips: vips, answers: &answers.Answers{},
		compiler: mesh.NewCompiler(vips, sources),
		emitted:  make(chan mesh.Input),
		worked:   make(chan struct{}, 1),
		ended:    make(chan struct{}),
	}
	h.compiler.Yield, h.names.Yield = breathe, breathe
	h.state.Store(&show.State{Plan: &mesh.Plan{Partial: true}, Said: map[string]show.Said{}, Spoke: map[string]time.Time{}})
	for _, name := range sources {
		in, err := kept.Load(name)
		if err != nil {
			log.Warn("what the source last said is lost; waiting for it to speak", "source", name, "error", err)
		}
		in.Zones = nil // that these were all names there are is not true any more
		if name == "resolve" {
			// That a name did not exist is not believed over a restart: what is on disk may be a moment
			// older than the answer that followed, and what serves such a cluster in the kernel goes on
			// until its names have been asked for again.
			in.Resolutions = slices.DeleteFunc(in.Resolutions, func(r mesh.Resolution) bool { return r.Negative })
			h.resolved = in.Resolutions
		}
		h.hear(in)
	}
	return h
}

// breathe lets a large piece of work wait for what came over the network meanwhile. On one processor a
// goroutine that only stands aside for others goes on before anybody has looked for what has come; one
// that sleeps does not, however short.
func breathe() { time.Sleep(time.Microsecond) }

// emit hands one source's newest input to the hub. It blocks for at most one pass; what comes when the
// hub has stopped is lost, and said again by its source after the next start.
func (h *hub) emit(ctx context.Context) func(mesh.Input) {
	return func(in mesh.Input) {
		select {
		case h.emitted <- in:
		case <-ctx.Done():
		case <-h.ended:
		}
	}
}

// run applies inputs as they come until ctx is done. The caller has made a first pass.
func (h *hub) run(ctx context.Context, due time.Time) error {
	defer close(h.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	looks := time.NewTicker(lookEvery)
	defer looks.Stop()
	for {
		var again <-chan time.Time
		if !due.IsZero() {
			timer.Reset(time.Until(due))
			again = timer.C
		}
		select {
		case <-ctx.Done():
			return nil
		case in := <-h.emitted:
			h.take(in)
			h.drain(ctx)
		case <-looks.C:
			if h.look() == nil {
				continue
			}
		case <-again:
		}
		due = h.pass()
	}
}

// take hears a source and remembers, also on disk, that it has spoken.
func (h *hub) take(in mesh.Input) {
	h.keep.Save(in)
	next := h.hear(in)
	if in.Pending {
		return // it only tells why it cannot speak yet
	}
	next.Spoke = maps.Clone(next.Spoke)
	next.Spoke[in.Source] = time.Now()
	h.state.Store(next)
}

// hear hands an input to the compiler, and returns the state with what it amounts to.
func (h *hub) hear(in mesh.Input) *show.State {
	h.compiler.Take(in)
	next := *h.state.Load()
	next.Said = maps.Clone(next.Said)
	now := show.Said{Pending: in.Pending, Hosts: len(in.Hosts), Clusters: len(in.Clusters), Problems: len(in.Problems)}
	if before, spoken := next.Said[in.Source]; in.Pending && spoken {
		now = before
		now.Problems = len(in.Problems)
	}
	next.Said[in.Source] = now
	h.state.Store(&next)
	return &next
}

// drain takes what else arrives within one burst.
func (h *hub) drain(ctx context.Context) {
	end := time.NewTimer(burst)
	defer end.Stop()
	for {
		select {
		case in := <-h.emitted:
			h.take(in)
		case <-end.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// pass makes the world equal to the inputs and returns when it wants to be called again even if no
// source speaks: zero for never.
func (h *hub) pass() (due time.Time) {
	start := time.Now()
	plan, due, err := h.apply(h.compiler.Compile())
	if rested := h.vips.Due(); !rested.IsZero() && (due.IsZero() || rested.Before(due)) {
		due = rested
	}

	old := h.state.Load()
	took := time.Since(start)
	if err != nil {
		due = time.Now().Add(wait(took))
		if old.Err == nil || old.Err.Error() != err.Error() {
			h.log.Error("the plan is not wholly applied; trying again", "error", err, "in", wait(took))
		}
	} else if old.Err != nil {
		h.log.Info("the plan is wholly applied again")
	}
	logProblems(h.log, old.Plan.Problems, plan.Problems)
	next := *old
	next.Plan, next.VIPs, next.Err, next.Passes, next.Took = plan, h.vips.Usage(), err, old.Passes+1, took
	h.state.Store(&next)
	if took > longPass {
		select {
		case h.worked <- struct{}{}:
		default: // it is known
		}
	}
	return due
}

// apply is the road of an update: addresses to disk, frontends to the kernel, names to the server,
// lookups to the resolver. It returns the plan as far as that went. A full disk or map holds up the
// hosts it concerns, whose names are then not ours yet, and nothing else.
func (h *hub) apply(plan *mesh.Plan) (applied *mesh.Plan, due time.Time, err error) {
	saved := h.vips.Save()
	if saved != nil {
		// An address that is not on disk may be given to another host after a restart, so nobody is
		// told about it until it is.
		plan = plan.Without(h.vips.Unsaved())
	}
	h.kernel.Lock()
	// Nor is anybody told of a new host before it can be connected to. One that a dnsd before this one has
	// told of, as the kernel shows, is not new.
	plan = plan.Without(h.balancer.Unheld(plan, plan.Cold(h.state.Load().Plan)))
	due, written := h.balancer.Apply(plan)
	if written != nil {
		// What DNS answers, connect() must reach.
		plan = plan.Without(h.balancer.Missing(plan))
	}
	h.kernel.Unlock()
	var stored error
	old := h.state.Load()
	if old.Passes == 0 || unsafe.SliceData(old.Plan.Names) != unsafe.SliceData(plan.Names) ||
		len(old.Plan.Names) != len(plan.Names) || unsafe.SliceData(old.Plan.Zones) != unsafe.SliceData(plan.Zones) ||
		old.Plan.Partial != plan.Partial || h.answers.Stale() {
		stored = h.store(plan)
	}
	if old.Passes == 0 || unsafe.SliceData(old.Plan.Watch) != unsafe.SliceData(plan.Watch) {
		h.resolver.Watch(plan.Watch) // a list that is not new it knows
	}
	for _, told := range h.told {
		told(plan)
	}
	return plan, due, errors.Join(saved, written, stored)
}

// store makes a plan's names what is answered. An error means that it is to be done again.
func (h *hub) store(plan *mesh.Plan) error {
	t := names.Build(plan, h.names)
	err := h.answers.Store(t, plan.Partial)
	h.server.Store(t)
	return err
}

// spreads says whether connections to a name are spread over addr now.
func (h *hub) spreads(n *mesh.Name, addr netip.Addr) bool {
	return h.state.Load().Plan.Spreads(n, addr)
}

// Held counts what the kernel holds, lingering frontends among it.
func (h *hub) Held() (frontends, backends int) {
	h.kernel.Lock()
	defer h.kernel.Unlock()
	return h.balancer.Held()
}

// look spreads connections anew if endpoints were ejected or came back. After an error a pass is due,
// which repeats what failed, and reports it.
func (h *hub) look() error {
	h.kernel.Lock()
	defer h.kernel.Unlock()
	return h.balancer.Look()
}

// Backends returns what is behind each assignment as the kernel has it.
func (h *hub) Backends() map[string][]ebpf.BackendState {
	h.kernel.Lock()
	defer h.kernel.Unlock()
	m := map[string][]ebpf.BackendState{}
	for _, s := range h.services.Dump() {
		for _, name := range h.balancer.Assignments(s.Name) {
			m[name] = append(m[name], s.Backends...)
		}
	}
	return m
}

// logProblems logs each problem once, when it appears and when it goes.
func logProblems(log *slog.Logger, old, now []mesh.Problem) {
	had := map[mesh.Problem]bool{}
	for _, p := range old {
		had[p] = true
	}
	for _, p := range now {
		if !had[p] {
			log.Warn("skipped", "source", p.Source, "object", p.Object, "reason", p.Reason)
		}
		delete(had, p)
	}
	for _, p := range old {
		if had[p] {
			log.Info("no longer skipped", "source", p.Source, "object", p.Object)
		}
	}
}
