//go:build load

package conformance_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/script"
	"github.com/nodens-dns/nodens/conformance/world"
)

// TestUpgradesUnderLoad takes over ten times while three pods ask some 2,000 queries a second from new, connected
// and kept sockets and connections, and connect to a virtual address: nothing may fail.
func TestUpgradesUnderLoad(t *testing.T) {
	w := script.NewWorld(t)
	manifest, err := os.ReadFile("testdata/seeds/external-auto.yaml")
	if err == nil {
		err = os.WriteFile(filepath.Join(w.ManifestDir(), "auto.yaml"), manifest, 0o600)
	}
	config := map[string]any{"xds": nil}
	if os.Getenv("KERNEL") == "1" {
		config["kernelAnswers"] = true
	}
	err = errors.Join(err, w.Configure(config),
		w.Zone.Set("www.example.net", "A", 60, "203.0.113.7"), w.Zone.Set("auto.internal", "A", 60, "203.0.113.21"), w.StartDnsd(true))
	if err != nil {
		t.Fatal(err)
	}
	loads := map[string]app.Load{
		"names":     {Question: &app.Question{Name: "auto.internal"}, Pause: time.Millisecond},
		"more":      {Question: &app.Question{Name: "auto.internal"}, Pause: time.Millisecond},
		"forwarded": {Question: &app.Question{Name: "www.example.net"}, Pause: 2 * time.Millisecond},
		"connected": {Question: &app.Question{Name: "auto.internal", Connected: true, Kept: true}, Pause: 2 * time.Millisecond},
		"vip":       {Target: &app.Target{Network: "tcp4", Host: "auto.internal", Port: 80}, Pause: 10 * time.Millisecond},
	}
	for i := range 7 {
		loads[fmt.Sprint("kept", i)] = app.Load{Question: &app.Question{Name: "auto.internal", TCP: true, Kept: true}, Pause: 200 * time.Millisecond}
	}
	var pods []*world.Pod
	for _, name := range []string{"one", "two", "three"} {
		p, err := w.NewPod(world.PodSpec{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		pods = append(pods, p)
		for name, l := range loads {
			l.Name = name
			if err := p.LoadStart(l); err != nil {
				t.Fatal(err)
			}
		}
	}
	began := time.Now()
	for range 10 {
		if err := w.RelieveDnsd(); err != nil {
			t.Fatal(err)
		}
	}
	took, done := time.Since(began), 0
	for _, p := range pods {
		for name := range loads {
			tally, err := p.LoadStop(name)
			if err != nil || tally.Failed > 0 || tally.Changes > 0 || tally.Done == 0 {
				t.Errorf("%s of pod %s: %v\n%s", name, p.Name, err, tally)
			}
			done += tally.Done
		}
	}
	t.Logf("%d queries and connections in %v, through ten upgrades", done, took.Round(time.Second))
}
