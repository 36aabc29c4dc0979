package tenure

import (
	"context"
	"fmt"
	"time"

	"github.com/nodens-dns/nodens/dnsd/handover"
)

// handOver stops writing, gives all there is to peer, and returns when that is responsible and nothing of the
// daemon is left. If peer does not become it, the next daemon in this process does, which is returned. After an
// error, or when ctx is done, nobody goes on, and t must be ended.
func (t *term) handOver(ctx context.Context, peer *handover.Peer) (next *term, err error) {
	log := t.k.Log
	log.Info("handing over", "version", peer.Version, "pid", peer.PID)
	if err := t.d.Pause(); err != nil {
		_ = peer.Close()
		return nil, err
	}
	items, err := t.open()
	refusal := err
	if err == nil {
		refusal = t.give(peer, items)
	}
	if refusal == nil {
		closeAll(items)
		t.relieved = true
		t.l.locks.release()
		t.leave(func(item handover.Item) {
			_ = peer.Pass(item)
			item.Close()
		})
		_ = peer.Close()
		return nil, nil
	}
	_ = peer.Close()
	t.k.tell(func(s *Story) {
		s.Failed = &Other{Self: peer.Self, PID: peer.PID, At: time.Now(), Reason: refusal.Error()}
	})
	if err != nil || ctx.Err() != nil {
		closeAll(items)
		return nil, err
	}
	log.Warn("nobody took over; going on", "error", refusal)
	return t.again(ctx, items)
}

// again starts the next daemon in this process with what this one has open.
func (t *term) again(ctx context.Context, items []handover.Item) (*term, error) {
	itself := &Other{Self: handover.Self{Version: "itself", Unwell: t.d.Unwell()}}
	l := &Lease{Items: items, From: itself, Itself: true, k: t.k, locks: t.l.locks}
	t.l.locks = nil
	next, err := t.k.enter(ctx, l)
	if err != nil {
		return nil, fmt.Errorf("neither handed over nor gone on: %w", err)
	}
	next.rest.Go(func() { t.leave(next.accept) })
	return next, nil
}

// open returns what the daemon has open. What is short now, such as descriptors, may not be in a moment.
func (t *term) open() (items []handover.Item, err error) {
	for deadline := time.Now().Add(endsWithin); ; time.Sleep(lookForEnd) {
		if items, err = t.d.Open(); err == nil || time.Now().After(deadline) {
			return items, err
		}
		closeAll(items)
	}
}

// give gives peer the folders and the items, and returns when it is responsible.
func (t *term) give(peer *handover.Peer, items []handover.Item) error {
	var all []handover.Item
	for _, lock := range t.l.locks {
		all = append(all, handover.Item{Kind: itemLock, File: lock})
	}
	if err := peer.Give(append(all, items...)); err != nil {
		return err
	}
	return peer.Await(t.k.patience)
}

// leave lets go of what another daemon serves by now, and passes on to it what can go on there, also what the
// former one still passes on.
func (t *term) leave(pass func(handover.Item)) {
	began := time.Now()
	t.next = pass
	close(t.left)
	t.d.Leave(pass)
	if peer := t.l.peer; peer != nil {
		defer time.AfterFunc(t.k.patience, func() { _ = peer.Close() }).Stop() // should it hang
	}
	t.rest.Wait()
	t.l.release()
	t.k.Log.Info("handed over", "took", time.Since(began).Round(time.Millisecond))
}

// inherit goes on with what the former daemon passes on, until there is no more.
func (t *term) inherit() {
	for {
		item, err := t.l.peer.Next()
		if err != nil {
			return // it is gone
		}
		t.accept(item)
	}
}

// accept goes on with an item, or passes it on. While nobody owns the pods here, it waits for whoever will.
func (t *term) accept(item handover.Item) {
	if item.File == nil || t.d.Resume(item) {
		return
	}
	select {
	case <-t.left:
		t.next(item)
	case <-t.ended:
		item.Close()
	}
}

func closeAll(items []handover.Item) {
	for _, item := range items {
		item.Close()
	}
}
