package main

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// TestLook has an endpoint of the first of two priorities ejected: a second later the kernel is told, once,
// without a pass, and again when it is back.
func TestLook(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var dead atomic.Bool
		kernel := &recorder{ejected: func(service string) []netip.AddrPort {
			if !dead.Load() || service != "file/c|v4" {
				return nil
			}
			return []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:80")}
		}}
		h := testHub(t, dir, kernel, "file")
		in := input("a.example")
		in.Clusters[0].Localities = append(in.Clusters[0].Localities,
			mesh.Locality{Priority: 1, Endpoints: []mesh.Endpoint{{Address: "192.0.2.2", Port: 80}}})
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		go func() { _ = h.run(ctx, h.pass()) }()
		h.emit(ctx)(in)
		expect := func(calls int, passes uint64, what string) {
			t.Helper()
			synctest.Wait()
			h.kernel.Lock()
			defer h.kernel.Unlock()
			if got := h.state.Load().Passes; kernel.calls != calls || got != passes {
				t.Errorf("%s: the kernel was told %d times in %d passes, want %d in %d", what, kernel.calls, got, calls, passes)
			}
		}
		time.Sleep(5 * time.Second)
		calls, passes := kernel.calls, h.state.Load().Passes
		time.Sleep(5 * time.Second)
		expect(calls, passes, "nothing is ejected")
		dead.Store(true)
		time.Sleep(lookEvery)
		expect(calls+1, passes, "ejected")
		time.Sleep(10 * lookEvery)
		expect(calls+1, passes, "ejected still")
		dead.Store(false)
		time.Sleep(lookEvery)
		expect(calls+2, passes, "back")
	})
}
