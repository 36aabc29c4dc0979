// Package resolve keeps the names behind DNS-type clusters looked up, each as often as its clusters want.
//
// It does what Envoy does with STRICT_DNS and LOGICAL_DNS clusters, with these differences: a name is
// asked once however many clusters want it; a failure is retried soon rather than a whole refresh later;
// "no such name" is believed only when every address family said so, and for a LOGICAL_DNS cluster, too,
// is an answer and not a failure; the TTL is the least on the way to the addresses, aliases included;
// many names are never refreshed all at once; and names are always asked as they are, never with a search
// list.
//
// One goroutine, in Run, owns the schedule. There are no timers per name to lose or to multiply: what is
// watched and when it is due are data, and a push of the same clusters changes neither.
package resolve

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/upstream"
)

const (
	// maxRunning bounds the lookups under way, and maxFailing those of them that failed the last time:
	// names that nobody answers for must not stand in the way of the others. Each of those takes seconds,
	// and at first nobody knows which they are, so that a small bound would have a new name wait for
	// minutes behind a few thousand of them. Envoy asks for all at once.
	maxRunning = 256
	maxFailing = 128
	// maxLook bounds one lookup with all its queries.
	maxLook = 5 * time.Second
	// emitEvery is the least time between two emissions. What changes meanwhile is emitted together.
	emitEvery = 10 * time.Millisecond
	// initialFor is how long after the start a name may still take up its addresses of before.
	initialFor = 10 * time.Minute
	// manyNames is from how many lookups on those asked together are spread over their next interval, or
	// they would be asked in one burst for ever: more than can be asked at once.
	manyNames = maxRunning + 1
)

// Options are what a Resolver works with.
type Options struct {
	// Exchange puts a query to servers, and fails over among them; upstream's Client.Ask. An answer from
	// a cache would make the clusters' refresh rates meaningless.
	Exchange func(context.Context, upstream.Servers, *dns.Msg) (*dns.Msg, error)
	// Dial opens the sockets; nil means a plain net.Dialer. They must not be captured by our own hooks.
	Dial upstream.Dialer
	// Servers returns whom to ask for a lookup that names no resolvers, in order. It is called for each
	// lookup and must not block.
	Servers func() []netip.AddrPort
	// Emit takes everything that is known, each time it has changed. It is called from Run's goroutine
	// and holds up the schedule until it returns.
	Emit func(mesh.Input)
	// Initial is what was known when dnsd last ran: good until there is something newer.
	Initial []mesh.Resolution
	// Log is told when a lookup starts to fail and when it works again; nil means nobody is.
	Log *slog.Logger
}

// Resolver looks up what Watch names, while Run runs.
type Resolver struct {
	o    Options
	ring chan struct{} // there is a new list to watch
	done chan result

	mu      sync.Mutex // guards all below, for Watch and Status; only Run changes the lookups
	wanted  []mesh.Watch
	unread  bool
	spoke   bool // something has been emitted
	reask   bool
	initial map[mesh.Lookup]mesh.Resolution // not taken up yet
	lookups map[mesh.Lookup]*lookup
	sorted  []*lookup // all lookups; nil when it has to be made anew
	queue   queue
	running int
	failing int // of those running, how many failed the last time
}

// result is what a finished lookup hands back to the goroutine that owns the schedule.
type result struct {
	l       *lookup
	outcome outcome
}

// New makes a Resolver that watches nothing yet.
func New(o Options) *Resolver {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Resolver{
		o:       o,
		ring:    make(chan struct{}, 1),
		done:    make(chan result),
		initial: make(map[mesh.Lookup]mesh.Resolution),
		lookups: make(map[mesh.Lookup]*lookup),
	}
	for _, res := range o.Initial {
		r.initial[res.Lookup] = res
	}
	return r
}

// Watch says which lookups are wanted from now on: all of them, each time. New ones are asked at once;
// of those no longer listed whatever is under way is cancelled; the others stay as they are. It does not
// block, and may be called before Run. The list must not be changed afterwards.
func (r *Resolver) Watch(w []mesh.Watch) {
	r.mu.Lock()
	r.wanted, r.unread = w, true
	r.mu.Unlock()
	select {
	case r.ring <- struct{}{}:
	default: // it is ringing already
	}
}

// Reask says that what Servers returns has changed. Of the lookups that name no resolvers of their own it
// makes due what fails, and what would now be asked of another server first, whatever that of before
// said: of the cluster's own names, for one, the node's nameserver knows only that there are none. It does
// not block, and may be called before Run.
func (r *Resolver) Reask() {
	r.mu.Lock()
	r.reask = true
	r.mu.Unlock()
	select {
	case r.ring <- struct{}{}:
	default: // it is ringing already
	}
}

// Run looks up what is watched until ctx ends, then waits for what is under way, which ends with ctx
// too, and returns nil. It may be called once.
func (r *Resolver) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	began := time.Now()
	dirty := len(r.initial) > 0
	var mayEmit time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.ring:
		case res := <-r.done:
			dirty = r.finish(res) || dirty
		case <-timer.C:
		}
		now := time.Now()
		dirty = r.adopt(now.Sub(began) < initialFor) || dirty
		next := r.start(ctx, now, &wg)
		if dirty && !now.Before(mayEmit) {
			r.emit()
			// Emit takes as long as the plan made of the emission before: most of the time must be left
			// for other things when thousands of answers come one after the other.
			dirty, mayEmit = false, time.Now().Add(max(emitEvery, 3*time.Since(now)))
		}
		if dirty && mayEmit.Before(next) {
			next = mayEmit
		}
		timer.Reset(time.Until(next))
	}
}

