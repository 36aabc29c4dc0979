package etcd

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// scripted is a store whose watches say what a test has them say, and that never answers anything else.
type scripted struct {
	clientv3.KV
	clientv3.Watcher
	said map[string]chan clientv3.WatchResponse // by prefix
}

func (s *scripted) Watch(_ context.Context, key string, _ ...clientv3.OpOption) clientv3.WatchChan {
	return s.said[key]
}

func (s *scripted) Get(ctx context.Context, _ string, _ ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// following follows such a store of names and routes. Telling of anything takes a minute.
func following(t *testing.T, probe time.Duration) (names, routes chan clientv3.WatchResponse, ended chan error) {
	s := New(Options{Routes: true})
	s.timing.probe = probe
	for _, r := range s.roots {
		r.clear()
	}
	s.whole = true
	names, routes = make(chan clientv3.WatchResponse), make(chan clientv3.WatchResponse)
	store := &scripted{said: map[string]chan clientv3.WatchResponse{s.roots[0].prefix: names, s.roots[1].prefix: routes}}
	ctx, cancel := context.WithCancel(context.Background())
	ended = make(chan error, 1)
	go func() {
		client := clientv3.NewCtxClient(ctx)
		client.KV, client.Watcher = store, store
		ended <- s.follow(ctx, client, 1, func(mesh.Input) { time.Sleep(time.Minute) })
	}()
	t.Cleanup(cancel)
	return names, routes, ended
}

// A store has not been silent while nobody listened.
func TestSilent(t *testing.T) {
	for _, silent := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			names, routes, ended := following(t, time.Hour)
			put := clientv3.WatchResponse{Events: []*clientv3.Event{{
				Type: clientv3.EventTypePut, Kv: &mvccpb.KeyValue{Key: []byte("/skydns/test/a"), Value: []byte(`{"host": "192.0.2.1"}`)},
			}}}
			names <- clientv3.WatchResponse{Created: true}
			names <- put
			time.Sleep(time.Second) // it is being told
			if !silent {
				routes <- clientv3.WatchResponse{Created: true}
			}
			time.Sleep(2 * time.Minute)
			select {
			case err := <-ended:
				if !silent || !errors.Is(err, errSilent) {
					t.Errorf("silent %t: %v", silent, err)
				}
			default:
				if silent {
					t.Error("nobody minds")
				}
			}
			close(names)
			close(routes)
		})
	}
}

// Why a store is not followed any more is not lost where something was being asked at the time.
func TestWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names, routes, ended := following(t, time.Second)
		names <- clientv3.WatchResponse{Created: true}
		routes <- clientv3.WatchResponse{Created: true}
		time.Sleep(2 * time.Second) // a probe waits for its answer
		close(names)
		if err := <-ended; !errors.Is(err, errEnded) {
			t.Errorf("it ended since %v", err)
		}
		close(routes)
	})
}
