package conformance_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/script"
	"github.com/nodens-dns/nodens/conformance/world"
)

// oddManifest declares what no script does: several addresses, more than the kernel takes, and a long name.
const oddManifest = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: few, namespace: default}
spec:
  hosts: [few.internal]
  addresses: [198.51.100.1, 198.51.100.2, 198.51.100.3]
  ports: [{name: tcp, number: 9000, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 203.0.113.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: long, namespace: default}
spec:
  hosts: [LONG.internal]
  ports: [{name: tcp, number: 9000, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 203.0.113.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: many, namespace: default}
spec:
  hosts: [many.internal]
  addresses: [198.51.100.11, 198.51.100.12, 198.51.100.13, 198.51.100.14, 198.51.100.15, 198.51.100.16]
  ports: [{name: tcp, number: 9000, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 203.0.113.1}]
`

// declare puts the manifests of some scripts into the folder, and odd ones.
func declare(t *testing.T, w *world.World, long string, scripts ...string) {
	t.Helper()
	write := func(name string, text []byte) {
		if err := os.WriteFile(filepath.Join(w.ManifestDir(), name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("odd.yaml", []byte(strings.ReplaceAll(oddManifest, "LONG", long)))
	for _, name := range scripts {
		archive, err := txtar.ParseFile(filepath.Join("testdata", "script", name+".txtar"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			write(name+"-"+f.Name, f.Data)
		}
	}
}

// TestKernelAnswersAgree asks everything that can be asked twice: over UDP, which the kernel answers if it
// can, and over TCP, which it never does. Nothing but the order of addresses may differ, whether the
// kernel has met the question before or not.
func TestKernelAnswersAgree(t *testing.T) {
	w := script.NewWorld(t)
	long := strings.Repeat("long-name.", 7) + "long"
	declare(t, w, long, "kubernetes", "views")
	if err := errors.Join(w.Configure(map[string]any{"kernelAnswers": true}), w.StartDnsd(true)); err != nil {
		t.Fatal(err)
	}
	names := []string{
		"both.internal", "a.wild.internal", "exact.wild.internal", "private.internal", "few.internal", "many.internal",
		long + ".internal", "cart.shop.svc.cluster.local", "outside.shop.svc.cluster.local", "db.shop.svc.cluster.local",
		"db-0.db.shop.svc.cluster.local", "late.shop.svc.cluster.local", "_http._tcp.cart.shop.svc.cluster.local",
		"missing.internal", "missing.shop.svc.cluster.local", "shop.svc.cluster.local", "localhost", "internal",
		"7.0.97.10.in-addr.arpa", "db", "cart.shop", "cart.shop.svc",
	}
	pods := map[string]*world.Pod{}
	for _, spec := range []world.PodSpec{{Name: "four", Namespace: "shop"}, {Name: "both", Namespace: "one", IPv6: true}, {Name: "other", Namespace: "two"}} {
		p, err := w.NewPod(spec)
		if err != nil {
			t.Fatal(err)
		}
		if err := world.Until(20*time.Second, p.Check); err != nil {
			t.Error(err)
		}
		pods[spec.Name] = p
	}
	for name, p := range pods {
		t.Run(name, func(t *testing.T) {
			for _, name := range names {
				for _, suffix := range []string{"", ".shop.svc.cluster.local", ".svc.cluster.local", ".one.svc.cluster.local"} {
					for _, qtype := range []string{"A", "AAAA", "HTTPS", "SRV", "CNAME"} {
						compareAnswers(t, p, name+suffix+".", qtype)
					}
				}
			}
		})
	}
	_, metrics, err := w.Get("http://" + world.HealthAddress + "/metrics")
	if err != nil || !strings.Contains(metrics, `event="dns_answered"`) || strings.Contains(metrics, `event="dns_answered"} 0`) {
		t.Errorf("the kernel has answered nothing: %v", err)
	}
}

// countedDown is the TTL of what upstream's cache holds.
var countedDown = regexp.MustCompile(`\d+ in soa ns\.internet\.`)

func compareAnswers(t *testing.T, p *world.Pod, name, qtype string) {
	t.Helper()
	ask := func(q app.Question) string {
		q.Type, q.Timeout = qtype, 10*time.Second
		r, err := p.Dig(q)
		if err != nil {
			t.Errorf("%+v: %v", q, err)
			return ""
		}
		slices.Sort(r.Answer)
		// What upstream said in lower case, and points to the question, comes in the spelling of the question.
		authority := strings.ToLower(fmt.Sprint(r.Authority))
		if strings.Contains(authority, "soa ns.internet.") {
			authority = countedDown.ReplaceAllString(authority, "soa ns.internet.") // its TTL is another a second later
		}
		return fmt.Sprint(r.Rcode, r.Flags, r.Echo, strings.ToLower(fmt.Sprint(r.Answer)), authority, r.OPT)
	}
	for _, edns := range []uint16{0, 1232} {
		asked := name
		if rand.IntN(2) == 0 {
			asked = strings.ToUpper(name)
		}
		want := ask(app.Question{Name: asked, TCP: true, EDNS: edns})
		for range 2 {
			if got := ask(app.Question{Name: asked, EDNS: edns}); got != want {
				t.Errorf("%s %s, EDNS %d:\nUDP %s\nTCP %s", asked, qtype, edns, got, want)
			}
		}
	}
}

// TestKernelAnswersNoGap kills dnsd and starts it anew, ten times, while a pod asks some thousand questions a
// second: no mesh name is missed, by whatever socket and in whatever form it is asked, and of what has to be
// forwarded at most what was under way when dnsd died.
func TestKernelAnswersNoGap(t *testing.T) {
	w := script.NewWorld(t)
	declare(t, w, "long", "views")
	if err := errors.Join(w.Configure(map[string]any{"kernelAnswers": true, "xds": nil}), w.StartDnsd(true)); err != nil {
		t.Fatal(err)
	}
	if err := w.Zone.Set("outside.example", "A", 30, "198.51.100.7"); err != nil {
		t.Fatal(err)
	}
	p, err := w.NewPod(world.PodSpec{Name: "asks", Namespace: "one"})
	if err != nil {
		t.Fatal(err)
	}
	if err := world.Until(20*time.Second, p.Check); err != nil {
		t.Fatal(err)
	}
	const cycles = 10
	asked := map[string]app.Question{
		"declared":  {Name: "both.internal."},
		"connected": {Name: "both.internal.", Connected: true},
		"no data":   {Name: "private.internal.", Type: "AAAA"},
		"search":    {Name: "few.internal.one.svc.cluster.local."},
		"forwarded": {Name: "outside.example."},
	}
	for name, q := range asked {
		if err := world.Until(20*time.Second, func() error { _, err := p.Dig(q); return err }); err != nil {
			t.Fatal(err)
		}
		if err := p.LoadStart(app.Load{Name: name, Question: &q, Pause: time.Millisecond}); err != nil {
			t.Fatal(err)
		}
	}
	for range cycles {
		if err := errors.Join(w.SignalDnsd(syscall.SIGKILL), w.StartDnsd(true)); err != nil {
			t.Error(err)
		}
		if err := world.Until(20*time.Second, p.Check); err != nil {
			t.Error(err)
		}
	}
	for name := range asked {
		tally, err := p.LoadStop(name)
		if err != nil {
			t.Fatal(err)
		}
		most, least := 0, 10*cycles
		if name == "forwarded" {
			most, least = cycles, cycles // each that is lost takes as long as a timeout
		}
		t.Logf("%s: %d asked, %d failed", name, tally.Done, tally.Failed)
		if tally.Failed > most || len(tally.Outcomes) != 1 || tally.Done < least {
			t.Errorf("%s: %v", name, tally)
		}
	}
}
