// Package tenure settles which dnsd works on a node, from the first one's start over every upgrade, so that there
// is never a moment without one, and never one with two that write.
//
// # The rules
//
// A dnsd works in folders. Who begins holds them by a lock; who relieves it is given the locks, with all else
// that is open, and both hold them until the former lets go. Three things change hands, one after the other:
//
//	the pen             whoever has it writes: to the kernel's maps, to the disk
//	the responsibility  whoever has it goes on, whatever happens to the other
//	the sockets         both read them from the moment they are given until the former leaves
//
// An upgrade is these steps. What is behind "dies" holds for a kill, for an error, and for a hang-up alike.
//
//	   the old one                  the new one                     pen   responsible
//	   reigns                       knocks at the door              old   old
//	1  pauses: writes no more                                       -     old
//	2  gives what is open, the pen                                  new   old
//	3  serves on                    starts: first pass, all pods    new   old
//	4  serves on                    settles, exchanges programs     new   old
//	5                               commits                         new   new
//	6  leaves: passes connections   begins: opens its doors         new   new
//	7  stands by, or ends           reigns                          new   new
//
// Where the new one dies, from 1 to 4: the old one waits until the pen is down, which it is when the process is
// gone, and goes on: it starts another daemon in its own process from what it has open, as the new one would
// have, and leaves it the sockets. That daemon may be as unwell as the old one was; one of another process
// refuses to be less well than whom it relieves. From 5 on: the old one, which stands by, finds the folders
// free and starts anew; when it has ended by then, its supervisor starts the next.
//
// Where the old one dies, up to 4: the new one finds so when it commits, takes the locks by itself, and goes
// on. From 5 on nothing is lost but connections that were not passed on.
//
// Where the new one is too slow: the old one hangs up, by which the new one cannot commit any more and hears
// that it must stop. When it has put down the pen, or has been killed, the old one goes on. One that does neither,
// being stopped in another PID namespace, is not waited for for ever; what it wakes up to is that it has lost,
// and the one thing in the kernel it could exchange is not exchanged where the maps are no more its own.
//
// Nothing that can fail is left for after 5: sockets are open by then, under other names; only renames follow,
// and are tried again.
package tenure

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodens-dns/nodens/dnsd/handover"
)

// Daemon is what works. Its methods are called by one goroutine at a time in the order they are listed, but for
// Resume, Done and Unwell, which may be called at any time. After Begin either Pause and Leave follow, or Close.
type Daemon interface {
	// Settle blocks until all that was there before is served here, too, or ctx is done, and returns why this
	// daemon is not to become responsible. It is called of those only that relieve somebody.
	Settle(ctx context.Context) error
	// Begin is called when it is responsible.
	Begin()
	// Pause ends all writing. What is open is served on.
	Pause() error
	// Open returns all that is open and can be served by another daemon. The caller owns the files.
	Open() ([]handover.Item, error)
	// Leave leaves what is open to another daemon that serves it by now, and calls pass, which owns its file,
	// with what can go on there only later. It returns when nothing runs here any more.
	Leave(pass func(handover.Item))
	// Close ends everything, writing first. It may be called at any time, even twice.
	Close() error

	// Resume goes on with what another daemon has passed, and owns its file. It reports false, and leaves the
	// file to the caller, after Pause.
	Resume(handover.Item) bool
	// Done is closed when the daemon is to be closed: because it is told to, or something failed.
	Done() <-chan struct{}
	// Unwell says what it cannot do of all it should; empty means all is well.
	Unwell() string
}

// Options are where to work, and who does.
type Options struct {
	Folders []string // that one dnsd works in at a time; they exist
	Door    string   // the path of the socket others knock at
	Version string
	Log     *slog.Logger
	Kinds   []string // of items that a Daemon has open
	// Start makes a daemon of what it is given, whose files it owns, and lets it write and serve. After an
	// error nothing of it runs.
	Start func(ctx context.Context, l *Lease) (Daemon, error)
	// Relieved is called when another process, or 0 where it has no number here, has relieved this one: whether
	// to end, rather than to stand by.
	Relieved func(pid int) (end bool)

	patience time.Duration // 0 means takeOverWithin
}

const (
	// waitForEnd is how long a dnsd that cannot take over waits for the other one to end: longer than
	// Kubernetes gives a pod to end, after another one beside it has been ready for some seconds.
	waitForEnd = 2 * time.Minute
	// takeOverWithin is how long each side waits for the other to become ready: for a pass that is under way
	// to end, or for all names and pods there are to be read and served.
	takeOverWithin = time.Minute
	// knockAgain is when it is tried again: who did not hand over may have been about to start or to end.
	knockAgain = 5 * time.Second
	// endsWithin is how long a process that has begun to end may take, or a shortage of descriptors.
	endsWithin = 5 * time.Second
	// lookForEnd is how often it is looked whether the other one has ended.
	lookForEnd = 200 * time.Millisecond
)

// Other is another dnsd of this node.
type Other struct {
	handover.Self
	PID    int // 0 where that has no number here
	At     time.Time
	Reason string // why it did not take over
}

// Story is what has come to pass in this process.
type Story struct {
	From    *Other // who was relieved last; nil if nobody was
	Failed  *Other // who could not take over, the last one; nil if nobody was
	Refused string // why the last one that knocked was sent away
}

// keeper is this process.
type keeper struct {
	Options
	mu    sync.Mutex // held to change story
	story atomic.Pointer[Story]
}

