package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/nodens-dns/nodens/conformance/world"
)

// secondAddr is the crowd's second nameserver, which nobody is at: a captured pod has two sockets for each.
var secondAddr = netip.MustParseAddr("10.96.0.54")

// crowd attaches pods until there are n and returns the paths of their network namespaces. The pods have no
// process in them: dnsd does not see the difference.
func (s *stage) crowd(ctx context.Context, n int) (paths []string, err error) {
	// A subnet with room, on a bridge of its own.
	conf, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "name": s.Network(), "plugins": []any{
			map[string]any{
				"type": "bridge", "bridge": "crowd0", "isGateway": true,
				"ipam": map[string]any{
					"type": "host-local", "dataDir": filepath.Join(s.dir, "ipam"),
					"ranges": []any{[]any{map[string]any{"subnet": "10.245.0.0/22"}}},
					"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
				},
			},
			map[string]any{
				"type": "nodens", "capabilities": map[string]bool{"dns": true},
				"stateDir": filepath.Dir(s.AttachmentDir()), "bpfPath": s.Pins(), "cgroup": s.Cgroup(),
			},
		},
	})
	if err != nil {
		return nil, err
	}
	if err := s.WriteNetwork(conf); err != nil {
		return nil, err
	}
	for i := 1; i < n && ctx.Err() == nil; i++ {
		p, err := s.BarePod(world.PodSpec{
			Name: fmt.Sprint("crowd", i), Namespace: fmt.Sprint("ns", i%namespaces),
			Nameservers: []netip.Addr{upstreamAddr, secondAddr},
		})
		if err == nil {
			err = p.Attach()
		}
		if err != nil {
			return nil, err
		}
		paths = append(paths, p.NS.Path())
	}
	err = until(ctx, time.Minute, func() error {
		rows, err := s.Admin().Pods(ctx)
		if err == nil && len(rows) < n {
			err = fmt.Errorf("dnsd has %d pods of %d", len(rows), n)
		}
		return err
	})
	return paths, err
}
