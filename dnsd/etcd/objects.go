package etcd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/routes"
)

// routesPath is what the keys of route objects begin with. It is no path of SkyDNS keys, lest a DNS server
// takes an object for a name.
const routesPath = "/nodens/routes/"

// objects is the part of the store that holds route objects.
func (s *Source) objects() *root {
	return &root{
		prefix: routesPath,
		clear:  func() { s.routes = map[string]mesh.Route{} },
		remove: func(key string) { delete(s.routes, key) },
		put: func(key string, data []byte, _ uint32) error {
			delete(s.routes, key)
			_, route, err := routes.Parse(data)
			if err == nil {
				s.routes[key] = route
			}
			return err
		},
	}
}

// Routes are the route objects in a store, and the names that go with them.
type Routes struct {
	Store
	// Path is where the names are kept as SkyDNS keys, so that other DNS servers have them too; empty means
	// /skydns.
	Path string
	// Address is what they are told of each host.
	Address netip.Addr
}

// Apply stores an object in the place of the one with its name, and the name of its host; that of a host
// nobody has routes for any more goes. A name that somebody else keeps in the store is an error.
func (r *Routes) Apply(ctx context.Context, o *routes.Object) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return r.change(ctx, o.Name, clientv3.OpPut(routesPath+o.Name, string(data)), o.Host)
}

// Delete takes an object out of the store, and its host's name with the last of them, unless somebody else has
// written there. An object that is not there is an error.
func (r *Routes) Delete(ctx context.Context, name string) error {
	return r.change(ctx, name, clientv3.OpDelete(routesPath+name), "")
}

// List returns all objects by name.
func (r *Routes) List(ctx context.Context) ([]*routes.Object, error) {
	client, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Close() }()
	all, _, err := r.list(ctx, client)
	return all, err
}

func (r *Routes) list(ctx context.Context, client *clientv3.Client) ([]*routes.Object, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reply, err := client.Get(ctx, routesPath, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
	if err != nil {
		return nil, 0, fmt.Errorf("read routes from etcd at %s: %w", strings.Join(r.Endpoints, ", "), r.why(ctx, err))
	}
	var all []*routes.Object
	for _, kv := range reply.Kvs {
		o, _, err := routes.Parse(kv.Value)
		if err != nil {
			o = &routes.Object{Name: strings.TrimPrefix(string(kv.Key), routesPath)} // for who wants to delete it
		}
		all = append(all, o)
	}
	return all, reply.Header.Revision, nil
}

// change does one thing to the object of a name, and what follows from it for the names of hosts, all at
// once; host is whose the object is afterwards. Whoever was faster is not overwritten: it is looked again.
func (r *Routes) change(ctx context.Context, name string, do clientv3.Op, host string) error {
	client, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	for {
		all, revision, err := r.list(ctx, client)
		if err != nil {
			return err
		}
		t := txn{
			unless: []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(routesPath), "<", revision+1).WithPrefix()},
			ops:    []clientv3.Op{do},
		}
		i := slices.IndexFunc(all, func(o *routes.Object) bool { return o.Name == name })
		if i < 0 && do.IsDelete() {
			return fmt.Errorf("there is no route %q: see dnsd routes list", name)
		}
		if host != "" {
			if err := r.name(ctx, client, &t, host, all); err != nil {
				return err
			}
		}
		if i >= 0 && all[i].Host != "" && r.key(all[i].Host) != r.key(host) {
			others := slices.ContainsFunc(all, func(o *routes.Object) bool { return o.Name != name && r.key(o.Host) == r.key(all[i].Host) })
			if !others {
				if err := r.unname(ctx, client, &t, all[i].Host); err != nil {
					return err
				}
			}
		}
		done, err := t.commit(ctx, client)
		if err != nil || done {
			return err
		}
	}
}

// txn is what is to be done all at once, if nobody has changed what it rests on.
type txn struct {
	unless []clientv3.Cmp
	ops    []clientv3.Op
}

func (t *txn) commit(ctx context.Context, client *clientv3.Client) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reply, err := client.Txn(ctx).If(t.unless...).Then(t.ops...).Commit()
	if err != nil {
		return false, fmt.Errorf("write the route to etcd: %w", err)
	}
	return reply.Succeeded, nil
}

// name has t write the name of a host, where it is nobody else's.
func (r *Routes) name(ctx context.Context, client *clientv3.Client, t *txn, host string, all []*routes.Object) error {
	key := r.key(host)
	data, revision, err := r.value(ctx, client, key)
	if err != nil {
		return err
	}
	own, _ := json.Marshal(value{Host: r.Address.String()})
	routed := slices.ContainsFunc(all, func(o *routes.Object) bool { return r.key(o.Host) == key })
	if data != nil && !bytes.Equal(data, own) && (!routed || !ours(data)) {
		return fmt.Errorf("%s is kept in etcd by somebody else: %s has %s; take that out first, or give the route another host", host, key, data)
	}
	t.unless = append(t.unless, clientv3.Compare(clientv3.ModRevision(key), "=", revision))
	t.ops = append(t.ops, clientv3.OpPut(key, string(own)))
	return nil
}

// unname has t take out the name of a host, if it is still what a route has written.
func (r *Routes) unname(ctx context.Context, client *clientv3.Client, t *txn, host string) error {
	key := r.key(host)
	data, revision, err := r.value(ctx, client, key)
	if err != nil || !ours(data) {
		return err
	}
	t.unless = append(t.unless, clientv3.Compare(clientv3.ModRevision(key), "=", revision))
	t.ops = append(t.ops, clientv3.OpDelete(key))
	return nil
}

// value returns what is under a key, and of which revision; nil and 0 where nothing is.
func (r *Routes) value(ctx context.Context, client *clientv3.Client, key string) ([]byte, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reply, err := client.Get(ctx, key)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s from etcd: %w", key, err)
	}
	if len(reply.Kvs) == 0 {
		return nil, 0, nil
	}
	return reply.Kvs[0].Value, reply.Kvs[0].ModRevision, nil
}

// ours says that a value is as some node's routes write it: an address, and nothing else.
func ours(data []byte) bool {
	var v value
	if json.Unmarshal(data, &v) != nil {
		return false
	}
	addr, err := netip.ParseAddr(v.Host)
	if err != nil {
		return false
	}
	own, _ := json.Marshal(value{Host: addr.String()})
	return bytes.Equal(data, own)
}

// key is the SkyDNS key of a host.
func (r *Routes) key(host string) string {
	t := newTree(pathOf(r.Path), nil)
	return t.keyOf(strings.ToLower(strings.TrimSuffix(host, ".")))
}
