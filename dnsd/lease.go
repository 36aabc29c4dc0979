package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nodens-dns/nodens/dnsd/config"
	"github.com/nodens-dns/nodens/dnsd/handover"
	"github.com/nodens-dns/nodens/dnsd/pods"
)

const (
	// waitForEnd is how long a dnsd that cannot take over waits for the other one to end: longer than
	// Kubernetes gives a pod to end, after another one beside it has been ready for some seconds.
	waitForEnd = 2 * time.Minute
	// takeOverWithin is how long each side waits for the other to become ready: for a pass that is under way
	// to end, or for all names and pods there are to be read and served.
	takeOverWithin = time.Minute
	// knockAgain is when it is tried again: who did not hand over may have been about to start or to end.
	knockAgain = 5 * time.Second
	// endsWithin is how long a process that has begun to end may take.
	endsWithin = 5 * time.Second
	// lookForEnd is how often it is looked whether the other one has ended.
	lookForEnd = 200 * time.Millisecond
)

// The kinds of what changes hands.
const (
	itemLock   = "lock"   // of a folder
	itemBell   = "bell"   // of the plugin
	itemHealth = "health" // the socket of health checks; its note is the address
	itemSocket = "socket" // of a pod; its note is a pods.Socket
)

// lease is the right to work in the folders, and what came along with it.
type lease struct {
	locks   locks
	sockets []pods.Socket // pods' own from the start
	bell    *os.File      // pods' own from the start
	health  *os.File
	// from is whom it comes from, if anybody, who stays responsible until told otherwise.
	from *handover.Peer
	ours bool // from is this process itself
}

func (l *lease) release() {
	l.locks.release()
	if l.health != nil {
		_ = l.health.Close()
	}
	if l.from != nil {
		_ = l.from.Close()
	}
}

// acquire gets the right to work in the configuration's folders: at once if nobody does, else from the dnsd
// that does, and if that does not hand over, when it has ended.
func acquire(ctx context.Context, c *config.Config, log *slog.Logger) (*lease, error) {
	l, err := first(c)
	if !errors.Is(err, errTaken) {
		return l, err
	}
	ctx, cancel := context.WithTimeout(ctx, waitForEnd)
	defer cancel()
	said := ""
	for {
		l, refusal := takeOver(c, log)
		if refusal == nil {
			return l, nil
		}
		if said != refusal.Error() {
			log.Warn("cannot take over from the dnsd that runs; waiting for it to end", "error", refusal, "for", waitForEnd)
			said = refusal.Error()
		}
		pause, cancel := context.WithTimeout(ctx, knockAgain)
		l, err := await(pause, c)
		cancel()
		if !errors.Is(err, errTaken) || ctx.Err() != nil {
			return l, err
		}
	}
}

// first gets the right if nobody has it.
func first(c *config.Config) (*lease, error) {
	held, err := alone(c.StateDir, c.RunDir)
	if err != nil {
		return nil, err
	}
	return &lease{locks: held}, nil
}

// await gets the right when whoever has it has ended, or an error when ctx is done.
func await(ctx context.Context, c *config.Config) (*lease, error) {
	tick := time.NewTicker(lookForEnd)
	defer tick.Stop()
	for {
		l, err := first(c)
		if !errors.Is(err, errTaken) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
}

// takeOver asks the dnsd that runs to be relieved, and returns what it gives.
func takeOver(c *config.Config, log *slog.Logger) (*lease, error) {
	peer, err := handover.Knock(c.Door(), handover.Self{Version: version})
	if err != nil {
		return nil, err
	}
	log.Info("taking over from the dnsd that runs", "version", peer.Version, "pid", peer.PID)
	l, err := receive(c, peer)
	if err != nil {
		_ = peer.Close()
		return nil, err
	}
	return l, nil
}

// receive makes a lease of what peer gives.
func receive(c *config.Config, peer *handover.Peer) (*lease, error) {
	items, err := peer.Take(takeOverWithin)
	if err != nil {
		return nil, err
	}
	l := &lease{from: peer}
	for _, item := range items {
		var address string
		switch item.Kind {
		case itemLock:
			l.locks = append(l.locks, item.File)
		case itemBell:
			l.bell = item.File
		case itemHealth:
			if json.Unmarshal(item.Note, &address) == nil && address == c.Listen {
				l.health = item.File
			} else {
				_ = item.File.Close() // it is to be another one
			}
		case itemSocket:
			s := pods.Socket{File: item.File}
			if err = errors.Join(err, json.Unmarshal(item.Note, &s)); err == nil {
				l.sockets = append(l.sockets, s)
			}
		default:
			err = errors.Join(err, fmt.Errorf("an item of kind %q: it is of another protocol", item.Kind))
		}
	}
	if err == nil && len(l.locks) == 0 {
		err = errors.New("the right to work in the folders was not among what was given")
	}
	if err != nil {
		for _, item := range items {
			if item.File != nil {
				_ = item.File.Close()
			}
		}
		return nil, err
	}
	return l, nil
}

// commit makes the caller responsible: by saying so, or because the former dnsd has ended meanwhile. That one has
// changed its mind if it still holds the folders when the caller does not.
func (l *lease) commit(c *config.Config) error {
	refusal := l.from.Commit()
	if refusal == nil {
		return nil
	}
	l.locks.release()
	// A process that ends lets go of one thing after the other.
	ctx, cancel := context.WithTimeout(context.Background(), endsWithin)
	defer cancel()
	own, err := await(ctx, c)
	if err != nil {
		return errors.Join(refusal, err)
	}
	l.locks = own.locks
	return nil
}

// items is everything this daemon has open, by descriptors of their own, but for the locks.
func (d *daemon) items(bell *os.File) ([]handover.Item, error) {
	var items []handover.Item
	for _, lock := range d.lease.locks {
		items = append(items, handover.Item{Kind: itemLock, File: lock})
	}
	if bell != nil {
		items = append(items, handover.Item{Kind: itemBell, File: bell})
	}
	health, err := d.admin.HealthFile()
	if err != nil {
		return items, err
	}
	if health != nil {
		note, err := json.Marshal(d.config.Listen)
		if err != nil {
			return items, err
		}
		items = append(items, handover.Item{Kind: itemHealth, Note: note, File: health})
	}
	sockets, err := d.pods.Sockets()
	if err != nil {
		return items, err
	}
	for _, s := range sockets {
		item, err := socketItem(s)
		if err != nil {
			return items, err
		}
		items = append(items, item)
	}
	return items, nil
}

func socketItem(s pods.Socket) (handover.Item, error) {
	note, err := json.Marshal(s)
	return handover.Item{Kind: itemSocket, Note: note, File: s.File}, err
}
