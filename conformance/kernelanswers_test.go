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
	"testing"
	"time"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/script"
	"github.com/nodens-dns/nodens/conformance/world"
)

const answersManifest = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: kinds, namespace: default}
spec:
  hosts: [auto.internal, "*.wild.internal", LONG.internal]
  ports: [{name: tcp, number: 9000, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 203.0.113.1}, {address: "2001:db8:1::1"}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: four, namespace: default}
spec:
  hosts: [four.internal]
  ports: [{name: tcp, number: 9000, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 203.0.113.1}]
---
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
metadata: {name: many, namespace: default}
spec:
  hosts: [many.internal]
  addresses: [198.51.100.11, 198.51.100.12, 198.51.100.13, 198.51.100.14, 198.51.100.15, 198.51.100.16]
  ports: [{name: tcp, number: 9000, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 203.0.113.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: shared, namespace: default}
spec:
  hosts: [shared.internal]
  addresses: [198.51.100.21]
  ports: [{name: tcp, number: 9000, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 203.0.113.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: shared, namespace: other}
spec:
  hosts: [shared.internal]
  addresses: [198.51.100.22]
  exportTo: ["."]
  ports: [{name: tcp, number: 9000, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 203.0.113.1}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.97.0.1, ports: [{name: http, port: 80, protocol: TCP}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: default}
spec: {type: ExternalName, externalName: auto.internal}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: default}
spec: {clusterIP: None, ports: [{name: sql, port: 5432, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: default, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints:
- {addresses: [10.244.9.1], hostname: db-0}
- {addresses: [10.244.9.2], hostname: db-1}
ports: [{name: sql, port: 5432, protocol: TCP}]
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: default}
spec: {clusterIP: None, ports: [{name: sql, port: 5432, protocol: TCP}]}
`

// TestKernelAnswersAgree asks everything that can be asked twice: over UDP, which the kernel answers if it
// can, and over TCP, which it never does. Nothing but the order of addresses may differ, whether the
// kernel has met the question before or not.
func TestKernelAnswersAgree(t *testing.T) {
	w := script.NewWorld(t)
	long := strings.Repeat("long-name.", 7) + "long"
	if err := os.WriteFile(filepath.Join(w.ManifestDir(), "kinds.yaml"), []byte(strings.ReplaceAll(answersManifest, "LONG", long)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Configure(map[string]any{"kernelAnswers": true}), w.StartDnsd(true)); err != nil {
		t.Fatal(err)
	}
	names := []string{
		"auto.internal", "a.wild.internal", long + ".internal", "four.internal", "few.internal", "many.internal",
		"shared.internal", "web.default.svc.cluster.local", "alias.default.svc.cluster.local", "db.default.svc.cluster.local",
		"db-0.db.default.svc.cluster.local", "empty.default.svc.cluster.local", "_http._tcp.web.default.svc.cluster.local",
		"missing.internal", "missing.default.svc.cluster.local", "default.svc.cluster.local", "localhost", "internal",
		"1.0.97.10.in-addr.arpa", "db", "web.default", "web.default.svc",
	}
	pods := map[string]*world.Pod{}
	for _, spec := range []world.PodSpec{{Name: "four"}, {Name: "both", IPv6: true}, {Name: "other", Namespace: "other"}} {
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
				for _, suffix := range []string{"", ".default.svc.cluster.local", ".svc.cluster.local", ".other.svc.cluster.local"} {
					for _, qtype := range []string{"A", "AAAA", "HTTPS", "MX", "SRV", "PTR", "CNAME", "TXT"} {
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
