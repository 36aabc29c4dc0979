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
	"github.com/nodens-dns/nodens/dnsd/tenure"
)

// run is the life of this process. Which dnsd works when two meet, package tenure says; here is what one is.
func run(ctx context.Context, c *config.Config, log *slog.Logger) error {
	// Everything in RunDir has a mode of its own; its group may ask dnsd.
	for dir, mode := range map[string]os.FileMode{c.StateDir: 0o700, c.RunDir: 0o755} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	anew := followHangups(ctx, log)
	return tenure.Run(ctx, tenure.Options{
		Folders: []string{c.StateDir, c.RunDir}, Door: c.Door(), Version: version, Log: log,
		Kinds: []string{itemBell, itemHealth, itemSocket},
		Start: func(ctx context.Context, l *tenure.Lease) (tenure.Daemon, error) {
			d, err := start(ctx, c, log, l)
			if err != nil {
				return nil, err // and no daemon, rather than a nil one
			}
			return d, nil
		},
		Relieved: func(pid int) bool { return anew.relieved(pid, log) },
	})
}

// relieved says whether this process ends when the process pid has relieved it.
func (r *renewal) relieved(pid int, log *slog.Logger) bool {
	switch {
	case r.is(pid):
		process.Notify(fmt.Sprintf("MAINPID=%d", pid))
		return true
	case r.renewed:
		// Whoever supervised the process that started this one does so no more, or the other would not be.
		log.Info("relieved by a dnsd that this one has not started; ending")
		return true
	}
	log.Info("relieved; standing by until told to end, or until the other one ends")
	debug.FreeOSMemory()
	return false
}

// The kinds of what changes hands.
const (
	itemBell   = "bell"   // of the plugin
	itemHealth = "health" // the socket of health checks; its note is the address
	itemSocket = "socket" // of a pod; its note is a pods.Socket
)

// estate is what a daemon is given of the one before.
type estate struct {
	sockets []pods.Socket // pods' own from the start
	bell    *os.File      // pods' own from the start
	health  *os.File
	// overlaps says that the port of health checks is the one before's, at another address: it is free only when
	// that has left.
	overlaps bool
}

func (e estate) close() {
	for _, s := range e.sockets {
		_ = s.File.Close()
	}
	for _, f := range []*os.File{e.bell, e.health} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// receive makes an estate of items, whose files it owns.
func receive(items []handover.Item, listen string) (e estate, err error) {
	for _, item := range items {
		var address string
		switch item.Kind {
		case itemBell:
			e.bell = item.File
		case itemHealth:
			if json.Unmarshal(item.Note, &address) == nil && address == listen {
				e.health = item.File
			} else {
				item.Close() // it is to be another one
				e.overlaps = samePort(address, listen)
			}
		case itemSocket:
			s := pods.Socket{File: item.File}
			err = errors.Join(err, json.Unmarshal(item.Note, &s))
			e.sockets = append(e.sockets, s)
		}
	}
	if err != nil {
		e.close()
		return estate{}, fmt.Errorf("take over: %w", err)
	}
	return e, nil
}

func samePort(a, b string) bool {
	_, one, err := net.SplitHostPort(a)
	_, other, err2 := net.SplitHostPort(b)
	return err == nil && err2 == nil && one == other
}

// start makes a daemon, and lets it write: attach, remember, first pass, then everything at once until ctx is
// done. The programs, the rows and their maps stay when it has ended: the next daemon adopts them, and until
// then queries go to the nameservers the pods asked.
func start(ctx context.Context, c *config.Config, log *slog.Logger, l *tenure.Lease) (*daemon, error) {
	given, err := receive(l.Items, c.Listen)
	if err != nil {
		return nil, err
	}
	d, err := wire(ctx, c, log, l, given)
	if err != nil {
		return nil, err
	}
	d.learning, d.answering, d.done = newGroup(ctx), newGroup(context.WithoutCancel(ctx)), make(chan struct{})
	done := sync.OnceFunc(func() { close(d.done) })
	context.AfterFunc(d.learning.ctx, done)
	context.AfterFunc(d.answering.ctx, done)
	// What is opened here cannot fail when this daemon has taken over, but for a port the one before still has.
	if err := d.openAdmin(given.health, given.overlaps || l.Itself); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	// The first pass comes before the first listener: a name known from the last run must not be
	// asked elsewhere because its table was a moment late.
	d.datapath.Beat()
	due := d.hub.pass()
	if unwell := d.Unwell(); unwell != "" && l.MayRefuse() {
		return nil, errors.Join(fmt.Errorf("not taking over, since this would not be well: %s", unwell), d.Close())
	}
	log.Info("started", "version", version, "sources", d.hub.sources,
		"names", len(d.hub.state.Load().Plan.Names), "took", time.Since(d.started).Round(time.Millisecond))
	d.write(due)
	d.answering.Go(d.beat)
	d.answering.Go(func(ctx context.Context) error { return process.Tidy(ctx, d.hub.worked, log) })
	d.answering.Go(d.show.LogQueries)
	return d, nil
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
func (d *daemon) write(due time.Time) {
	w := d.learning
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
}
