package mesh

import (
	"reflect"
	"testing"
	"unsafe"
)

// Who counts for more says which names a zone has; what is said again stays the same memory.
func TestZones(t *testing.T) {
	c := NewCompiler(newVIPs(t), []string{"file", "kube"})
	weak := Zone{Name: "cluster.local", Namespaces: []string{"a"}}
	c.Take(Input{Source: "kube", Zones: []Zone{weak, {Name: "a.test"}}})
	first := c.Compile()
	if want := []Zone{{Source: "kube", Name: "a.test"}, {"kube", "cluster.local", []string{"a"}}}; !reflect.DeepEqual(first.Zones, want) {
		t.Errorf("zones %+v, want %+v", first.Zones, want)
	}
	c.Take(Input{Source: "kube", Zones: []Zone{{Name: "a.test"}, {Name: "cluster.local", Namespaces: []string{"a"}}}, Hosts: []Host{{Name: "x.test"}}})
	if second := c.Compile(); unsafe.SliceData(second.Zones) != unsafe.SliceData(first.Zones) {
		t.Error("the same zones are other memory")
	}
	c.Take(Input{Source: "file", Zones: []Zone{{Name: "cluster.local"}}})
	if got := c.Compile().Zones[1].Source; got != "file" {
		t.Errorf("the zone is that of %s, want file", got)
	}
	c.Take(Input{Source: "kube"})
	if got := c.Compile().Zones; len(got) != 1 {
		t.Errorf("zones %+v, want only file's", got)
	}
}
