package etcd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// page is how many keys are read at a time: a server has a limit of bytes for one answer.
const page = 1000

// read reads all keys as they are at one revision, and forgets what was known before.
func (s *Source) read(ctx context.Context, client *clientv3.Client) error {
	s.whole = false
	clear(s.bad)
	clear(s.leases)
	var at int64
	for _, root := range s.roots {
		root.clear()
		end := clientv3.GetPrefixRangeEnd(root.prefix)
		for from := root.prefix; from != ""; {
			callCtx, cancel := context.WithTimeout(ctx, callTimeout)
			r, err := client.Get(callCtx, from, clientv3.WithRange(end), clientv3.WithRev(at), clientv3.WithLimit(page))
			cancel()
			if err != nil {
				return fmt.Errorf("read %s: %w", root.prefix, err)
			}
			if at == 0 {
				at = r.Header.Revision
			}
			s.cluster, from = r.Header.ClusterId, ""
			for _, kv := range r.Kvs {
				s.put(ctx, client, root, kv)
			}
			if r.More {
				from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
			}
		}
		root.revision = at
	}
	s.whole = true
	return nil
}

// put takes in a key. One that cannot be used is a problem of its own, and no answer.
func (s *Source) put(ctx context.Context, client *clientv3.Client, root *root, kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	delete(s.bad, key)
	if err := root.put(key, kv.Value, s.lease(ctx, client, kv)); err != nil {
		s.bad[key] = mesh.Problem{Source: sourceName, Object: "key " + strings.ToValidUTF8(key, "?"), Reason: err.Error()}
	}
}

// lease returns for how many seconds a key was to live when its lease was granted, 0 for ever. What is
// left of that changes all the time; no client may remember a name for longer than the whole.
func (s *Source) lease(ctx context.Context, client *clientv3.Client, kv *mvccpb.KeyValue) uint32 {
	id := clientv3.LeaseID(kv.Lease)
	if id == clientv3.NoLease {
		return 0
	}
	if granted, ok := s.leases[id]; ok {
		return granted
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := client.TimeToLive(ctx, id)
	if err != nil || r.GrantedTTL <= 0 {
		return 0 // it ends any moment, and the key with it
	}
	s.leases[id] = uint32(r.GrantedTTL)
	return s.leases[id]
}

// news is what a watch of one root said.
type news struct {
	root *root
	clientv3.WatchResponse
}

// follow takes in changes as they come, and tells them, until the store cannot be followed any more.
func (s *Source) follow(ctx context.Context, client *clientv3.Client, emit func(mesh.Input)) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	all := make(chan news)
	for _, root := range s.roots {
		from := root.revision + 1
		go func() {
			// To begin with, this waits for a store that is away.
			for r := range client.Watch(ctx, root.prefix, clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithProgressNotify()) {
				select {
				case all <- news{root, r}:
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	tick := time.NewTicker(s.timing.probe)
	defer tick.Stop()
	var quiet, most <-chan time.Time // nil while there is nothing to tell
	for {
		select {
		case n := <-all:
			if err := s.take(ctx, client, n); err != nil {
				return err
			}
			quiet = time.After(s.timing.quiet)
			if most == nil {
				most = time.After(s.timing.most)
			}
			continue
		case <-tick.C:
			if err := s.probe(ctx, client); err != nil {
				return err
			}
			continue
		case <-ctx.Done():
			return ctx.Err()
		case <-quiet:
		case <-most:
		}
		quiet, most = nil, nil
		s.emit(emit)
	}
}

// take takes in what a watch said.
func (s *Source) take(ctx context.Context, client *clientv3.Client, n news) error {
	if err := n.Err(); err != nil {
		return err
	}
	for _, e := range n.Events {
		if e.Type == clientv3.EventTypePut {
			s.put(ctx, client, n.root, e.Kv)
			continue
		}
		delete(s.bad, string(e.Kv.Key))
		n.root.remove(string(e.Kv.Key))
	}
	n.root.revision = max(n.root.revision, n.Header.Revision)
	return nil
}
