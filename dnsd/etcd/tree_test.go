package etcd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// show puts a host in a line.
func show(h *mesh.Host) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d", h.Name, h.TTL)
	for _, a := range h.Addresses {
		fmt.Fprintf(&b, " %s", a)
	}
	if h.ExternalName != "" {
		fmt.Fprintf(&b, " CNAME %s", h.ExternalName)
	}
	if d := h.Data; d != nil {
		for _, s := range d.Services {
			fmt.Fprintf(&b, " SRV %d %d %d %s", s.Priority, s.Weight, s.Port, s.Target)
		}
		for _, m := range d.Mail {
			fmt.Fprintf(&b, " MX %d %s", m.Preference, m.Target)
		}
		for _, text := range d.Texts {
			fmt.Fprintf(&b, " TXT %q", text)
		}
		if d.Pointer != "" {
			fmt.Fprintf(&b, " PTR %s", d.Pointer)
		}
	}
	return b.String()
}

// fill puts lines of key and value, and says which it cannot read.
func fill(t *tree, keys string) (wrong []string) {
	for line := range strings.Lines(keys) {
		key, data, _ := strings.Cut(strings.TrimSpace(line), " ")
		if key == "" {
			continue
		}
		r, err := decode(key, t.nameOf(key), []byte(data), 0)
		if err != nil {
			wrong = append(wrong, key+": "+err.Error())
		}
		t.put(key, r)
	}
	return wrong
}

func hosts(t *tree) string {
	var b strings.Builder
	for _, h := range t.hosts() {
		b.WriteString(show(&h) + "\n")
	}
	return b.String()
}

