package names

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// Another value anywhere in a row is another generation, but for what no answer follows from. A new field
// of a row has to be hashed, or named here.
func TestGenerationFollowsTheRows(t *testing.T) {
	full := func() *mesh.Name {
		addr := netip.MustParseAddr("192.0.2.1")
		ports := []mesh.Port{{Name: "http", Number: 80, Protocol: mesh.TCP, Cluster: "c"}}
		return &mesh.Name{Host: "a.test", Addr4: []netip.Addr{addr}, Addr6: []netip.Addr{netip.IPv6Loopback()}, Ports: ports,
			Records: []mesh.Record{{Label: "l", Addresses: []netip.Addr{addr}, Ports: slices.Clone(ports)}},
			Also:    []mesh.Declarer{{Source: "s", Object: "o"}},
			Data:    &mesh.Data{Services: []mesh.Service{{}}, Mail: []mesh.Mail{{}}, Texts: []string{"t"}}}
	}
	of := func(rows ...*mesh.Name) uint64 { return Build(&mesh.Plan{Names: rows}, Options{}).Generation() }
	was := of(full())
	if was == 0 || of(full()) != was || (*Table)(nil).Generation() != 0 || of() == of(full()) || of(full(), full()) == was {
		t.Errorf("generation %d", was)
	}
	for what, plan := range map[string]mesh.Plan{
		"a zone":      {Zones: []mesh.Zone{{Name: "cluster.local"}}},
		"a namespace": {Zones: []mesh.Zone{{Name: "cluster.local", Namespaces: []string{"a"}}}},
	} {
		plan.Names = []*mesh.Name{full()}
		if Build(&plan, Options{}).Generation() == was {
			t.Errorf("with %s the generation is the same", what)
		}
	}
	without := []string{"Name.Source", "Name.Object", "Name.Also", "Declarer.Source", "Declarer.Object", "Name.Namespace", "Port.Cluster"}
	tried := 0
	row := full()
	change(reflect.ValueOf(row).Elem(), "", func(path string) {
		tried++
		if changed := of(row) != was; changed == slices.Contains(without, path) {
			t.Errorf("with another %s the generation changed: %t", path, changed)
		}
	})
	if of(row) != was || tried < 20 {
		t.Errorf("%d fields tried", tried)
	}
}

// change gives one field after the other below v another value, for as long as the call of f lasts.
func change(v reflect.Value, path string, f func(path string)) {
	old := reflect.ValueOf(v.Interface())
	switch {
	case v.Type() == reflect.TypeFor[netip.Addr]():
		v.Set(reflect.ValueOf(netip.MustParseAddr("203.0.113.9")))
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			change(v.Field(i), v.Type().Name()+"."+v.Type().Field(i).Name, f)
		}
		return
	case v.Kind() == reflect.Pointer:
		change(v.Elem(), path, f)
		v.SetZero()
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			change(v.Index(i), path, f)
		}
		v.Set(v.Slice(0, v.Len()-1))
	case v.Kind() == reflect.String:
		v.SetString(v.String() + "x")
	case v.Kind() == reflect.Bool:
		v.SetBool(!v.Bool())
	case v.CanUint():
		v.SetUint(v.Uint() + 1)
	default:
		panic(fmt.Sprintf("%s is a %s", path, v.Kind()))
	}
	f(path)
	v.Set(old)
}
