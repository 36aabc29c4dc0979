package tenure

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nodens-dns/nodens/dnsd/handover"
)

// itemLock is the kind of the folders, which are tenure's own.
const itemLock = "lock"

// Lease is the right to write, and what came along with it.
type Lease struct {
	// Items are what is open already. Whoever starts with the lease owns the files.
	Items []handover.Item
	// From is who serves until the new daemon is responsible, with the same sockets and the programs at work;
	// nil if nobody does. Itself says that it is another daemon of this process.
	From   *Other
	Itself bool

	k      *keeper
	locks  locks
	peer   *handover.Peer // From, in another process
	seized bool           // from who has ended
}

// MayRefuse says whether a daemon that is not well should rather not start: somebody who is goes on instead.
func (l *Lease) MayRefuse() bool { return l.From != nil && !l.Itself && l.From.Unwell == "" }

// Story is what has come to pass in this process so far. It may be called at any time.
func (l *Lease) Story() Story { return *l.k.story.Load() }

// release lets go of the folders and of the former daemon, which goes on then unless it has been relieved.
func (l *Lease) release() {
	l.locks.release()
	l.locks = nil
	if l.peer != nil {
		_ = l.peer.Close()
	}
}

// acquire gets the right to write: at once if nobody has it, else from the dnsd that does, and if that does not
// hand over, when it has ended.
func (k *keeper) acquire(ctx context.Context) (*Lease, error) {
	l, err := k.first()
	if !errors.Is(err, errTaken) {
		return l, err
	}
	ctx, cancel := context.WithTimeout(ctx, waitForEnd)
	defer cancel()
	said := ""
	for {
		l, refusal := k.takeOver()
		if refusal == nil {
			return l, nil
		}
		if said != refusal.Error() {
			k.Log.Warn("cannot take over from the dnsd that runs; waiting for it to end", "error", refusal, "for", waitForEnd)
			said = refusal.Error()
		}
		pause, cancel := context.WithTimeout(ctx, knockAgain)
		l, err := k.await(pause)
		cancel()
		if !errors.Is(err, errTaken) || ctx.Err() != nil {
			return l, err
		}
	}
}

// first gets the right if nobody has it.
func (k *keeper) first() (*Lease, error) {
	held, err := alone(k.Folders...)
	if err != nil {
		return nil, err
	}
	return &Lease{k: k, locks: held}, nil
}

// await gets the right when whoever has it has ended, or an error when ctx is done.
func (k *keeper) await(ctx context.Context) (*Lease, error) {
	tick := time.NewTicker(lookForEnd)
	defer tick.Stop()
	for {
		l, err := k.first()
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

// takeOver asks the dnsd that runs to be relieved, and makes a lease of what it gives.
func (k *keeper) takeOver() (*Lease, error) {
	peer, err := handover.Knock(k.Door, handover.Self{Version: k.Version})
	if err != nil {
		return nil, err
	}
	k.Log.Info("taking over from the dnsd that runs", "version", peer.Version, "pid", peer.PID)
	l := &Lease{k: k, peer: peer, From: &Other{Self: peer.Self, PID: peer.PID}}
	items, err := peer.Take(k.patience)
	for _, item := range items {
		switch {
		case item.Kind == itemLock && item.File != nil:
			l.locks = append(l.locks, item.File)
		case slices.Contains(k.Kinds, item.Kind) && item.File != nil:
			l.Items = append(l.Items, item)
		default:
			item.Close()
			err = errors.Join(err, fmt.Errorf("an item of kind %q: it is of another protocol", item.Kind))
		}
	}
	if err == nil && len(l.locks) == 0 {
		err = errors.New("the right to work in the folders was not among what was given")
	}
	if err != nil {
		closeAll(l.Items)
		l.release()
		return nil, err
	}
	return l, nil
}

// commit makes the caller responsible: by saying so, or because the former dnsd has ended meanwhile.
func (l *Lease) commit() error {
	if l.peer == nil || l.seized {
		return nil
	}
	if refusal := l.peer.Commit(); refusal != nil {
		return l.seize(refusal)
	}
	return nil
}

// seize gets the folders from a former dnsd that has ended. That one goes on if it still holds them when the
// caller does not; then the error wraps refusal.
func (l *Lease) seize(refusal error) error {
	l.locks.release()
	l.locks = nil
	// A process that ends lets go of one thing after the other.
	ctx, cancel := context.WithTimeout(context.Background(), endsWithin)
	defer cancel()
	own, err := l.k.await(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", refusal, err)
	}
	l.locks, l.seized = own.locks, true
	return nil
}
