package tenure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodens-dns/nodens/dnsd/handover"
)

// patience is for what comes at once on a machine that is not busy.
const patience = 60 * time.Second

// desk is what the dnsd of a test work at. It holds them to there being one that writes.
type desk struct {
	t       *testing.T
	mu      sync.Mutex
	writing map[*worker]bool
	news    chan string // what workers did, and which
	heard   []string    // of it, the test's own
}

func newDesk(t *testing.T) *desk {
	return &desk{t: t, writing: map[*worker]bool{}, news: make(chan string, 1000)}
}

// expect waits for the next news of that kind, which may have come before others, and returns the worker's name.
func (d *desk) expect(what string) string {
	d.t.Helper()
	late := time.After(patience)
	for i := 0; ; i++ {
		if i == len(d.heard) {
			select {
			case n := <-d.news:
				d.heard = append(d.heard, n)
			case <-late:
				d.t.Fatalf("nobody %s, but %q", what, d.heard)
			}
		}
		if name, did, _ := strings.Cut(d.heard[i], " "); did == what {
			d.heard = slices.Delete(d.heard, i, i+1)
			return name
		}
	}
}

// worker is a daemon.
type worker struct {
	desk      *desk
	name      string
	given     []handover.Item
	unwell    string
	settle    func(context.Context) error // nil means at once
	openFails int
	pauses    error
	lingers   <-chan struct{} // until what is passed on is between two answers; nil means it is
	done      chan struct{}
}

func (w *worker) say(what string) { w.desk.news <- w.name + " " + what }

func (w *worker) write(on bool) {
	w.desk.mu.Lock()
	defer w.desk.mu.Unlock()
	if delete(w.desk.writing, w); on {
		if w.desk.writing[w] = true; len(w.desk.writing) > 1 {
			w.desk.t.Errorf("%s writes while another one does", w.name)
		}
	}
}

func (w *worker) Settle(ctx context.Context) error {
	w.say("settles")
	if w.settle == nil {
		return nil
	}
	return w.settle(ctx)
}
func (w *worker) Begin() { w.say("begins") }
func (w *worker) Pause() error {
	w.write(false)
	return w.pauses
}

func (w *worker) Open() ([]handover.Item, error) {
	if w.openFails > 0 {
		w.openFails--
		return nil, errors.New("too many open files")
	}
	return []handover.Item{{Kind: "socket", Note: []byte(fmt.Sprintf("%q", w.name)), File: null(w.desk.t)}}, nil
}

func (w *worker) Leave(pass func(handover.Item)) {
	if w.lingers != nil {
		<-w.lingers
	}
	pass(handover.Item{Kind: "socket", Note: []byte(fmt.Sprintf("%q", "late of "+w.name)), File: null(w.desk.t)})
	w.say("leaves")
	closeAll(w.given)
}

func (w *worker) Close() error {
	w.write(false)
	w.say("closes")
	closeAll(w.given)
	return nil
}

func (w *worker) Resume(item handover.Item) bool {
	w.desk.mu.Lock()
	here := w.desk.writing[w]
	w.desk.mu.Unlock()
	if here {
		item.Close()
		w.say("resumes " + string(item.Note))
	}
	return here
}
func (w *worker) Done() <-chan struct{} { return w.done }
func (w *worker) Unwell() string        { return w.unwell }

func null(t *testing.T) *os.File {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Error(err)
	}
	return f
}

// process is a dnsd's: each of its daemons is what make says.
type process struct {
	end   context.CancelFunc
	ended chan error
}

func (d *desk) process(o Options, name string, make func(n int, l *Lease) (*worker, error)) *process {
	ctx, cancel := context.WithCancel(context.Background())
	n := 0
	o.Version = name
	o.Start = func(ctx context.Context, l *Lease) (Daemon, error) {
		n++
		w, err := make(n, l)
		if err != nil {
			closeAll(l.Items)
			return nil, err
		}
		w.desk, w.name, w.given, w.done = d, fmt.Sprint(name, n), l.Items, newDone(ctx)
		w.write(true)
		if w.unwell != "" && l.MayRefuse() {
			return nil, errors.Join(errors.New(w.unwell), w.Close())
		}
		return w, nil
	}
	o.Relieved = func(int) bool {
		d.news <- name + " stands by"
		return false
	}
	p := &process{cancel, nil}
	p.ended = newEnded()
	go func() { p.ended <- Run(ctx, o) }()
	d.t.Cleanup(cancel)
	return p
}

