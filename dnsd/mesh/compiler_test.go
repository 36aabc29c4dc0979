package mesh

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"unsafe"
)

// TestCompilerForgetsNothing has a Compiler hear one thing after another, most of them little changed:
// each of its plans must be that of a new one, and what both the plan before and the new one say the same
// memory.
func TestCompilerForgetsNothing(t *testing.T) {
	for seed := range uint64(300) {
		g := generator{rand.New(rand.NewPCG(seed, 7))}
		vips, fresh := newVIPs(t), newVIPs(t)
		if g.rarely() { // so few that they run out
			vips, fresh = openVIPs(t, "", "240.241.224.244/30"), openVIPs(t, "", "240.241.224.244/30")
		}
		c := NewCompiler(vips, []string{"file", "xds", "resolve"})
		in := []Input{{Source: "file", Pending: true}, {Source: "xds", Pending: true}, {Source: "resolve"}}
		c.Take(in[2])
		var last *Plan
		for step := range 12 {
			for range 1 + g.IntN(2) {
				i := g.IntN(3)
				next := g.next(in[i])
				c.Take(next)
				if next.Pending {
					in[i].Problems = next.Problems // and nothing else of it counts
					continue
				}
				in[i] = next
			}
			got, want := c.Compile(), Compile(in, fresh)
			if !reflect.DeepEqual(got, want) {
				compare(t, show(got, vips), show(want, fresh))
				t.Fatalf("seed %d, step %d: another plan than from scratch", seed, step)
			}
			if last != nil {
				checkShared(t, last.Names, got.Names, compareNames)
				checkShared(t, last.Frontends, got.Frontends, compareFrontends)
				checkShared(t, last.Assignments, got.Assignments, compareAssignments)
			}
			if c.checkMemory(t); t.Failed() {
				t.Fatalf("seed %d, step %d", seed, step)
			}
			last = got
		}
	}
}

// checkShared compares what two plans say with where they say it.
func checkShared[T any](t *testing.T, before, now []*T, compare func(a, b *T) int) {
	t.Helper()
	for _, b := range now {
		if i, ok := slices.BinarySearchFunc(before, b, compare); ok && before[i] != b && reflect.DeepEqual(before[i], b) {
			t.Errorf("%+v is there anew, though it is what it was", *b)
		}
	}
}

// checkMemory holds what a Compiler remembers against what it needs.
func (c *Compiler) checkMemory(t *testing.T) {
	used := make(map[string]int)
	units := 0
	for _, p := range c.parts {
		units += len(p.units)
		for _, a := range p.uses {
			used[a.Name]++
		}
		for _, addr := range p.addrs {
			if c.at[addr] != p {
				t.Errorf("%s is another part's", addr)
			}
		}
	}
	if units != len(c.units) {
		t.Errorf("%d hosts in parts, %d known", units, len(c.units))
	}
	wants := 0
	for name, a := range c.assigned {
		if a.parts != used[name] || a.parts == 0 || a.stale {
			t.Errorf("%s is used %d times, not %d, stale: %v", name, used[name], a.parts, a.stale)
		}
		wants += len(a.wants)
	}
	if len(used) != len(c.assigned) {
		t.Errorf("%d assignments used, %d known", len(used), len(c.assigned))
	}
	for l, all := range c.wanters {
		if wants -= len(all); len(all) == 0 {
			t.Errorf("nobody wants %v", l)
		}
	}
	if wants != 0 {
		t.Errorf("%d wants too few or too many", wants)
	}
}

// next is what a source may say after in: something of it replaced, dropped, added or moved, or all new.
func (g generator) next(in Input) Input {
	other := g.input(in.Source)
	other.Resolutions = []Resolution{g.resolution(), g.resolution()}
	if g.rarely() {
		return other
	}
	in.Pending = other.Pending && g.rarely()
	in.Hosts = vary(g, in.Hosts, other.Hosts)
	in.Listeners = vary(g, in.Listeners, other.Listeners)
	in.Clusters = vary(g, in.Clusters, other.Clusters)
	in.Resolutions = vary(g, in.Resolutions, other.Resolutions)
	in.Problems = vary(g, in.Problems, []Problem{{Source: in.Source, Object: g.name(), Reason: "reason"}})
	return in
}

func vary[T any](g generator, list, other []T) []T {
	list = slices.Clone(list)
	switch g.IntN(6) {
	case 0:
		return append(list, other...)
	case 1:
		if len(list) > 0 {
			i := g.IntN(len(list))
			list = slices.Delete(list, i, i+1)
		}
	case 2:
		if len(list) > 0 && len(other) > 0 {
			list[g.IntN(len(list))] = other[0]
		}
	case 3:
		shuffle(g.Rand, list)
	}
	return list
}

// TestSame changes every field of what sources say: none may be overlooked.
func TestSame(t *testing.T) {
	overlooks(t, sameHost)
	overlooks(t, sameListener)
	overlooks(t, sameCluster)
	overlooks(t, func(a, b *Resolution) bool { return sameResolution(a, b) && a.Error == b.Error })
}