func (k *keeper) tell(change func(*Story)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := *k.story.Load()
	change(&next)
	k.story.Store(&next)
}

// Run is the life of this process: one daemon until ctx is done, or until another process takes over. Then it
// stands by, and goes on should that one end. Who brings up a new dnsd beside the old one, as a rolling update
// does, ends the old one when the new one is well; and an old one that had ended by itself would be started
// anew, and take over again. Only one of which Options.Relieved says so ends.
func Run(ctx context.Context, o Options) error {
	k := &keeper{Options: o}
	k.story.Store(&Story{})
	if k.patience == 0 {
		k.patience = takeOverWithin
	}
	l, err := k.acquire(ctx)
	for {
		if ctx.Err() != nil && l == nil {
			return nil // while waiting for another one to end
		}
		if err != nil {
			return err
		}
		heir, err2 := k.serve(ctx, l)
		if heir == nil || k.Relieved(heir.PID) {
			return err2
		}
		if l, err = k.await(ctx); err == nil {
			k.Log.Warn("the dnsd that took over has ended; going on")
		}
	}
}

// serve is the terms of this process, one after the other, until another process has taken over, which it
// returns, or one ends.
func (k *keeper) serve(ctx context.Context, l *Lease) (heir *handover.Peer, err error) {
	t, err := k.enter(ctx, l)
	if err != nil {
		return nil, err
	}
	for {
		peer := t.reign()
		if peer == nil {
			return nil, t.end()
		}
		next, err := t.handOver(ctx, peer)
		switch {
		case t.relieved:
			return peer, nil
		case next == nil:
			return nil, errors.Join(err, t.end())
		}
		t = next
	}
}

// term is the time of one daemon.
type term struct {
	k        *keeper
	l        *Lease
	d        Daemon
	door     *handover.Door
	relieved bool
	left     chan struct{} // closed when next goes on
	next     func(handover.Item)
	ended    chan struct{}
	rest     sync.WaitGroup // of what the former daemon passes on, be it of this process
}

// enter starts a daemon and makes it responsible. It owns l.
func (k *keeper) enter(ctx context.Context, l *Lease) (*term, error) {
	d, err := k.Start(ctx, l)
	if err != nil {
		l.release()
		return nil, err
	}
	t := &term{k: k, l: l, d: d, left: make(chan struct{}), ended: make(chan struct{})}
	if t.door, err = handover.Listen(k.Door, t.self); err == nil {
		err = t.succeed(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, t.end())
	}
	d.Begin()
	if err := t.door.Open(); err != nil {
		k.Log.Error("trying again", "error", err)
	}
	if l.peer != nil {
		t.rest.Go(t.inherit)
	}
	return t, nil
}

// succeed makes the daemon responsible, if somebody else is.
func (t *term) succeed(ctx context.Context) error {
	if t.l.From == nil {
		return nil
	}
	began := time.Now()
	err := t.settle(ctx)
	if errors.Is(err, errLost) {
		// It goes on, or it has ended: who holds the folders?
		if err = t.l.seize(err); err == nil {
			err = t.d.Settle(ctx)
		}
	}
	if err != nil {
		return fmt.Errorf("not taking over: %w", err)
	}
	if err := t.l.commit(); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	t.k.tell(func(s *Story) { s.From = t.l.From; s.From.At = time.Now() })
	t.k.Log.Info("took over", "from", t.l.From.Version, "settled within", time.Since(began).Round(time.Millisecond))
	return nil
}

// errLost says that the former daemon has hung up.
var errLost = errors.New("while this one was starting")

// settle waits for the daemon to be ready, but not longer than the former one does.
func (t *term) settle(ctx context.Context) error {
	peer := t.l.peer
	if peer == nil {
		return t.d.Settle(ctx)
	}
	patient, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // until peer passes something on, or is closed
		if err := peer.Lost(); err != nil {
			cancel(fmt.Errorf("%w, %w", err, errLost))
		}
	}()
	err := t.d.Settle(patient)
	if lost := context.Cause(patient); err != nil && errors.Is(lost, errLost) {
		return lost
	}
	return err
}

// self is what is said to whoever knocks.
func (t *term) self() handover.Self {
	return handover.Self{Version: t.k.Version, Unwell: t.d.Unwell()}
}

// reign returns the first who knocks and could take over, or nil when the daemon is done.
func (t *term) reign() *handover.Peer {
	peers := make(chan *handover.Peer, 1)
	var answering sync.WaitGroup
	defer answering.Wait()
	answering.Go(func() { t.answer(peers) })
	select {
	case <-t.d.Done():
		_ = t.door.Close()
		answering.Wait()
		select {
		case peer := <-peers:
			_ = peer.Close() // too late, but the first to know
		default:
		}
		return nil
	case peer := <-peers:
		_ = t.door.Close()
		return peer
	}
}

func (t *term) answer(peers chan<- *handover.Peer) {
	for {
		peer, err := t.door.Answer()
		if err == nil {
			peers <- peer
			return
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		t.k.Log.Warn("somebody could not take over", "error", err)
		t.k.tell(func(s *Story) { s.Refused = err.Error() })
		select { // so that whoever comes over and over costs nothing
		case <-t.d.Done():
		case <-time.After(lookForEnd):
		}
	}
}

// end ends what is responsible, or is not to be. The lease goes last: from then on the other one writes.
func (t *term) end() error {
	if t.door != nil {
		_ = t.door.Close()
	}
	err := t.d.Close()
	close(t.ended)
	t.l.release()
	t.rest.Wait()
	return err
}
