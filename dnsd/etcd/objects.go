package etcd

import (
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
// nobody has routes for any more goes.
func (r *Routes) Apply(ctx context.Context, o *routes.Object) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return r.change(ctx, o.Name, clientv3.OpPut(routesPath+o.Name, string(data)), o.Host)
}

// Delete takes an object out of the store, and its host's name with the last of them. An object that is
// not there is an error.
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
		i := slices.IndexFunc(all, func(o *routes.Object) bool { return o.Name == name })
		if i < 0 && do.IsDelete() {
			return fmt.Errorf("there is no route %q: see dnsd routes list", name)
		}
		ops := []clientv3.Op{do}
		if host != "" {
			value, _ := json.Marshal(value{Host: r.Address.String()})
			ops = append(ops, clientv3.OpPut(r.key(host), string(value)))
		}
		if i >= 0 && all[i].Host != "" && r.key(all[i].Host) != r.key(host) {
			others := slices.ContainsFunc(all, func(o *routes.Object) bool { return o.Name != name && r.key(o.Host) == r.key(all[i].Host) })
			if !others {
				ops = append(ops, clientv3.OpDelete(r.key(all[i].Host)))
			}
		}
		unchanged := clientv3.Compare(clientv3.ModRevision(routesPath), "<", revision+1).WithPrefix()
		done, err := r.commit(ctx, client, unchanged, ops)
		if err != nil || done {
			return err
		}
	}
}

func (r *Routes) commit(ctx context.Context, client *clientv3.Client, unless clientv3.Cmp, ops []clientv3.Op) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reply, err := client.Txn(ctx).If(unless).Then(ops...).Commit()
	if err != nil {
		return false, fmt.Errorf("write the route to etcd: %w", err)
	}
	return reply.Succeeded, nil
}

// key is the SkyDNS key of a host.
func (r *Routes) key(host string) string {
	t := newTree(pathOf(r.Path), nil)
	return t.keyOf(strings.ToLower(strings.TrimSuffix(host, ".")))
}
