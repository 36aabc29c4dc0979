package ebpf

import (
	"testing"
	"unsafe"
)

// TestMemory maps no more of the tables than there is in them, and whatever is put there: also what the
// next process finds.
func TestMemory(t *testing.T) {
	w, s := lbWorld(t)
	slots := s.tables.slots
	if slots.mapped >= len(slots.raw)/2 {
		t.Fatalf("%d bytes of slots are mapped though there are none", slots.mapped)
	}
	frontends, services := map[Frontend]string{}, map[string]Service{}
	names := []string{"a", "b", "c", "d", "e"}
	for i, name := range names {
		both(frontends, vip4, uint16(80+i), name)
		services[name] = Service{Policy: Maglev, Backends: backends(8080, back4...), TableSize: mostTable}
	}
	apply(t, s, frontends, services)
	want := len(names) * mostTable * int(unsafe.Sizeof(nodensSlot{}))
	if slots.mapped < want || slots.mapped == len(slots.raw) {
		t.Errorf("%d bytes of %d are mapped for %d in use", slots.mapped, len(slots.raw), want)
	}
	again, err := w.Services()
	must(t, err)
	if again.tables.slots.mapped < want || again.tables.slots.mapped == len(slots.raw) {
		t.Errorf("%d bytes are mapped for %d in use, once read back", again.tables.slots.mapped, want)
	}
	if c := apply(t, again, frontends, services); c != (Changes{}) {
		t.Errorf("wrote %+v where nothing differs", c)
	}
	apply(t, again, nil, nil)
}