func newDone(ctx context.Context) chan struct{} {
	done := make(chan struct{})
	context.AfterFunc(ctx, func() { close(done) })
	return done
}

func newEnded() chan error { return make(chan error, 1) }

// finish ends a process, and returns with what.
func (p *process) finish(t *testing.T) error {
	t.Helper()
	p.end()
	return p.wait(t)
}

func (p *process) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.ended:
		return err
	case <-time.After(patience):
		t.Fatal("it does not end")
		return nil
	}
}

func well(int, *Lease) (*worker, error) { return &worker{}, nil }

func (d *desk) begun(name string) {
	d.t.Helper()
	if who := d.expect("begins"); who != name {
		d.t.Fatalf("%s begins, not %s", who, name)
	}
}

// One relieves the other, over and over; each that is relieved goes on when the other ends.
func TestUpgrades(t *testing.T) {
	d, o := newDesk(t), options(t)
	a := d.process(o, "a", well)
	d.begun("a1")
	b := d.process(o, "b", func(_ int, l *Lease) (*worker, error) {
		if l.From == nil || l.From.Version != "a" || l.Itself || len(l.Items) != 1 {
			t.Errorf("b is given %+v", l)
		}
		return &worker{}, nil
	})
	d.begun("b1")
	if who := d.expect(`resumes "late of a1"`); who != "b1" {
		t.Errorf("%s has what a passes on", who)
	}
	d.expect("stands by")
	if err := b.finish(t); err != nil {
		t.Error(err)
	}
	d.begun("a2")
	if err := a.finish(t); err != nil {
		t.Error(err)
	}
}

