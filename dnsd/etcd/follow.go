package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// page is how many keys are read at a time: a server has a limit of bytes for one answer.
const page = 1000

// read reads all keys as they are at one revision, which it returns, and forgets what was known before.
func (s *Source) read(ctx context.Context, client *clientv3.Client) (at int64, err error) {
	s.whole = false
	clear(s.bad)
	clear(s.leases)
	for _, root := range s.roots {
		root.clear()
		end := clientv3.GetPrefixRangeEnd(root.prefix)
		for from := root.prefix; from != ""; {
			callCtx, cancel := context.WithTimeout(ctx, callTimeout)
			r, err := client.Get(callCtx, from, clientv3.WithRange(end), clientv3.WithRev(at), clientv3.WithLimit(page))
			cancel()
			if err != nil {
				return 0, fmt.Errorf("read %s: %w", root.prefix, err)
			}
			if at == 0 {
				at = r.Header.Revision
			}
			if err := s.put(ctx, client, root, r.Kvs); err != nil {
				return 0, err
			}
			from = ""
			if r.More {
				from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
			}
		}
	}
	s.whole = true
	return at, nil
}

// put takes in keys. One that cannot be used is a problem of its own, and no answer; it is an error only if
// the store cannot be asked about them any more.
func (s *Source) put(ctx context.Context, client *clientv3.Client, root *root, kvs []*mvccpb.KeyValue) error {
	if err := s.learn(ctx, client, kvs); err != nil {
		return err
	}
	for _, kv := range kvs {
		key := string(kv.Key)
		delete(s.bad, key)
		if err := root.put(key, kv.Value, s.leases[clientv3.LeaseID(kv.Lease)]); err != nil {
			s.bad[key] = mesh.Problem{Source: sourceName, Object: "key " + strings.ToValidUTF8(key, "?"), Reason: err.Error()}
		}
	}
	return nil
}

// news is what a watch of one root said.
type news struct {
	root *root
	clientv3.WatchResponse
}

// Why a store is followed no more.
var (
	errLost   = errors.New("the connection ended")
	errSilent = errors.New("the store answers, but does not take up watching")
	errEnded  = errors.New("the store ended a watch without saying why")
)

// whileConnected returns a context that ends with errLost when client is not connected any more as it is
// now. Who answers after that may be another store on the same address, or the same one put back to an
// earlier state, and nothing that it says would tell.
func whileConnected(ctx context.Context, client *clientv3.Client) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	conn := client.ActiveConnection()
	state := conn.GetState()
	go func() {
		if conn.WaitForStateChange(ctx, state) {
			cancel(errLost)
		}
	}()
	return ctx, cancel
}

// watch has what happens to the keys from a revision on sent to all, until ctx is done, which an end of its
// own brings about. It does not block.
func (s *Source) watch(ctx context.Context, cancel context.CancelCauseFunc, client *clientv3.Client, from int64, all chan<- news) {
	for _, root := range s.roots {
		go func() {
			// To begin with, this waits for a store that is away.
			for r := range client.Watch(ctx, root.prefix, clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithCreatedNotify()) {
				select {
				case all <- news{root, r}:
				case <-ctx.Done():
					return
				}
			}
			cancel(errEnded)
		}()
	}
}

// follower takes in what the watches say.
type follower struct {
	*Source
	client      *clientv3.Client
	all         chan news
	watched     int              // of how many roots the store has taken up watching
	quiet, most <-chan time.Time // when to tell; nil while there is nothing to
}

// follow takes in changes as they come, from a revision on, and tells them, until the store cannot be
// followed any more.
func (s *Source) follow(ctx context.Context, client *clientv3.Client, from int64, emit func(mesh.Input)) error {
	ctx, cancel := context.WithCancelCause(clientv3.WithRequireLeader(ctx))
	defer cancel(nil)
	f := &follower{Source: s, client: client, all: make(chan news)}
	s.watch(ctx, cancel, client, from, f.all)
	silent := time.NewTimer(callTimeout)
	defer silent.Stop()
	tick := time.NewTicker(s.timing.probe)
	defer tick.Stop()
	for {
		var err error
		select {
		case n := <-f.all:
			err = f.hear(ctx, n)
		case <-silent.C:
			err = f.late(ctx)
		case <-tick.C:
			err = because(ctx, s.probe(ctx, client))
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-f.quiet:
			f.tell(emit)
		case <-f.most:
			f.tell(emit)
		}
		if err != nil {
			return err
		}
	}
}

// hear takes in what a watch said.
func (f *follower) hear(ctx context.Context, n news) error {
	if err := n.Err(); err != nil {
		return err
	}
	if n.Created {
		f.watched++
		return nil
	}
	f.quiet = time.After(f.timing.quiet)
	if f.most == nil {
		f.most = time.After(f.timing.most)
	}
	return because(ctx, f.take(ctx, f.client, n))
}

// late is for when the store should have taken up watching: whatever came while nobody listened counts.
func (f *follower) late(ctx context.Context) error {
	for range f.roots {
		select {
		case n := <-f.all:
			if err := f.hear(ctx, n); err != nil {
				return err
			}
		default:
		}
	}
	if f.watched < len(f.roots) {
		return errSilent
	}
	return nil
}

func (f *follower) tell(emit func(mesh.Input)) {
	f.quiet, f.most = nil, nil
	f.emit(emit)
}

// because returns why ctx has ended, if that is behind an error.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// take takes in what has happened to keys.
func (s *Source) take(ctx context.Context, client *clientv3.Client, n news) error {
	for _, e := range n.Events {
		if e.Type == clientv3.EventTypePut {
			if err := s.put(ctx, client, n.root, []*mvccpb.KeyValue{e.Kv}); err != nil {
				return err
			}
			continue
		}
		delete(s.bad, string(e.Kv.Key))
		n.root.remove(string(e.Kv.Key))
	}
	return nil
}
