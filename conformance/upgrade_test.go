package conformance_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/nodens-dns/nodens/conformance/script"
	"github.com/nodens-dns/nodens/conformance/world"
)

// TestReadyThroughUpgrades asks whether the node is served, over and over, while one dnsd takes over from the
// other: there is always somebody who says so.
func TestReadyThroughUpgrades(t *testing.T) {
	w := script.NewWorld(t)
	if err := w.StartDnsd(true); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var asking sync.WaitGroup
	var asked int
	asking.Go(func() {
		for ; ; asked++ {
			select {
			case <-done:
				return
			default:
			}
			status, body, err := w.Get(fmt.Sprintf("http://%s/readyz", world.HealthAddress))
			if err != nil || status != 200 {
				t.Errorf("time %d: %d %s, %v", asked, status, body, err)
				return
			}
		}
	})
	for range 2 {
		if err := w.RelieveDnsd(); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	asking.Wait()
	if asked < 10 {
		t.Errorf("asked %d times only", asked)
	}
}
