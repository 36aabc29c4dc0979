package ebpf

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// A full map leaves names to dnsd, and answers nobody from everybody's row who has one of their own.
func TestNamesFull(t *testing.T) {
	o := options(t)
	o.maxEntries = map[string]uint32{nodensMapNames: 2}
	a := newAskedIn(t, newWorldWith(t, o))
	asks := func(name, want string) {
		t.Helper()
		r, _ := a.ask(t, ns4a, question(name, dns.TypeA))
		if got := r != nil; got != (want != "") || got && r.Answer[0].(*dns.A).A.String() != want {
			t.Errorf("%s: answered %v, want %q", name, r, want)
		}
	}
	for _, order := range [][]Declared{{everyone, dual, shop}, {dual, shop, everyone}} {
		_, err := a.Apply(slices.Values(order), false)
		if !errors.Is(err, unix.E2BIG) || errors.Is(err, ErrStale) {
			t.Errorf("applied: %v", err)
		}
		if order[0].Host == everyone.Host {
			asks("web.shop.", "")
		} else {
			asks("web.shop.", vip4.String())
		}
		asks("dual.svc.cluster.local.", vip4.String())
		a.declare(t)
		a.declare(t, everyone, dual)
		asks("web.shop.", vip4b.String())
		a.declare(t)
	}
	a.declare(t, everyone, dual)
	for range 2 { // of which the second must not show for a moment what the first has hidden
		if _, err := a.Apply(slices.Values([]Declared{everyone, dual, shop}), false); err == nil {
			t.Error("there is room?")
		}
		asks("web.shop.", "")
	}
	a.declare(t)
	a.declare(t, everyone, shop)
	asks("web.shop.", vip4.String())
}

// What can be neither written nor deleted is said to be stale.
func TestNamesStale(t *testing.T) {
	a := newAsked(t)
	a.declare(t, shop, everyone)
	must(t, a.maps.Names.Freeze())
	changed := shop
	changed.A = []netip.Addr{vip4b}
	for name, all := range map[string][]Declared{"changed": {changed, everyone}, "removed": {everyone}} {
		if _, err := a.Apply(slices.Values(all), false); !errors.Is(err, ErrStale) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
