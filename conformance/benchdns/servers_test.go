package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/sandbox"
	"github.com/nodens-dns/nodens/conformance/world"
)

func TestMain(m *testing.M) {
	app.Main()
	os.Exit(m.Run())
}

// question is one of six that every server must answer alike, or they would not be measured at the same.
type question struct {
	about string
	app.Question
	want string // "RCODE data data"
	// known is what nodens says, which finds the name behind the client's search domain.
	known string
}

func questions(set *names) []question {
	fqdn, addr := set.services[42].fqdn(), set.services[42].addr
	search := "." + clientNamespace + ".svc." + clusterDomain
	name, far := outside(7)
	a := func(name string) app.Question { return app.Question{Name: name} }
	return []question{
		{about: "a service", Question: a(fqdn), want: fmt.Sprint("NOERROR ", addr)},
		{about: "over TCP", Question: app.Question{Name: fqdn, TCP: true}, want: fmt.Sprint("NOERROR ", addr)},
		{about: "an address it has not", Question: app.Question{Name: fqdn, Type: "AAAA"}, want: "NOERROR"},
		{
			about: "a service behind a search domain", Question: a(fqdn + search), want: "NXDOMAIN",
			known: fmt.Sprintf("NOERROR %s %s.", addr, fqdn),
		},
		{about: "an outside name behind a search domain", Question: a(name + search), want: "NXDOMAIN"},
		{about: "an outside name", Question: a(name), want: fmt.Sprint("NOERROR ", far)},
	}
}

// TestServersAgree starts every server there is with 100 names and asks each the same.
func TestServersAgree(t *testing.T) {
	sandbox.Root(t)
	for _, d := range drivers {
		if d.program == "nsd" {
			if _, err := find(&d); err != nil {
				t.Skipf("the nameserver all forward to: %v", err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	bin, err := world.Build(ctx, filepath.Join(t.TempDir(), "bin"), false)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "nodens-bench-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := newStage(bin, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	set, err := makeNames(dir, 100)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.serveUpstream(set); err != nil {
		t.Fatal(err)
	}
	for i := range drivers {
		t.Run(drivers[i].name, func(t *testing.T) { agrees(ctx, t, s, i, set) })
	}
}

func agrees(ctx context.Context, t *testing.T, s *stage, i int, set *names) {
	if _, err := find(&drivers[i]); err != nil {
		t.Skip(err)
	}
	r, err := s.start(ctx, i, set)
	if err != nil {
		t.Fatal(err)
	}
	defer r.stop()
	for _, q := range questions(set) {
		want := q.want
		if q.known != "" && r.command == nil {
			want = q.known
		}
		reply, err := r.pod.Dig(q.Question)
		if err != nil {
			t.Errorf("%s: %v", q.about, err)
			continue
		}
		got := strings.Join(append([]string{reply.Rcode}, strings.Fields(reply.Short())...), " ")
		if got != want {
			t.Errorf("%s: %s, want %s", q.about, got, want)
		}
	}
	if out, err := s.measure(ctx, r, s.once(set, workloadLocal)); err != nil || out.done < len(set.services) || out.both <= 0 {
		t.Errorf("asked by dnsperf: %+v, %v", out, err)
	}
}
