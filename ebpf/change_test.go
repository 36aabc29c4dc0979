package ebpf

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// TestChange makes changes at random: the kernel must hold what an Apply of everything makes of them, and
// that Apply must have nothing left to do.
func TestChange(t *testing.T) {
	_, s := lbWorld(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	frontends, services := map[Frontend]string{}, map[string]Service{}
	apply(t, s, frontends, services)
	addrs := []netip.Addr{vip4, vip4b, vip6}
	names := []string{"a", "b", "c", "d"}
	for step := range 300 {
		changed, behind := map[Frontend]string{}, map[string]Service{}
		for range 1 + rnd.IntN(3) {
			f := Frontend{Addr: addrs[rnd.IntN(len(addrs))], Port: uint16(80 + rnd.IntN(2)), Protocol: TCP, View: uint64(rnd.IntN(2))}
			if rnd.IntN(3) == 0 {
				f.Port, f.Protocol = 0, AnyProtocol
			}
			if rnd.IntN(2) == 0 {
				delete(frontends, f)
				changed[f] = nobody
				continue
			}
			name := names[rnd.IntN(len(names))]
			frontends[f], changed[f] = name, name
			if _, there := services[name]; !there || rnd.IntN(2) == 0 {
				services[name] = Service{Policy: RoundRobin, Backends: backends(8080, back4[:rnd.IntN(len(back4)+1)]...)}
			}
		}
		for name := range services {
			if !slices.Contains(slices.Collect(maps.Values(frontends)), name) {
				delete(services, name)
			} else {
				behind[name] = services[name]
			}
		}
		if _, err := s.Change(changed, behind); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		before := s.Dump()
		if c := apply(t, s, frontends, services); c != (Changes{}) {
			t.Fatalf("step %d: %v left %+v to be done for %v", step, changed, c, frontends)
		}
		if after := s.Dump(); !reflect.DeepEqual(before, after) {
			t.Fatalf("step %d: the kernel held %+v, and %+v once all was applied", step, before, after)
		}
	}
	apply(t, s, nil, nil)
	if len(s.uses) != 0 || len(s.live) != 0 {
		t.Errorf("in use by nobody: backends %v, services %v", s.uses, s.live)
	}
}