var trees = []struct{ name, zones, keys, want string }{
	{
		"each key is a name", "",
		`/skydns/com/node1 {"host":"192.168.1.13"}
		/skydns/com/example/sub {"host":"1.2.3.4","ttl":60}
		/skydns/com/example/sub/v6 {"host":"2001:db8::1"}`,
		`node1.com 30 192.168.1.13 SRV 10 100 0 node1.com
		sub.example.com 60 1.2.3.4 SRV 10 100 0 sub.example.com
		v6.sub.example.com 30 2001:db8::1 SRV 10 100 0 v6.sub.example.com`,
	},
	{
		"several values under one name", "sky.test",
		`/skydns/test/sky/web/1 {"host":"10.0.0.1","port":80,"targetstrip":1}
		/skydns/test/sky/web/2 {"host":"10.0.0.2","port":81,"ttl":20,"priority":20}
		/skydns/test/other/web {"host":"10.0.0.9"}`,
		`1.web.sky.test 30 10.0.0.1 SRV 10 100 80 web.sky.test
		2.web.sky.test 20 10.0.0.2 SRV 20 100 81 2.web.sky.test
		sky.test 20 SRV 10 100 80 web.sky.test SRV 20 100 81 2.web.sky.test
		web.sky.test 20 10.0.0.1 10.0.0.2 SRV 10 100 80 web.sky.test SRV 20 100 81 2.web.sky.test`,
	},
	{
		"a key with others below it is not one of them", "sky.test",
		`/skydns/test/sky/web {"host":"10.0.0.9"}
		/skydns/test/sky/web/1 {"host":"10.0.0.1"}`,
		`1.web.sky.test 30 10.0.0.1 SRV 10 100 0 1.web.sky.test
		sky.test 30 SRV 10 50 0 web.sky.test SRV 10 50 0 1.web.sky.test
		web.sky.test 30 10.0.0.1 SRV 10 100 0 1.web.sky.test`,
	},
	{
		"weights are shares", "sky.test",
		`/skydns/test/sky/a/1 {"host":"one.test","port":80,"weight":10}
		/skydns/test/sky/a/2 {"host":"two.test","port":80,"weight":30}
		/skydns/test/sky/a/3 {"host":"three.test","port":80,"priority":5}`,
		`1.a.sky.test 30 CNAME one.test SRV 10 100 80 one.test
		2.a.sky.test 30 CNAME two.test SRV 10 100 80 two.test
		3.a.sky.test 30 CNAME three.test SRV 5 100 80 three.test
		a.sky.test 30 CNAME one.test SRV 10 25 80 one.test SRV 10 75 80 two.test SRV 5 100 80 three.test
		sky.test 30 SRV 10 25 80 one.test SRV 10 75 80 two.test SRV 5 100 80 three.test`,
	},
	{
		"several aliases are what is behind them", "sky.test",
		`/skydns/test/sky/rails/1 {"host":"a.sky.test"}
		/skydns/test/sky/rails/2 {"host":"b.sky.test"}
		/skydns/test/sky/a {"host":"10.0.0.1","ttl":5}
		/skydns/test/sky/b/x {"host":"10.0.0.2"}
		/skydns/test/sky/b/y {"host":"rails.sky.test"}`,
		`1.rails.sky.test 30 CNAME a.sky.test SRV 10 100 0 a.sky.test
		2.rails.sky.test 30 CNAME b.sky.test SRV 10 100 0 b.sky.test
		a.sky.test 5 10.0.0.1 SRV 10 100 0 a.sky.test
		b.sky.test 30 10.0.0.2 SRV 10 50 0 x.b.sky.test SRV 10 50 0 rails.sky.test
		rails.sky.test 30 10.0.0.1 10.0.0.2 SRV 10 50 0 a.sky.test SRV 10 50 0 b.sky.test
		sky.test 5 SRV 10 20 0 a.sky.test SRV 10 20 0 x.b.sky.test SRV 10 20 0 rails.sky.test SRV 10 20 0 b.sky.test
		x.b.sky.test 30 10.0.0.2 SRV 10 100 0 x.b.sky.test
		y.b.sky.test 30 CNAME rails.sky.test SRV 10 100 0 rails.sky.test`,
	},
	{
		"a zone's own addresses", "sky.test",
		`/skydns/test/sky/dns/apex/1 {"host":"10.0.0.1"}
		/skydns/test/sky/web {"host":"10.0.0.2"}`,
		`1.apex.dns.sky.test 30 10.0.0.1 SRV 10 100 0 1.apex.dns.sky.test
		apex.dns.sky.test 30 10.0.0.1 SRV 10 100 0 1.apex.dns.sky.test
		dns.sky.test 30 10.0.0.1 SRV 10 100 0 1.apex.dns.sky.test
		sky.test 30 10.0.0.1 SRV 10 50 0 1.apex.dns.sky.test SRV 10 50 0 web.sky.test
		web.sky.test 30 10.0.0.2 SRV 10 100 0 web.sky.test`,
	},
	{
		"mail and texts", "",
		`/skydns/test/sky {"host":"mx.sky.test","mail":true,"priority":5}
		/skydns/test/sky/t {"text":"hello"}
		/skydns/test/sky/u {"host":"ignored.test","text":"a text counts for more"}
		/skydns/test/sky/v {"host":"10.0.0.1","text":"an address counts for more"}`,
		`sky.test 30 SRV 5 100 0 mx.sky.test MX 5 mx.sky.test
		t.sky.test 30 TXT "hello"
		u.sky.test 30 TXT "a text counts for more"
		v.sky.test 30 10.0.0.1 SRV 10 100 0 v.sky.test`,
	},
	{
		"pointers", "10.in-addr.arpa",
		`/skydns/arpa/in-addr/10/0/0/7 {"host":"Web.sky.test.","ttl":7}
		/skydns/arpa/in-addr/192/0/0/7 {"host":"other.sky.test."}`,
		`7.0.0.10.in-addr.arpa 7 PTR web.sky.test`,
	},
	{
		"groups", "sky.test",
		`/skydns/test/sky/dom/a {"host":"10.0.0.1","group":"g1"}
		/skydns/test/sky/dom/sub/b {"host":"10.0.0.2","group":"g2"}
		/skydns/test/sky/dom/sub/c {"host":"10.0.0.3"}
		/skydns/test/sky/no/a {"host":"10.0.0.4","group":"g1"}
		/skydns/test/sky/no/b {"host":"10.0.0.5","group":"g2"}`,
		`a.dom.sky.test 10.0.0.1|a.no.sky.test 10.0.0.4|b.no.sky.test 10.0.0.5|b.sub.dom.sky.test 10.0.0.2|c.sub.dom.sky.test 10.0.0.3
		dom.sky.test 10.0.0.1 10.0.0.3|no.sky.test 10.0.0.4 10.0.0.5|sky.test|sub.dom.sky.test 10.0.0.2 10.0.0.3`,
	},
	{
		"a name that stands for many", "",
		`/skydns/test/sky/* {"host":"10.0.0.1"}
		/skydns/test/*/x {"host":"10.0.0.2"}`,
		`*.sky.test 30 10.0.0.1
		x.*.test 30 10.0.0.2 SRV 10 100 0 x.*.test`, // which the compiler refuses by its name
	},
	{
		"an alias of itself", "sky.test",
		`/skydns/test/sky/loop {"host":"loop.sky.test"}
		/skydns/test/sky/up/x {"host":"y.up.sky.test"}`,
		`loop.sky.test 30 SRV 10 100 0 loop.sky.test
		sky.test 30 SRV 10 50 0 loop.sky.test SRV 10 50 0 y.up.sky.test
		up.sky.test 30 SRV 10 100 0 y.up.sky.test
		x.up.sky.test 30 CNAME y.up.sky.test SRV 10 100 0 y.up.sky.test`,
	},
}

