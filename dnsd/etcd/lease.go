package etcd

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

const (
	// leasesAtOnce is how many leases are asked about at a time.
	leasesAtOnce = 16
	// leasesKept is how many are remembered. Who registers himself may do so with a new lease each time.
	leasesKept = 10_000
)

// learn asks for how many seconds the leases of keys were granted, as far as it is not known. What is left of
// that changes all the time; no client may remember a name for longer than the whole.
func (s *Source) learn(ctx context.Context, client *clientv3.Client, kvs []*mvccpb.KeyValue) error {
	if len(s.leases) > leasesKept {
		clear(s.leases) // what is still there is asked about again when its key is put again
	}
	var unknown []clientv3.LeaseID
	for _, kv := range kvs {
		id := clientv3.LeaseID(kv.Lease)
		if _, known := s.leases[id]; known || id == clientv3.NoLease {
			continue
		}
		s.leases[id] = 1 // for one that has ended by then: its keys go any moment
		unknown = append(unknown, id)
	}
	granted := make([]int64, len(unknown))
	var g errgroup.Group
	g.SetLimit(leasesAtOnce)
	for i, id := range unknown {
		g.Go(func() error {
			callCtx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			r, err := client.TimeToLive(callCtx, id)
			if err != nil {
				return fmt.Errorf("read lease %x: %w", int64(id), err)
			}
			granted[i] = r.GrantedTTL
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, id := range unknown {
		s.leases[id] = uint32(max(1, granted[i]))
	}
	return nil
}
