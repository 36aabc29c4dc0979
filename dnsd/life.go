package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodens-dns/nodens/dnsd/config"
	"github.com/nodens-dns/nodens/dnsd/handover"
	"github.com/nodens-dns/nodens/dnsd/pods"
	"github.com/nodens-dns/nodens/dnsd/process"
)

// run is the life of this process: one daemon until ctx is done, or until another process takes over. Then it
// stands by, and goes on should that one end. Who brings up a new dnsd beside the old one, as a rolling update
// does, ends the old one when the new one is well; and an old one that had ended by itself would be started
// anew, and take over again. Only one that has started the new one itself, at a SIGHUP, ends.
func run(ctx context.Context, c *config.Config, log *slog.Logger) error {
	// Everything in RunDir has a mode of its own; its group may ask dnsd.
	for dir, mode := range map[string]os.FileMode{c.StateDir: 0o700, c.RunDir: 0o755} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	var anew renewal
	go anew.follow(ctx, log)
	l, err := acquire(ctx, c, log)
	for {
		if ctx.Err() != nil && l == nil {
			return nil // while waiting for another one to end
		}
		if err != nil {
			return err
		}
		e := live(ctx, c, log, l)
		for e.next != nil {
			e = <-e.next
		}
		if !e.relieved {
			return e.err
		}
		if anew.is(e.heir) {
			process.Notify(fmt.Sprintf("MAINPID=%d", e.heir))
			return nil
		}
		log.Info("relieved; standing by until told to end, or until the other one ends")
		debug.FreeOSMemory()
		if l, err = await(ctx, c); err == nil {
			log.Warn("the dnsd that took over has ended; going on")
		}
	}
}

// ending is how a daemon ended.
type ending struct {
	err      error
	relieved bool          // another process goes on
	heir     int           // that one, or 0 where it has no number here
	next     <-chan ending // how the daemon ends that goes on in this process; nil if there is none
}

// live is the life of one daemon: attach, remember, first pass, then everything at once until ctx is done. The
// programs, the rows and their maps stay when it returns: the next daemon adopts them, and until then queries
// go to the nameservers the pods asked. It owns l.
func live(ctx context.Context, c *config.Config, log *slog.Logger, l *lease) ending {
	defer l.release()
	d, err := wire(ctx, c, log, l)
	if err != nil {
		return ending{err: err}
	}
	defer d.letGo()

	if err := d.openAdmin(); err != nil {
		d.pods.Close()
		return ending{err: err}
	}
	// The first pass comes before the first listener: a name known from the last run must not be
	// asked elsewhere because its table was a moment late.
	d.datapath.Beat()
	due := d.hub.pass()
	if err := d.hub.state.Load().Err; err != nil && l.from != nil && !l.ours && l.from.Unwell == "" {
		d.admin.Close()
		d.pods.Close()
		return ending{err: fmt.Errorf("not taking over, since this would not be well: %w", err)}
	}
	log.Info("started", "version", version, "sources", d.hub.sources,
		"names", len(d.hub.state.Load().Plan.Names), "took", time.Since(d.started).Round(time.Millisecond))
	w := d.write(ctx, due)
	s := newGroup(context.WithoutCancel(ctx))
	s.Go(d.beat)
	s.Go(func(ctx context.Context) error { return process.Tidy(ctx, d.hub.worked, log) })
	s.Go(d.show.LogQueries)
	e := d.reign(ctx, w, s)
	close(d.ended)
	if e.err == nil && !e.relieved && e.next == nil {
		log.Info("stopped; pods keep their connections, their queries go to their own nameservers")
	}
	return e
}

// group is goroutines that end together.
type group struct {
	*errgroup.Group
	ctx  context.Context
	stop context.CancelFunc
}

func newGroup(ctx context.Context) *group {
	ctx, stop := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	return &group{g, ctx, stop}
}

