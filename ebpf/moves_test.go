package ebpf

import (
	"net/netip"
	"testing"
)

// Who leaves and who comes is told, those who only rest are neither, and nothing told is lost.
func TestMoves(t *testing.T) {
	l := newLeavers(t)
	serve := func(service Service) func() {
		return func() { l.services["web"] = service; l.apply() }
	}
	rest := []netip.AddrPort{netip.AddrPortFrom(back4[2], 8080)}
	for _, step := range []struct {
		name string
		do   func()
		want Move
	}{
		{"nothing", l.apply, Move{}},
		{"some come", serve(Service{Backends: backends(8080, back4...)}), Move{Came: true}},
		{"one rests", serve(Service{Backends: backends(8080, back4[:2]...), Standby: rest}), Move{}},
		{"that one leaves", serve(Service{Backends: backends(8080, back4[:2]...)}), Move{Left: true}},
		{"one for another", serve(Service{Backends: backends(8080, back4[1:]...)}), Move{Left: true, Came: true}},
		{"another policy", serve(Service{Policy: RoundRobin, Backends: backends(8080, back4[1:]...)}), Move{}},
		{"a frontend is another service's", func() { both(l.frontends, vip4b, 80, "web"); l.apply() }, Move{Left: true, Came: true}},
		{"a frontend goes", func() { delete(l.frontends, Frontend{Addr: vip6, Port: 80, Protocol: UDP}); l.apply() }, Move{Left: true}},
		{"a frontend comes", func() { both(l.frontends, vip6, 80, "web6"); l.apply() }, Move{Came: true}},
		{"one comes, then one goes", func() { l.serve("web", back4...); l.serve("web", back4[1:]...) }, Move{Left: true, Came: true}},
		{"one goes by a single change", func() {
			_, err := l.Change(nil, map[string]Service{"web": {Backends: backends(8080, back4[1])}})
			must(t, err)
		}, Move{Left: true}},
		{"a frontend goes by a single change", func() {
			_, err := l.Change(map[Frontend]string{{Addr: vip4b, Port: 80, Protocol: UDP}: ""}, nil)
			must(t, err)
		}, Move{Left: true}},
	} {
		step.do()
		var told Move
		select {
		case told = <-l.Moves():
		default:
		}
		if told != step.want {
			t.Errorf("%s: told %+v, want %+v", step.name, told, step.want)
		}
	}
}
