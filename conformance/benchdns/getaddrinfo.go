package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// resolverName is argv[1] of this program when it is to look names up in a pod: getaddrinfo is the C
// library's, and reads the resolv.conf of the process it is in.
const resolverName = "-look-names-up"

// lookUps is getaddrinfo of one name after the other, as an application does it: with the pod's search
// list and ndots:5, both address families.
func (s *stage) lookUps(set *names, workload string, d time.Duration) loader {
	return func(ctx context.Context, r *running) (out sample, err error) {
		self, err := os.Executable()
		if err != nil {
			return out, err
		}
		cmd, err := s.inPod(ctx, r, self, resolverName, set.path(workload), seconds(d))
		if err != nil {
			return out, err
		}
		cmd.Env = append(os.Environ(), "GODEBUG=netdns=cgo")
		cmd.Stderr = os.Stderr
		text, err := cmd.Output()
		if err != nil {
			return out, fmt.Errorf("look names up: %w", err)
		}
		var took []time.Duration
		for line := range strings.FieldsSeq(string(text)) {
			ns, err := strconv.ParseInt(line, 10, 64)
			if err != nil {
				return out, err
			}
			if ns == 0 {
				out.lost++
				continue
			}
			took = append(took, time.Duration(ns))
		}
		out.done = len(took)
		out.spread(took)
		return out, nil
	}
}

// lookNamesUp is the process in the pod: it looks up the names of a file, from the first, for a time,
// and prints how many nanoseconds each took, 0 for one that failed.
func lookNamesUp(file, limit string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	d, err := strconv.ParseFloat(limit, 64)
	if err != nil {
		return err
	}
	var out strings.Builder
	deadline := time.Now().Add(time.Duration(d * float64(time.Second)))
	names := strings.Fields(string(text))
	for i := 0; time.Now().Before(deadline); i++ {
		start := time.Now()
		_, err := net.DefaultResolver.LookupNetIP(context.Background(), "ip", names[i%len(names)])
		took := time.Since(start)
		if err != nil {
			took = 0
		}
		fmt.Fprintln(&out, took.Nanoseconds())
	}
	_, err = os.Stdout.WriteString(out.String())
	return err
}
