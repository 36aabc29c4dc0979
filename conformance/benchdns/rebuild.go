package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// rebuild measures nodens at the fixed rate while all its services are read again, one more among them,
// and the table is made anew: runs of two seconds until it is. The sample has the worst of each.
func (s *stage) rebuild(ctx context.Context, r *running, set *names) (worst sample, err error) {
	text, err := os.ReadFile(set.path("manifest.yaml"))
	if err != nil {
		return worst, err
	}
	text = append(text, "---\napiVersion: v1\nkind: Service\nmetadata: {name: one-more, namespace: ns0}\nspec: {clusterIP: 10.99.0.1, ports: [{port: 80}]}\n"...)
	// Not a manifest's name, so that dnsd reads it only when it is whole.
	whole := filepath.Join(s.ManifestDir(), "services.next")
	if err := os.WriteFile(whole, text, 0o644); err != nil {
		return worst, err
	}
	if err := os.Rename(whole, filepath.Join(s.ManifestDir(), "services.yaml")); err != nil {
		return worst, err
	}
	const limit = time.Minute
	for start := time.Now(); time.Since(start) < limit; {
		out, err := s.measure(ctx, r, s.atRate(set, workloadLocal, 2*time.Second))
		if err != nil {
			return worst, err
		}
		worst.lost += out.lost
		worst.p50, worst.p99, worst.max = max(worst.p50, out.p50), max(worst.p99, out.p99), max(worst.max, out.max)
		status, err := s.Admin().Status(ctx)
		if err != nil {
			return worst, err
		}
		if status.Names == len(set.services)+1 {
			return worst, nil
		}
	}
	return worst, fmt.Errorf("dnsd has not read %d services again within %v", len(set.services), limit)
}
