package mesh

import (
	"net/netip"
	"reflect"
	"testing"
	"unsafe"
)

// TestRoutes are handed on, the stronger source first, and are the same memory while nothing changes.
func TestRoutes(t *testing.T) {
	route := func(object string) Route {
		return Route{Object: object, Host: "node1.com", Paths: []RoutePath{{Path: "/a/", Address: netip.MustParseAddr("10.1.1.10"), Port: 80}}}
	}
	c := NewCompiler(newVIPs(t), []string{"file", "etcd"})
	c.Take(Input{Source: "etcd", Routes: []Route{route("DNS a")}})
	c.Take(Input{Source: "file", Routes: []Route{route("DNS c"), route("DNS b")}})
	first := c.Compile().Routes
	var got []string
	for _, r := range first {
		got = append(got, r.Source+" "+r.Object)
	}
	if want := []string{"file DNS b", "file DNS c", "etcd DNS a"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	c.Take(Input{Source: "file", Routes: []Route{route("DNS c"), route("DNS b")}, Hosts: []Host{{Name: "a.test", Addresses: ips("192.0.2.1")}}})
	if again := c.Compile().Routes; unsafe.SliceData(again) != unsafe.SliceData(first) {
		t.Error("other routes though none is news")
	}
	c.Take(Input{Source: "file"})
	if left := c.Compile().Routes; len(left) != 1 || left[0].Source != "etcd" {
		t.Errorf("left: %+v", left)
	}
}
