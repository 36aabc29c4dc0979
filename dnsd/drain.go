package main

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nodens-dns/nodens/ebpf"
)

// settle is how long after a change a socket may still turn up on what was there before it: a connect()
// that was under way had found the old set.
const settle = time.Second

// drainer ends the connections to endpoints that have left, when they are due.
type drainer struct {
	log    *slog.Logger
	end    func() (ebpf.Ended, error) // ends what is due now
	moves  <-chan ebpf.Move
	waits  atomic.Int64 // connections in their drain time
	failed string       // the last error, empty after a success
}

// endSockets is a drainer's life in this daemon.
func (d *daemon) endSockets(ctx context.Context) error {
	t, err := d.datapath.Terminator(d.config.Drain)
	if err != nil {
		d.log.Warn("connections to endpoints that leave are not ended", "error", err)
		return nil
	}
	defer func() { _ = t.Close() }()
	within := func(netns uint64, f func() error) error { return d.pods.Within(ctx, netns, f) }
	d.drain.log, d.drain.moves = d.log, d.hub.services.Moves()
	d.drain.end = func() (ebpf.Ended, error) { return t.End(within) }
	d.drain.run(ctx)
	return nil
}

// run begins with those that left while no dnsd was there, and costs nothing while nobody leaves. One
// that comes back is looked at, too: should it leave again, its connections have all the drain time.
func (d *drainer) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		again := time.Duration(0)
		select {
		case <-ctx.Done():
			return
		case m := <-d.moves:
			if !m.Left && d.waits.Load() == 0 {
				continue
			}
			again = settle
		case <-timer.C:
		}
		ended, err := d.end()
		if ctx.Err() != nil {
			return
		}
		d.tell(ended, err)
		switch {
		case err != nil:
			again = settle
		case again == 0:
			again = ended.Next
		}
		if timer.Stop(); again > 0 {
			timer.Reset(again)
		}
	}
}

// tell logs what was done, and an error once.
func (d *drainer) tell(ended ebpf.Ended, err error) {
	d.waits.Store(int64(ended.Draining))
	if ended.UDP+ended.TCP > 0 {
		d.log.Info("connections to endpoints that have left are ended", "udp", ended.UDP, "tcp", ended.TCP)
	}
	failed := ""
	if err != nil {
		failed = err.Error()
	}
	if failed != d.failed && err != nil {
		d.log.Warn("connections to endpoints that have left are not all ended; trying again", "error", err)
	}
	d.failed = failed
}
