package ebpf

import (
	"slices"
	"testing"
)

// A row that points to another service is written where it is. The place of one that is replaced is free at
// once, and the next row could get it while a program still reads what it takes for its own.
func TestRowsInPlace(t *testing.T) {
	o := options(t)
	const rows = 64
	o.maxEntries = map[string]uint32{nodensMapFrontends: rows} // as many places: some rows share one
	w := newWorldWith(t, o)
	s, err := w.Services()
	must(t, err)
	web := map[string]Service{"one": {Backends: backends(8080, back4[0])}, "two": {Backends: backends(8080, back4[1])}}
	point := func(name string) {
		f := map[Frontend]string{}
		for port := range uint16(rows - 1) {
			f[Frontend{Addr: vip4, Port: 80 + port, Protocol: TCP}] = name
		}
		apply(t, s, f, web)
	}
	order := func() (all []nodensFrontend) { // a replaced row comes first among those that share its place
		var row nodensFrontend
		var target nodensTarget
		i := s.frontends.Iterate()
		for i.Next(&row, &target) {
			all = append(all, row)
		}
		must(t, i.Err())
		return all
	}
	point("one")
	before := order()
	point("two")
	if after := order(); len(after) != rows || !slices.Equal(after, before) {
		t.Errorf("rows were replaced: %v, before %v", after, before)
	}
}
