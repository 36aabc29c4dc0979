package main

import (
	"context"
	"time"

	"github.com/nodens-dns/nodens/ebpf"
)

// defaultDrain is how long TCP connections outlive their backend's leaving: what Envoy gives them by
// default. It is longer than most pods are given to shut down in good order, and than a name with more
// addresses than one answer holds keeps one of them to itself.
const defaultDrain = 10 * time.Minute

// settle is how long after a change a socket may still turn up on what was there before it: a connect()
// that was under way had found the old set.
const settle = time.Second

// endSockets ends the connections to backends that have left, those first that left while no dnsd was
// there, until ctx is done. It costs nothing while nobody leaves.
func (d *daemon) endSockets(ctx context.Context) error {
	t, err := d.datapath.Terminator(d.config.drain)
	if err != nil {
		d.log.Warn("connections to endpoints that leave are not ended", "error", err)
		return nil
	}
	defer func() { _ = t.Close() }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	said := ""
	for {
		var next time.Duration
		select {
		case <-ctx.Done():
			return nil
		case <-d.hub.services.Left():
			next = settle
		case <-timer.C:
		}
		ended, err := t.End(func(netns uint64, f func() error) error { return d.pods.Within(ctx, netns, f) })
		d.draining.Store(int64(ended.Draining))
		said = d.logEnded(ended, err, said)
		switch {
		case err != nil:
			next = settle
		case next == 0:
			next = ended.Next
		}
		if timer.Stop(); next > 0 {
			timer.Reset(next)
		}
	}
}

// logEnded says what was done, and an error that it did not say the last time, which it returns.
func (d *daemon) logEnded(ended ebpf.Ended, err error, said string) string {
	if ended.UDP+ended.TCP > 0 {
		d.log.Info("connections to endpoints that have left are ended", "udp", ended.UDP, "tcp", ended.TCP)
	}
	if err == nil {
		return ""
	}
	if err.Error() != said {
		d.log.Warn("connections to endpoints that have left are not all ended; trying again", "error", err)
	}
	return err.Error()
}
