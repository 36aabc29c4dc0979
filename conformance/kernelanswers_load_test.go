//go:build load

package conformance_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/script"
	"github.com/nodens-dns/nodens/conformance/world"
)

// TestKillsUnderLoad kills dnsd ten times while three pods ask a thousand queries a second each: what the kernel
// answers, it always answers; of what was on its way through dnsd, one is lost with it at most.
func TestKillsUnderLoad(t *testing.T) {
	const kills = 10
	w := script.NewWorld(t)
	manifest, err := os.ReadFile("testdata/seeds/external-auto.yaml")
	if err == nil {
		err = os.WriteFile(filepath.Join(w.ManifestDir(), "auto.yaml"), manifest, 0o600)
	}
	err = errors.Join(err, w.Configure(map[string]any{"xds": nil, "kernelAnswers": true}),
		w.Zone.Set("www.example.net", "A", 60, "203.0.113.7"), w.Zone.Set("auto.internal", "A", 60, "203.0.113.21"), w.StartDnsd(true))
	if err != nil {
		t.Fatal(err)
	}
	loads := map[string]app.Load{
		"names":     {Question: &app.Question{Name: "auto.internal"}, Pause: time.Millisecond},
		"connected": {Question: &app.Question{Name: "auto.internal", Connected: true, Kept: true}, Pause: time.Millisecond},
		"forwarded": {Question: &app.Question{Name: "www.example.net"}, Pause: 5 * time.Millisecond},
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
	for range kills {
		if err := errors.Join(w.SignalDnsd(syscall.SIGKILL), w.StartDnsd(true)); err != nil {
			t.Fatal(err)
		}
	}
	took, done := time.Since(began), 0
	for _, p := range pods {
		for name := range loads {
			lost := map[string]int{"forwarded": kills}[name]
			tally, err := p.LoadStop(name)
			if err != nil || tally.Failed > lost || tally.Changes > 0 || tally.Done == 0 {
				t.Errorf("%s of pod %s: %v\n%s", name, p.Name, err, tally)
			}
			done += tally.Done
		}
	}
	t.Logf("%d queries in %v, through ten kills", done, took.Round(time.Second))
}
