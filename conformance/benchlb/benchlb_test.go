package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

// A quick run connects by every way, every connection arrives, and nothing is left of it. What it measured
// is not looked at, but for the number of writes, which is no matter of time.
func TestQuickRun(t *testing.T) {
	sandbox.Root(t)
	res, err := measure(t.Context(), quick)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range res.missing {
		t.Logf("without %s", m)
	}
	text := res.markdown()
	for _, s := range []struct {
		series
		ways []string
		want int
	}{{res.udp, res.udpWays, 3 + len(special)}, {res.tcp, res.tcpWays, 2 + len(proxies) - len(res.missing)}} {
		if len(s.ways) != s.want {
			t.Errorf("ways %q, want %d of them", s.ways, s.want)
		}
		for _, way := range s.ways {
			if len(s.series[way]) != quick.rounds || !strings.Contains(text, "| "+way+" |") {
				t.Errorf("%s: %d rounds, or not in the table", way, len(s.series[way]))
			}
		}
	}
	if least := quick.services * (1 + quick.endpoints); res.full.writes < least {
		t.Errorf("%d writes for everything, want %d at least", res.full.writes, least)
	}
	for _, u := range res.changes {
		if u.writes < 2 || u.writes > 3 {
			t.Errorf("%d writes for another endpoint, want the endpoint and the service", u.writes)
		}
	}
	if res.filled < res.empty || res.empty == 0 {
		t.Errorf("%d bytes of maps when empty, then %d", res.empty, res.filled)
	}
	for _, pattern := range []string{"/run/netns/benchlb-*", "/sys/fs/cgroup/benchlb-*", "/sys/fs/bpf/benchlb-*"} {
		left, err := filepath.Glob(pattern)
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %q (%v)", left, err)
		}
	}
}