// adopt makes the lookups those that are wanted, and says whether what is known changed by that.
func (r *Resolver) adopt(useInitial bool) (changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !useInitial && len(r.initial) > 0 {
		clear(r.initial)
		changed = true
	}
	now := time.Now()
	if r.reask {
		r.reask = false
		r.askAnew(now)
	}
	if !r.unread {
		return changed
	}
	r.unread = false
	many := len(r.wanted) >= manyNames
	wanted := make(map[mesh.Lookup]bool, len(r.wanted))
	for _, w := range r.wanted {
		wanted[w.Lookup] = true
		l := r.lookups[w.Lookup]
		if l == nil {
			r.add(w, now, many)
		} else if l.reschedule(w, now, many) {
			r.queue.fix(l)
		}
	}
	changed = r.drop(wanted) || changed
	if len(r.sorted) != len(r.lookups) {
		r.sort()
	}
	// That there is nothing to look up must be said, too: whoever has heard nothing goes on waiting.
	return changed || !r.spoke && len(r.lookups) == 0
}

// add makes a lookup of what is newly wanted.
func (r *Resolver) add(w mesh.Watch, now time.Time, many bool) {
	l := newLookup(w, now)
	if res, ok := r.initial[w.Lookup]; ok {
		l.restore(res, now, many)
		delete(r.initial, w.Lookup)
	}
	r.lookups[w.Lookup] = l
	r.queue.add(l)
	r.sorted = nil
}

// drop ends the lookups that are not wanted any more, and says whether what is known changed by that.
func (r *Resolver) drop(wanted map[mesh.Lookup]bool) (changed bool) {
	for key, l := range r.lookups {
		if wanted[key] {
			continue
		}
		delete(r.lookups, key)
		r.queue.remove(l)
		r.sorted = nil
		l.stop()
		changed = changed || l.finished
	}
	return changed
}

func (r *Resolver) sort() {
	r.sorted = slices.Collect(maps.Values(r.lookups))
	slices.SortFunc(r.sorted, func(a, b *lookup) int { return compare(a.res.Lookup, b.res.Lookup) })
}

// askAnew does what Reask says. A pod with a nameserver of its own must not have every name of the mesh
// asked anew, as often as it comes and goes.
func (r *Resolver) askAnew(now time.Time) {
	var server netip.AddrPort
	if servers := r.o.Servers(); len(servers) > 0 {
		server = servers[0]
	}
	for _, l := range r.lookups {
		due := l.running || l.failures > 0 || l.server != server
		if l.res.Lookup.Resolvers == "" && due && l.hurry(now, len(r.lookups) >= manyNames) {
			r.queue.fix(l)
		}
	}
}

// start begins the lookups that are due, as many as may run, and returns when to look again.
func (r *Resolver) start(ctx context.Context, now time.Time, wg *sync.WaitGroup) (next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.running < maxRunning {
		l := r.queue.next(r.failing < maxFailing)
		if l == nil {
			break
		}
		if l.due.After(now) {
			return l.due
		}
		r.queue.remove(l)
		r.running++
		if l.failures > 0 {
			r.failing++
		}
		lctx, cancel := context.WithTimeout(ctx, maxLook)
		l.stop, l.running = cancel, true
		sure := l.preferred()
		wg.Go(func() {
			defer cancel()
			res := result{l, r.look(lctx, l.res.Lookup, sure)}
			select {
			case r.done <- res:
			case <-ctx.Done():
			}
		})
	}
	return now.Add(time.Hour) // nothing is due before something happens
}

// finish takes in the result of a lookup, and says whether what is known changed.
func (r *Resolver) finish(res result) (changed bool) {
	l := res.l
	before := l.failures
	changed, wanted := r.apply(res)
	if !wanted {
		return false
	}
	// Only this goroutine changes l, so it may be read without the lock.
	log := r.o.Log.With("name", l.res.Lookup.Name, "family", l.res.Lookup.Family)
	switch {
	case before == 0 && l.failures > 0:
		log.Warn("lookup fails", "kept", len(l.res.Addresses), "error", l.res.Error)
	case before > 0 && l.failures == 0:
		log.Info("lookup works again", "failures", before)
	}
	return changed
}

// apply is finish under the lock. What nobody wants any more is thrown away.
func (r *Resolver) apply(res result) (changed, wanted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := res.l
	r.running--
	if l.failures > 0 {
		r.failing--
	}
	l.running = false
	if r.lookups[l.res.Lookup] != l {
		return false, false
	}
	changed = l.apply(res.outcome, len(r.lookups) >= manyNames)
	r.queue.add(l)
	return changed, true
}

// emit hands on everything that is known.
func (r *Resolver) emit() {
	r.mu.Lock()
	r.spoke = true
	in := mesh.Input{Source: "resolve", Resolutions: make([]mesh.Resolution, 0, len(r.sorted)+len(r.initial))}
	for _, l := range r.sorted {
		if l.finished {
			in.Resolutions = append(in.Resolutions, l.res)
		}
	}
	for _, res := range r.initial {
		in.Resolutions = append(in.Resolutions, res)
	}
	unsorted := len(r.initial) > 0
	r.mu.Unlock()
	if unsorted {
		slices.SortFunc(in.Resolutions, func(a, b mesh.Resolution) int { return compare(a.Lookup, b.Lookup) })
	}
	r.o.Emit(in)
}