func TestTree(t *testing.T) {
	for _, tc := range trees {
		t.Run(strings.ReplaceAll(tc.name, " ", "-"), func(t *testing.T) {
			tree := newTree("/skydns/", strings.Fields(tc.zones))
			if wrong := fill(tree, tc.keys); wrong != nil {
				t.Fatal(wrong)
			}
			got := hosts(tree)
			want := strings.ReplaceAll(tc.want, "\t", "") + "\n"
			if tc.name == "groups" { // addresses are what matters
				var lines []string
				for _, h := range tree.hosts() {
					h.Data = nil
					lines = append(lines, strings.Replace(show(&h), " 30", "", 1))
				}
				got, want = strings.Join(lines, "|"), strings.ReplaceAll(strings.TrimSpace(want), "\n", "|")
			}
			if got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
			for line := range strings.Lines(tc.keys) { // and all of it goes again
				key, _, _ := strings.Cut(strings.TrimSpace(line), " ")
				tree.put(key, nil)
			}
			if left := hosts(tree); left != "" || len(tree.root.children) != 0 || tree.root.count != 0 {
				t.Errorf("left over: %s, %+v", left, tree.root)
			}
		})
	}
}

// TestTreeIncrementally puts and removes keys in many orders: what follows must be what a fresh tree of the
// same keys says.
func TestTreeIncrementally(t *testing.T) {
	for _, tc := range trees {
		lines := strings.Split(tc.keys, "\n")
		tree := newTree("/skydns/", strings.Fields(tc.zones))
		present := map[int]bool{}
		for step := range 200 {
			i := (step*7 + step/3) % len(lines)
			key, _, _ := strings.Cut(strings.TrimSpace(lines[i]), " ")
			if present[i] = !present[i]; present[i] {
				fill(tree, lines[i])
			} else {
				tree.put(key, nil)
			}
			fresh := newTree("/skydns/", strings.Fields(tc.zones))
			for j, line := range lines {
				if present[j] {
					fill(fresh, line)
				}
			}
			if got, want := hosts(tree), hosts(fresh); got != want {
				t.Fatalf("%s, step %d:\n%swant\n%s", tc.name, step, got, want)
			}
		}
	}
}

// TestCircles: aliases that lead to each other many times over are followed once each.
func TestCircles(t *testing.T) {
	tree := newTree("/skydns/", []string{"sky.test"})
	for i := range 30 {
		fill(tree, fmt.Sprintf(`/skydns/test/sky/x/a%d {"host":"y.sky.test"}
			/skydns/test/sky/y/a%d {"host":"x.sky.test"}`, i, i))
	}
	fill(tree, `/skydns/test/sky/y/z {"host":"10.0.0.7"}
		/skydns/test/sky/w/1 {"host":"x.sky.test"}
		/skydns/test/sky/w/2 {"host":"y.sky.test"}`)
	if got := hosts(tree); !strings.Contains(got, "\nw.sky.test 30 10.0.0.7 ") {
		t.Errorf("%s", got)
	}
}

// TestCapitals: DNS knows no case, and two keys that differ in nothing else are two values of a name.
func TestCapitals(t *testing.T) {
	tree := newTree("/skydns/", []string{"sky.test"})
	fill(tree, `/skydns/test/sky/Web {"host":"10.0.0.1"}
		/skydns/test/sky/web {"host":"10.0.0.2"}
		/skydns/test/sky/w/1 {"host":"web.sky.test"}
		/skydns/test/sky/w/2 {"host":"Web.sky.test."}
		/skydns/test/sky/w/3 {"host":"nowhere.sky.test"}`)
	for _, want := range []string{"\nweb.sky.test 30 10.0.0.1 10.0.0.2 ", "\nw.sky.test 30 10.0.0.1 10.0.0.2 "} {
		if got := hosts(tree); !strings.Contains(got, want) {
			t.Errorf("%s, want %q", got, want)
		}
	}
	tree.put("/skydns/test/sky/Web", nil)
	if got := hosts(tree); !strings.Contains(got, "\nweb.sky.test 30 10.0.0.2 ") {
		t.Errorf("%s", got)
	}
}

func TestManyBelow(t *testing.T) {
	tree := newTree("/skydns/", []string{"sky.test"})
	for i := range most + 1 {
		fill(tree, fmt.Sprintf(`/skydns/test/sky/many/n%d {"host":"10.0.%d.%d"}`, i, i/250, i%250+1))
	}
	if n := len(tree.hosts()); n != most+1 {
		t.Errorf("%d names, want %d: those above have more than an answer can carry", n, most+1)
	}
}

func TestBadValues(t *testing.T) {
	tree := newTree("/skydns/", nil)
	wrong := fill(tree, `/skydns/test/a {"host":"10.0.0.1"}
		/skydns/test/b no JSON
		/skydns/test/c {}
		/skydns/test/d {"host":"10.0.0.1","port":70000}
		/skydns/test/e {"host":17}
		/skydns/test/f {"host":"10.0.0.2","ownedby":"somebody"}`)
	if len(wrong) != 4 || hosts(tree) != "a.test 30 10.0.0.1 SRV 10 100 0 a.test\nf.test 30 10.0.0.2 SRV 10 100 0 f.test\n" {
		t.Errorf("%q\n%s", wrong, hosts(tree))
	}
}
