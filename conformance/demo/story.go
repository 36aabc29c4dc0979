package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodens-dns/nodens/conformance/world"
)

// story is the world on stage.
type story struct {
	w    *world.World
	web  *world.Pod // both families
	shop *world.Pod // IPv4
	said []string   // what the line being played has to show
}

// line is one claim and what proves it.
type line struct {
	claim string
	prove func(*story) error
}

func newStory(w *world.World) *story { return &story{w: w} }

// say adds a detail to the line being played.
func (s *story) say(format string, args ...any) {
	s.said = append(s.said, fmt.Sprintf(format, args...))
}

// play sets the stage and plays every line; its error names those that do not hold.
func (s *story) play(ctx context.Context, keep bool) error {
	if err := s.prepare(); err != nil {
		return err
	}
	fmt.Println()
	var broken []string
	for i, l := range lines {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.said = nil
		start := time.Now()
		err := l.prove(s)
		verdict := "holds"
		if err != nil {
			verdict = "FAILS"
			broken = append(broken, fmt.Sprintf("line %d (%s)", i+1, l.claim))
		}
		fmt.Printf("%2d %s %8s  %s\n", i+1, verdict, brief(time.Since(start)), l.claim)
		for _, text := range s.said {
			fmt.Println("                     ", text)
		}
		if err != nil {
			fmt.Println("                     ", strings.ReplaceAll(err.Error(), "\n", "\n                      "))
		}
	}
	if keep {
		if err := s.addPods(); err != nil {
			return err
		}
	}
	if broken != nil {
		fmt.Printf("\ndnsd said:\n%s\n", s.w.DnsdLog())
		return fmt.Errorf("does not hold: %s", strings.Join(broken, ", "))
	}
	fmt.Printf("\nAll %d lines hold.\n", len(lines))
	return nil
}

// The internet's records behind the mesh's names. The TTL of news.google.com is short because a later
// line waits for it.
const newsTTL = 2

var records = []struct {
	name, kind string
	ttl        uint32
	data       []string
}{
	{"news.google.com", "A", newsTTL, []string{"203.0.113.11", "203.0.113.12", "203.0.113.13"}},
	{"mysql-instance1.us-east-1.rds.amazonaws.com", "A", 60, []string{"203.0.113.21"}},
	{"mysql-instance2.us-east-1.rds.amazonaws.com", "A", 60, []string{"203.0.113.22"}},
	{"tcp-echo.external-1.svc.cluster.local", "A", 60, []string{"203.0.113.31"}},
	{"tcp-echo.external-2.svc.cluster.local", "A", 60, []string{"203.0.113.32"}},
	{"auto.internal", "A", 60, []string{"203.0.113.41"}},
	{"auto.internal", "AAAA", 60, []string{"2001:db8::41"}},
	{"www.example.net", "A", 60, []string{"203.0.113.7"}},
	{"www.example.net", "AAAA", 60, []string{"2001:db8::7"}},
}

// manifests are what the file source is given, beside what the control plane says.
const manifests = `apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {name: external-address}
spec:
  addresses: [198.51.100.1]
  hosts: [address.internal]
  ports: [{name: http, number: 80, protocol: HTTP}]
---
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {name: external-auto}
spec:
  hosts: [auto.internal]
  ports: [{name: http, number: 80, protocol: HTTP}]
  resolution: DNS
`

// prepare fills zone, control plane and folder, starts dnsd and adds the two pods.
func (s *story) prepare() error {
	for _, r := range records {
		if err := s.w.Zone.Set(r.name, r.kind, r.ttl, r.data...); err != nil {
			return err
		}
	}
	for _, c := range []struct{ id, variant string }{{"01", ""}, {"04", ""}, {"05", "hashalloc"}} {
		set, err := world.Captured(c.id, c.variant)
		if err != nil {
			return err
		}
		s.w.ADS.Put(c.id, set)
	}
	if err := os.WriteFile(filepath.Join(s.w.ManifestDir(), "seeds.yaml"), []byte(manifests), 0o644); err != nil {
		return err
	}
	start := time.Now()
	if err := s.w.StartDnsd(true); err != nil {
		return err
	}
	note(start, "dnsd attached the programs, heard the control plane and the folder, and is ready")
	return s.addPods()
}

func (s *story) addPods() (err error) {
	for _, p := range []struct {
		pod  **world.Pod
		spec world.PodSpec
	}{
		{&s.web, world.PodSpec{Name: "web", IPv6: true}},
		{&s.shop, world.PodSpec{Name: "shop", Namespace: "shop"}},
	} {
		start := time.Now()
		if *p.pod, err = s.w.NewPod(p.spec); err != nil {
			return err
		}
		note(start, "pod %s/%s through [bridge, nodens]: %v", (*p.pod).Namespace, p.spec.Name, (*p.pod).Addresses)
	}
	return nil
}

// counts reads "10.0.0.1:80 x3, 10.0.0.2:80 x2".
func counts(m map[string]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s x%d", k, m[k]))
	}
	return strings.Join(parts, ", ")
}

// want returns an error unless ok.
func want(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// all runs the steps until one fails.
func all(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

var errNone = errors.New("no address")
