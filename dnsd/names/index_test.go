package names

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// The index finds what maps would: of a name the first row, else the first record; of an address the first
// that claims it, a record before its own row.
func TestIndexFindsWhatMapsWould(t *testing.T) {
	type key struct{ view, name string }
	type place struct {
		view string
		addr netip.Addr
	}
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 2))
		addr := func() netip.Addr {
			if r.IntN(3) == 0 {
				return netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 15: byte(r.IntN(9))})
			}
			return netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(20))})
		}
		plan := &mesh.Plan{}
		rows, records, owners := map[key]string{}, map[key]string{}, map[place]string{}
		for i := range r.IntN(60) {
			n := &mesh.Name{Host: fmt.Sprint("h", r.IntN(20), ".test"), View: []string{"", "a", "b"}[r.IntN(3)], Object: fmt.Sprint(i), Virtual: true}
			for range r.IntN(3) {
				rec := mesh.Record{Label: fmt.Sprint("r", r.IntN(3)), Addresses: []netip.Addr{addr()}}
				n.Records = append(n.Records, rec)
				setFirst(records, key{n.View, rec.Label + "." + n.Host + "."}, n.Object)
				setFirst(owners, place{n.View, rec.Addresses[0]}, n.Object+" "+rec.Label)
			}
			for range r.IntN(3) {
				if a := addr(); a.Is4() {
					n.Addr4 = append(n.Addr4, a)
				} else {
					n.Addr6 = append(n.Addr6, a)
				}
			}
			for _, a := range append(n.Addr4[:len(n.Addr4):len(n.Addr4)], n.Addr6...) {
				setFirst(owners, place{n.View, a}, n.Object)
			}
			setFirst(rows, key{n.View, n.Host + "."}, n.Object)
			plan.Names = append(plan.Names, n)
		}
		table := Build(plan, Options{})
		for k, object := range rows {
			if e := table.views[k.view].find(k.name); e == nil || e.record != nil || e.row.Object != object {
				t.Fatalf("seed %d: %v is %v, not of %s", seed, k, e, object)
			}
		}
		for k, object := range records {
			if e := table.views[k.view].find(k.name); e == nil || e.record == nil || e.row.Object != object {
				t.Fatalf("seed %d: record %v is %v, not of %s", seed, k, e, object)
			}
		}
		for p, owner := range owners {
			e := (views{own: table.views[p.view]}).reverse(p.addr)
			got := ""
			if e != nil {
				if got = e.row.Object; e.record != nil {
					got += " " + e.record.Label
				}
			}
			if got != owner {
				t.Fatalf("seed %d: %v belongs to %q, not %q", seed, p, got, owner)
			}
		}
		if len(rows) > 0 && table.views[plan.Names[0].View].find("nobody.test.") != nil {
			t.Fatalf("seed %d: a name that is not there is found", seed)
		}
	}
}

func setFirst[K comparable](m map[K]string, k K, v string) {
	if _, ok := m[k]; !ok {
		m[k] = v
	}
}

// A table is few pieces of memory, however many names it has.
func TestTableIsCompact(t *testing.T) {
	plan := &mesh.Plan{Names: big(1000).rows}
	if n := testing.AllocsPerRun(5, func() { Build(plan, Options{}) }); n > 100 {
		t.Errorf("%v allocations for %d names", n, len(plan.Names))
	}
}