// Whatever a new one dies of, the old one goes on with what it has, in its own process, well or not.
func TestNewOneDoesNotTakeOver(t *testing.T) {
	for name, c := range map[string]struct {
		old func(n int, l *Lease) (*worker, error)
		new func(n int, l *Lease) (*worker, error)
	}{
		"it does not start": {well, func(int, *Lease) (*worker, error) { return nil, errors.New("no maps") }},
		"it does not settle": {well, func(int, *Lease) (*worker, error) {
			return &worker{settle: func(context.Context) error { return errors.New("a port is taken") }}, nil
		}},
		"it is less well": {well, func(int, *Lease) (*worker, error) { return &worker{unwell: "a full map"}, nil }},
		"neither is well": {
			func(int, *Lease) (*worker, error) { return &worker{unwell: "a full map"}, nil },
			func(int, *Lease) (*worker, error) { return nil, errors.New("no maps") },
		},
		"descriptors are short": {
			func(n int, _ *Lease) (*worker, error) { return &worker{openFails: 2 - n}, nil },
			func(int, *Lease) (*worker, error) { return nil, errors.New("no maps") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, o := newDesk(t), options(t)
			a := d.process(o, "a", func(n int, l *Lease) (*worker, error) {
				if n > 1 && (!l.Itself || len(l.Items) != 1 || string(l.Items[0].Note) != `"a1"` || l.MayRefuse() || l.Story().Failed == nil) {
					t.Errorf("a goes on with %+v", l)
				}
				return c.old(n, l)
			})
			d.begun("a1")
			if err := d.process(o, "b", c.new).wait(t); err == nil {
				t.Error("b has ended well")
			}
			d.begun("a2")
			// And can be relieved by one that is well.
			next := d.process(o, "c", well)
			d.begun("c1")
			d.expect("stands by")
			if err := errors.Join(a.finish(t), next.finish(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// What the first of two daemons of a process passes on late finds its way, though the second is relieved by then.
func TestPassedOnThroughTheNextOne(t *testing.T) {
	d, o := newDesk(t), options(t)
	lingers := make(chan struct{})
	a := d.process(o, "a", func(n int, _ *Lease) (*worker, error) {
		if n == 1 {
			return &worker{lingers: lingers}, nil
		}
		return &worker{}, nil
	})
	d.begun("a1")
	if err := d.process(o, "b", func(int, *Lease) (*worker, error) { return nil, errors.New("no maps") }).wait(t); err == nil {
		t.Error("b has ended well")
	}
	d.begun("a2")
	c := d.process(o, "c", well)
	d.begun("c1")
	if who := d.expect("leaves"); who != "a2" {
		t.Errorf("%s leaves", who)
	}
	close(lingers)
	if who := d.expect(`resumes "late of a1"`); who != "c1" {
		t.Errorf("%s has what a1 passes on", who)
	}
	d.expect("stands by")
	if err := errors.Join(a.finish(t), c.finish(t)); err != nil {
		t.Error(err)
	}
}

func TestTheUnwellRelieveTheUnwell(t *testing.T) {
	d, o := newDesk(t), options(t)
	unwell := func(int, *Lease) (*worker, error) { return &worker{unwell: "a full disk"}, nil }
	a := d.process(o, "a", unwell)
	d.begun("a1")
	b := d.process(o, "b", unwell)
	d.begun("b1")
	if err := errors.Join(a.finish(t), b.finish(t)); err != nil {
		t.Error(err)
	}
}

// One that takes too long is told, and the old one goes on when it writes no more.
func TestNewOneIsTooSlow(t *testing.T) {
	d, o := newDesk(t), options(t)
	o.patience = 10 * time.Millisecond
	a := d.process(o, "a", well)
	d.begun("a1")
	o.patience = takeOverWithin
	b := d.process(o, "b", func(int, *Lease) (*worker, error) {
		return &worker{settle: func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}}, nil
	})
	if err := b.wait(t); err == nil || !strings.Contains(err.Error(), "the other has hung up") {
		t.Errorf("b ends with %v", err)
	}
	d.begun("a2")
	if err := a.finish(t); err != nil {
		t.Error(err)
	}
}

// Who has been given everything goes on when the old one dies, however soon.
func TestOldOneDies(t *testing.T) {
	d, settling := newDesk(t), make(chan struct{})
	o, _ := predecessor(t, func(old *handover.Peer, held locks) {
		_ = old.Give([]handover.Item{{Kind: itemLock, File: held[0]}, {Kind: itemLock, File: held[1]}})
		<-settling
		_ = old.Close()
		held.release()
	})
	b := d.process(o, "b", func(int, *Lease) (*worker, error) {
		first := true
		return &worker{settle: func(ctx context.Context) error {
			if !first {
				return nil
			}
			first = false
			close(settling)
			<-ctx.Done()
			return ctx.Err()
		}}, nil
	})
	d.begun("b1")
	if err := b.finish(t); err != nil {
		t.Error(err)
	}
}

// One that cannot even stop writing in good order ends, and the one that knocked gets all of it.
func TestOldOneFailsToPause(t *testing.T) {
	d, o := newDesk(t), options(t)
	a := d.process(o, "a", func(int, *Lease) (*worker, error) { return &worker{pauses: errors.New("a source failed")}, nil })
	d.begun("a1")
	b := d.process(o, "b", well)
	if err := a.wait(t); err == nil || !strings.Contains(err.Error(), "a source failed") {
		t.Errorf("a ends with %v", err)
	}
	d.begun("b1")
	if err := b.finish(t); err != nil {
		t.Error(err)
	}
}

// Who is told to end while another one starts waits for that, and both end well.
func TestToldToEndMeanwhile(t *testing.T) {
	d, o := newDesk(t), options(t)
	a := d.process(o, "a", well)
	d.begun("a1")
	go1 := make(chan struct{})
	b := d.process(o, "b", func(int, *Lease) (*worker, error) {
		return &worker{settle: func(context.Context) error { <-go1; return nil }}, nil
	})
	d.expect("settles")
	a.end()
	close(go1)
	d.begun("b1")
	if err := errors.Join(a.wait(t), b.finish(t)); err != nil {
		t.Error(err)
	}
}
