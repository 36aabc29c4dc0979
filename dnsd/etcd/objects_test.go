package etcd

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nodens-dns/nodens/dnsd/routes"
)

// TestRoutes stores routes as the command line does, and finds each with the name of its host, as CoreDNS
// would read it.
func TestRoutes(t *testing.T) {
	t.Parallel()
	s := newServer(t, "http")
	r := &Routes{Store: Store{Endpoints: []string{s.endpoint()}}, Path: "/dns", Address: netip.MustParseAddr("192.168.1.13")}
	c := s.client(r.Store)
	said := watch(t, Options{Store: r.Store, Path: "/dns", Routes: true})
	route := func(name, host string) *routes.Object {
		return &routes.Object{Kind: "DNS", APIVersion: "v1", Name: name, Host: host, Paths: []routes.Path{{Address: "10.1.1.10", Service: "service1", Port: 8010}}}
	}
	apply := func(o *routes.Object) {
		t.Helper()
		if err := r.Apply(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(name string) {
		t.Helper()
		if err := r.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	apply(route("a", "node1.com"))
	until(t, said, "route DNS a node1.com", "node1.com 30 192.168.1.13")
	if got, err := c.Get(t.Context(), "/dns/com/node1"); err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != `{"host":"192.168.1.13"}` {
		t.Errorf("%v %v", got, err)
	}
	apply(route("b", "node1.com"))
	remove("a")
	until(t, said, "!DNS a", "route DNS b node1.com", "node1.com 30")
	apply(route("b", "node2.com")) // moves
	until(t, said, "route DNS b node2.com", "node2.com 30", "!node1.com")
	s.put(c, routesPath+"c", "no object")
	until(t, said, "route DNS b", "problem key /nodens/routes/c: is no DNS object")
	if all, err := r.List(t.Context()); err != nil || len(all) != 2 || all[0].Host != "node2.com" || all[1].Name != "c" {
		t.Errorf("%v %+v", err, all)
	}
	remove("c")
	remove("b")
	until(t, said, "!route", "!node2.com", "!problem")
	if err := r.Delete(t.Context(), "b"); err == nil || !strings.Contains(err.Error(), `no route "b"`) {
		t.Errorf("deleted twice: %v", err)
	}

	// What somebody else keeps in the store is not taken from him.
	for _, kept := range []string{`{"host":"192.0.2.1"}`, `{"host":"192.0.2.1","ttl":60}`, `{"text":"mine"}`} {
		s.put(c, "/dns/com/taken", kept)
		if err := r.Apply(t.Context(), route("a", "taken.com")); err == nil || !strings.Contains(err.Error(), "somebody else") {
			t.Errorf("over %s: %v", kept, err)
		}
	}
	apply(route("a", "shared.com"))
	s.put(c, "/dns/com/shared", `{"host":"192.0.2.1","ttl":60}`)
	remove("a")
	if got, err := c.Get(t.Context(), "/dns/com/shared"); err != nil || len(got.Kvs) != 1 {
		t.Errorf("somebody else's name went with the route: %v", err)
	}
	if _, err := c.Delete(t.Context(), "/dns/com/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}

	// Another node's address in the place of a route's name is a route's.
	apply(route("a", "moved.com"))
	s.put(c, "/dns/com/moved", `{"host":"192.168.1.99"}`)
	apply(route("a", "moved.com"))
	remove("a")

	// Many at once lose nothing.
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if err := r.Apply(t.Context(), route(fmt.Sprint("n", i), fmt.Sprintf("host%d.com", i%3))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i := range 7 {
		remove(fmt.Sprint("n", i))
	}
	got, err := c.Get(t.Context(), "/dns/", clientv3.WithPrefix())
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Key) != "/dns/com/host1" {
		t.Errorf("%v: names left: %v", err, got.Kvs)
	}
}
