package mesh

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// TestData: what a name has beside addresses goes through unchanged, unless its names are none, and two
// objects of one name are united with the shorter time to live.
func TestData(t *testing.T) {
	in := Input{Source: "etcd", Hosts: []Host{
		{Name: "a.test", Object: "one", TTL: 60, Data: &Data{
			Services: []Service{{Target: "Web.A.test.", Port: 80, Priority: 10, Weight: 100}, {Target: "no name", Port: 81}},
			Mail:     []Mail{{Target: "mx.a.test", Preference: 5}}, Texts: []string{"any \\ text"},
		}},
		{Name: "a.test", Object: "two", TTL: 20, Data: &Data{Texts: []string{"more"}}},
		{Name: "1.2.0.192.in-addr.arpa", Object: "pointer", Data: &Data{Pointer: "a.test."}},
		{Name: "nothing.test", Object: "bad", Data: &Data{Pointer: "10.0.0.1"}},
	}}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var again Input
	if err := json.Unmarshal(text, &again); err != nil || !reflect.DeepEqual(in, again) {
		t.Fatalf("%v: not the same behind JSON: %+v", err, again)
	}
	plan := Compile([]Input{again}, newVIPs(t))
	if len(plan.Names) != 2 || plan.Names[1].Host != "a.test" {
		t.Fatalf("names: %+v", plan.Names)
	}
	want := &Data{
		Services: []Service{{Target: "web.a.test", Port: 80, Priority: 10, Weight: 100}},
		Mail:     []Mail{{Target: "mx.a.test", Preference: 5}}, Texts: []string{"any \\ text", "more"},
	}
	if n := plan.Names[1]; n.TTL != 20 || !reflect.DeepEqual(n.Data, want) {
		t.Errorf("TTL %d, %+v", n.TTL, n.Data)
	}
	if n := plan.Names[0]; n.Data == nil || n.Data.Pointer != "a.test" {
		t.Errorf("pointer: %+v", n)
	}
	if len(plan.Problems) != 2 || !strings.Contains(plan.Problems[0].Reason+plan.Problems[1].Reason, `service of a.test: "no name"`) {
		t.Errorf("problems: %+v", plan.Problems)
	}
}

// TestDataIsNews: a change of nothing but a record is one of the plan.
func TestDataIsNews(t *testing.T) {
	c := NewCompiler(newVIPs(t), []string{"etcd"})
	host := func(ttl uint32, text string) Input {
		return Input{Source: "etcd", Hosts: []Host{{Name: "a.test", Object: "one", TTL: ttl, Data: &Data{Texts: []string{text}}}}}
	}
	c.Take(host(60, "x"))
	first := c.Compile()
	c.Take(host(60, "x"))
	if c.Compile() != first {
		t.Error("the same again is another plan")
	}
	for _, in := range []Input{host(30, "x"), host(30, "y")} {
		c.Take(in)
		if n := c.Compile().Names[0]; n.TTL != 30 || n.Data.Texts[0] != in.Hosts[0].Data.Texts[0] {
			t.Errorf("%+v after %+v", n, in.Hosts[0])
		}
	}
}
