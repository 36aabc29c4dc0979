// Package answers keeps what the kernel answers by itself equal to the table of names, and counts what it has
// answered.
package answers

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/dnsd/serve"
	"github.com/nodens-dns/nodens/ebpf"
)

// Answers is what the kernel answers for one daemon. Where it answers nothing, since that is not wanted or it
// cannot, as with the zero value, all methods work all the same. Store and Watched are for one goroutine each.
type Answers struct {
	log    *slog.Logger
	kernel *ebpf.Answers // nil where it does not answer
	off    error         // why not, where it should
	stored bool          // something was
	failed string        // the last error, empty after a success
	stale  bool          // it left in the kernel what is not true

	counted *counted // nil where kernel is

	mu     sync.Mutex // guards closed, for those who watch: nobody waits for them
	closed bool
}

// Off is why the kernel answers nothing although it should; nil where it does, or is not wanted.
func (a *Answers) Off() error { return a.off }

// Close lets go of the kernel's half, which stays at work. Nobody may store or learn any more.
func (a *Answers) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.kernel == nil || a.closed {
		return nil
	}
	a.closed = true
	return a.kernel.Close()
}

// answerer is what New needs of an *ebpf.Datapath.
type answerer interface {
	Answers(ebpf.Authority) (*ebpf.Answers, error)
	StopAnswering() error
}

// New loads what answers in the kernel, where that is wanted and the kernel can. Elsewhere it makes
// sure that nothing goes on answering what an earlier dnsd knew.
func New(wanted bool, d answerer, log *slog.Logger) *Answers {
	a := &Answers{log: log}
	if wanted {
		record, pointers := serve.Authority()
		if a.kernel, a.off = d.Answers(ebpf.Authority{Record: record, Pointers: pointers}); a.off == nil {
			return a
		}
		log.Warn("names are answered by dnsd alone", "error", a.off)
	}
	if err := d.StopAnswering(); err != nil {
		log.Error("pods may be answered what was true once", "error", err)
	}
	return a
}

// Store makes the kernel answer from t. To be called before anybody else answers from it: what was
// learned from the table before must not be given any more. But when dnsd has just started, and t is partial
// since a source has not spoken yet, what the kernel knows of an earlier dnsd is better. After an error the
// kernel is Stale.
func (a *Answers) Store(t *names.Table, partial bool) error {
	if a.kernel == nil {
		return nil
	}
	if a.stored || !partial {
		a.kernel.Forget(t.Generation())
	}
	a.stored = true
	_, err := a.kernel.Apply(declared(t), partial)
	failed := ""
	if err != nil {
		failed = err.Error()
	}
	if failed != "" && a.failed == "" {
		a.log.Warn("not all names are answered in the kernel; dnsd answers the others", "error", err)
	}
	a.failed = failed
	if a.stale = errors.Is(err, ebpf.ErrStale); a.stale {
		return err
	}
	return nil
}

// Stale says that the kernel may answer otherwise than the table stored last: it is to be stored again.
func (a *Answers) Stale() bool { return a.stale }

func declared(t *names.Table) iter.Seq[ebpf.Declared] {
	return func(yield func(ebpf.Declared) bool) {
		for d := range t.Declared() {
			if !yield(ebpf.Declared{
				Host: d.Name, View: ebpf.ViewOf(d.View), A: d.A, AAAA: d.AAAA, TTL: d.TTL, Zone: d.Zone,
				Virtual: d.Virtual, Elsewhere: d.Other,
			}) {
				return
			}
		}
	}
}

// Learn is serve's Options.Learn; nil where nobody learns.
func (a *Answers) Learn() func(serve.Learned) {
	if a.kernel == nil {
		return nil
	}
	return func(l serve.Learned) {
		// That a reply cannot be learned is no loss: dnsd gives it again.
		q := ebpf.Question{Host: l.Name, Type: l.Qtype, View: ebpf.ViewOf(l.Namespace), Asker: l.Asker}
		_ = a.kernel.Learn(q, l.Generation, ebpf.Reply{
			Records: l.Records, Answers: l.Answers, Authorities: l.Authorities, Rcode: l.Rcode,
			Fixed: l.Fixed, Step: l.Step, Count: l.Count,
		})
	}
}

// beat is how often the kernel is told that somebody watches.
const beat = 500 * time.Millisecond

// Watched has every query come to dnsd until ctx is done, for who watches: with what the kernel answers,
// nobody could see it. Should dnsd die meanwhile, the kernel answers again a moment later.
func (a *Answers) Watched(ctx context.Context) {
	if a.kernel == nil {
		return
	}
	if !a.leave() {
		return
	}
	go func() {
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if !a.leave() {
					return
				}
			}
		}
	}()
}

// leave has the kernel leave every query to dnsd for a while. It reports false once a is closed.
func (a *Answers) leave() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.kernel.Leave(4 * beat)
	}
	return !a.closed
}