func overlooks[T any](t *testing.T, same func(a, b *T) bool) {
	t.Helper()
	var full T
	fill(reflect.ValueOf(&full).Elem())
	again := full
	if !same(&full, &again) {
		t.Errorf("%T is not the same as its copy", full)
	}
	each(reflect.TypeFor[T](), nil, func(path []int) {
		var other T
		fill(reflect.ValueOf(&other).Elem())
		v := reflect.ValueOf(&other).Elem()
		for _, i := range path {
			if v.Kind() == reflect.Pointer {
				v = v.Elem()
			}
			if v.Kind() == reflect.Slice {
				v = v.Index(0)
				continue
			}
			v = v.Field(i)
		}
		if name := fmt.Sprintf("%T %v", full, path); same(&full, &other) {
			v.SetZero()
			if same(&full, &other) {
				t.Errorf("%s is overlooked", name)
			}
		} else {
			t.Errorf("%s differs for nothing", name)
		}
	})
}

// each calls f with the way to every value below a type that has none below itself.
func each(typ reflect.Type, path []int, f func(path []int)) {
	switch {
	case typ.Kind() == reflect.Pointer:
		each(typ.Elem(), path, f)
	case typ.Kind() == reflect.Slice:
		each(typ.Elem(), append(slices.Clone(path), 0), f)
	case typ.Kind() == reflect.Struct && typ.PkgPath() == reflect.TypeFor[Host]().PkgPath():
		for i := range typ.NumField() {
			each(typ.Field(i).Type, append(slices.Clone(path), i), f)
		}
	default:
		f(path)
	}
}

// fill sets everything below v to something that is not zero.
func fill(v reflect.Value) {
	switch {
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case v.Type() == reflect.TypeFor[netip.Addr]():
		v.Set(reflect.ValueOf(ip("192.0.2.1")))
	case v.Type() == reflect.TypeFor[netip.AddrPort]():
		v.Set(reflect.ValueOf(netip.MustParseAddrPort("192.0.2.1:53")))
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case v.Kind() == reflect.String:
		v.SetString("x")
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	case v.CanUint():
		v.SetUint(1)
	default:
		v.SetInt(1)
	}
}

// TestCompilerKeepsOneCopy has a source say the same again: what it said first stays, what it says now can
// go, and nothing is compiled.
func TestCompilerKeepsOneCopy(t *testing.T) {
	c := NewCompiler(newVIPs(t), []string{"file"})
	c.Take(manyHosts(50))
	plan := c.Compile()
	first := unsafe.SliceData(c.sources[0].hosts.list)
	c.Take(manyHosts(50))
	if c.Compile() != plan || unsafe.SliceData(c.sources[0].hosts.list) != first {
		t.Error("the same again makes another plan, or takes the place of what was there")
	}
	more := manyHosts(51)
	c.Take(more)
	if len(c.Compile().Names) != 51 {
		t.Error("a host is missing")
	}
	if name := c.sources[0].hosts.list[7].Name; unsafe.StringData(name) == unsafe.StringData(more.Hosts[7].Name) {
		t.Error("a host that is not new is held in the words it was repeated in")
	}
}

// BenchmarkChange has 10,000 clusters of 10 endpoints: one endpoint, one address of a lookup or one host
// differs each time, and then everything is new.
func BenchmarkChange(b *testing.B) {
	const n = 10_000
	xds, resolve := Input{Source: "xds"}, Input{Source: "resolve"}
	for i := range n {
		name := fmt.Sprintf("host%05d.test", i)
		xds.Hosts = append(xds.Hosts, auto(name, 80))
		if i%4 > 0 {
			var addrs []string
			for j := range 10 {
				addrs = append(addrs, fmt.Sprintf("10.%d.%d.%d:80", i>>8, i&255, j))
			}
			xds.Clusters = append(xds.Clusters, static(outbound(name, 80), addrs...))
		} else {
			xds.Clusters = append(xds.Clusters, strict(outbound(name, 80), name, 80))
			resolve.Resolutions = append(resolve.Resolutions, resolved(name, "203.0.113.1", "203.0.113.2"))
		}
	}
	start := func(b *testing.B) *Compiler {
		c := NewCompiler(newVIPs(b), []string{"xds", "resolve"})
		c.Take(xds)
		c.Take(resolve)
		c.Compile()
		b.ReportAllocs()
		return c
	}
	b.Run("everything", func(b *testing.B) {
		start(b)
		vips := newVIPs(b)
		for b.Loop() {
			Compile([]Input{xds, resolve}, vips)
		}
	})
	b.Run("endpoint", func(b *testing.B) {
		c := start(b)
		for i := 0; b.Loop(); i++ {
			in := xds
			in.Clusters = slices.Clone(in.Clusters)
			cl := &in.Clusters[(1+4*i)%n]
			cl.Localities = []Locality{{Endpoints: endpoints(fmt.Sprintf("10.255.0.%d:80", i%256))}}
			c.Take(in)
			c.Compile()
		}
	})
	b.Run("lookup", func(b *testing.B) {
		c := start(b)
		for i := 0; b.Loop(); i++ {
			in := resolve
			in.Resolutions = slices.Clone(in.Resolutions)
			in.Resolutions[i%len(in.Resolutions)].Addresses = ips(fmt.Sprintf("203.0.113.%d", 3+i%200))
			c.Take(in)
			c.Compile()
		}
	})
	b.Run("host", func(b *testing.B) {
		c := start(b)
		for i := 0; b.Loop(); i++ {
			in := xds
			in.Hosts = slices.Insert(slices.Clone(in.Hosts), i%n, auto(fmt.Sprintf("host%05d.more.test", i%n), 80))
			c.Take(in)
			c.Compile()
		}
	})
	b.Run("nothing", func(b *testing.B) {
		c := start(b)
		again := xds
		for b.Loop() {
			again.Clusters = slices.Clone(xds.Clusters)
			c.Take(again)
			c.Compile()
		}
	})
}