// Go starts one of them.
func (g *group) Go(f func(context.Context) error) { g.Group.Go(func() error { return f(g.ctx) }) }

// end ends them, and returns the first error there was.
func (g *group) end() error {
	g.stop()
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// write starts all that learns, decides and writes, to the kernel or the disk. When it has ended, what is there
// is still served.
func (d *daemon) write(ctx context.Context, due time.Time) *group {
	w := newGroup(ctx)
	w.Go(func(ctx context.Context) error { return d.hub.run(ctx, due) })
	w.Go(d.keep.Run)
	w.Go(d.resolve)
	w.Go(d.pods.Run)
	w.Go(d.endSockets)
	for _, s := range d.sources {
		w.Go(func(ctx context.Context) error {
			if err := s.run(ctx, d.hub.emit(ctx)); err != nil && ctx.Err() == nil {
				return fmt.Errorf("source %s: %w", s.name, err)
			}
			return nil
		})
	}
	return w
}

// reign becomes responsible, and stays so until ctx is done, something ends that must not, or somebody takes
// over.
func (d *daemon) reign(ctx context.Context, w, s *group) (e ending) {
	committed := d.lease.from == nil
	end := func(err error) ending {
		if committed && d.lease.from != nil {
			_ = d.lease.from.Close() // inheritRest waits for it
		}
		err = errors.Join(err, d.stopWriting(w), s.end())
		d.pods.Close()
		d.admin.Close()
		return ending{err: err}
	}
	door, err := handover.Listen(d.config.Door(), d.self)
	if err != nil {
		return end(err)
	}
	defer func() { _ = door.Close() }()
	if err := d.succeed(w); err != nil {
		return end(err)
	}
	committed = true
	for _, open := range []func() error{d.admin.Open, door.Open} {
		if err := open(); err != nil {
			d.log.Error("this dnsd cannot be reached; trying again", "error", err)
		}
	}
	s.Go(d.admin.Serve)
	process.Notify("READY=1")
	d.forget()
	var rest sync.WaitGroup
	rest.Go(d.inheritRest)
	select {
	case <-w.ctx.Done():
		e = end(nil)
	case <-s.ctx.Done():
		e = end(nil)
	case peer := <-d.answer(door):
		if e = d.handOver(ctx, peer, w); !e.relieved && e.next == nil {
			e = end(e.err)
			break
		}
		e.err = s.end()
	}
	if e.relieved || e.next != nil {
		d.leave(&rest)
	}
	return e
}

// self is what this daemon says of itself to who would take over.
func (d *daemon) self() handover.Self {
	s := handover.Self{Version: version}
	if err := d.hub.state.Load().Err; err != nil {
		s.Unwell = err.Error()
	}
	return s
}

// stopWriting ends what writes, with all that is to be remembered on disk.
func (d *daemon) stopWriting(w *group) error {
	err := w.end()
	d.keep.Flush() // what the hub took while the keeper ended
	return err
}

// succeed waits until the pods that were there before are served, and then takes over, if there is somebody to
// take over from.
func (d *daemon) succeed(w *group) error {
	if d.lease.from == nil {
		return nil
	}
	lost := make(chan error, 1)
	go func() { lost <- d.lease.from.Lost() }()
	select {
	case <-d.settled:
	case <-w.ctx.Done():
		return errors.New("ended before it took over")
	case err := <-lost:
		return err
	}
	if err := d.datapath.Exchange(); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	if err := d.lease.commit(d.config); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	d.log.Info("took over", "from", d.lease.from.Version, "sockets", len(d.lease.sockets), "took", time.Since(d.started).Round(time.Millisecond))
	return nil
}

// inheritRest goes on with the connections that the former daemon passes on, until there are no more. While
// nobody owns the pods here, they wait for whoever will.
func (d *daemon) inheritRest() {
	if d.lease.from == nil {
		return
	}
	for {
		item, err := d.lease.from.Next()
		if err != nil {
			return // it is gone
		}
		s := pods.Socket{File: item.File}
		if json.Unmarshal(item.Note, &s) != nil || s.File == nil || d.pods.Resume(s) {
			continue
		}
		select {
		case <-d.left:
			_ = d.heir.Pass(item)
		case <-d.ended:
		}
		_ = s.File.Close()
	}
}

// answer tells of the first who knocks and could take over.
func (d *daemon) answer(door *handover.Door) <-chan *handover.Peer {
	peers := make(chan *handover.Peer, 1)
	go func() {
		for {
			peer, err := door.Answer()
			switch {
			case errors.Is(err, net.ErrClosed):
				return
			case err != nil:
				d.log.Warn("somebody could not take over", "error", err)
				time.Sleep(lookForEnd) // so that whoever comes over and over costs nothing
			default:
				peers <- peer
				return
			}
		}
	}()
	return peers
}

// handOver stops writing, gives all there is to peer, and returns when peer is responsible. If peer does not
// become it, another daemon goes on in this process, in the same way. If nobody goes on, the ending says why.
func (d *daemon) handOver(ctx context.Context, peer *handover.Peer, w *group) (e ending) {
	d.log.Info("handing over", "version", peer.Version, "pid", peer.PID)
	bell, err := d.pods.Doorbell()
	if err != nil {
		d.log.Warn("the next one has to make a bell of its own", "error", err)
	}
	if err = d.stopWriting(w); err != nil {
		_ = peer.Close()
		return ending{err: err}
	}
	items, err := d.items(bell)
	defer func() {
		for _, item := range items[len(d.lease.locks):] {
			_ = item.File.Close()
		}
		d.lease.locks.release() // whoever goes on has his own
	}()
	if err == nil {
		err = give(peer, items)
	}
	if err == nil {
		d.heir = peer
		return ending{relieved: true, heir: peer.PID}
	}
	_ = peer.Close()
	if ctx.Err() != nil {
		return ending{}
	}
	d.log.Warn("nobody took over; going on", "error", err)
	if d.heir, e.next, err = d.again(ctx); err == nil {
		if err = give(d.heir, items); err != nil {
			_ = d.heir.Close()
			err = errors.Join(err, (<-e.next).err)
		}
	}
	if err != nil {
		return ending{err: fmt.Errorf("neither handed over nor gone on: %w", err)}
	}
	return e
}

// leave lets go of what the heir serves by now: connections as soon as they are between two answers.
func (d *daemon) leave(rest *sync.WaitGroup) {
	began := time.Now()
	close(d.left)
	d.pods.Retire(func(s pods.Socket) {
		if item, err := socketItem(s); err == nil {
			_ = d.heir.Pass(item)
		}
		_ = s.File.Close()
	})
	if from := d.lease.from; from != nil {
		defer time.AfterFunc(takeOverWithin, func() { _ = from.Close() }).Stop() // should it hang
	}
	rest.Wait()
	_ = d.heir.Close()
	d.log.Info("handed over", "took", time.Since(began).Round(time.Millisecond))
}

// give gives peer the items, and returns when it is responsible.
func give(peer *handover.Peer, items []handover.Item) error {
	if err := peer.Give(items); err != nil {
		return err
	}
	return peer.Await(takeOverWithin)
}

// again starts another daemon in this process, which takes over from the peer it returns.
func (d *daemon) again(ctx context.Context) (*handover.Peer, <-chan ending, error) {
	ours, theirs, err := handover.Pair()
	if err != nil {
		return nil, nil, err
	}
	next := make(chan ending, 1)
	go func() {
		l, err := receive(d.config, theirs)
		if l != nil {
			l.ours = true
		}
		if err != nil {
			_ = theirs.Close()
			next <- ending{err: err}
			return
		}
		next <- live(ctx, d.config, d.log, l)
	}()
	return ours, next, nil
}
