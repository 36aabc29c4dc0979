package main

import (
	"context"
	_ "embed"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
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
	return func(ctx context.Context, r *running) (sample, error) {
		return s.timed(ctx, r, []string{"GODEBUG=netdns=cgo"}, resolverName, set.path(workload), seconds(d))
	}
}

// muslLookUps is the same with musl's getaddrinfo, by a program made for that.
func (s *stage) muslLookUps(set *names, workload string, d time.Duration) loader {
	return func(ctx context.Context, r *running) (sample, error) {
		return s.timedBy(ctx, r, nil, filepath.Join(s.dir, muslName), set.path(workload), seconds(d))
	}
}

// muslName is the program in the stage's folder.
const muslName = "lookups-musl"

//go:embed testdata/lookups.c
var lookUpsSource []byte

// buildMusl makes it. make deps installs what that takes.
func (s *stage) buildMusl(ctx context.Context) error {
	source := filepath.Join(s.dir, "lookups.c")
	if err := os.WriteFile(source, lookUpsSource, 0o644); err != nil {
		return err
	}
	program := filepath.Join(s.dir, muslName)
	text, err := exec.CommandContext(ctx, "musl-gcc", "-O2", "-static", "-o", program, source).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", source, err, text)
	}
	return os.Chmod(program, 0o755)
}

// timed runs this very program in a pod, which prints how long each thing it did took.
func (s *stage) timed(ctx context.Context, r *running, env []string, args ...string) (out sample, err error) {
	self, err := os.Executable()
	if err != nil {
		return out, err
	}
	return s.timedBy(ctx, r, env, append([]string{self}, args...)...)
}

func (s *stage) timedBy(ctx context.Context, r *running, env []string, args ...string) (out sample, err error) {
	cmd, err := s.inPod(ctx, r, args...)
	if err != nil {
		return out, err
	}
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s: %w", strings.Join(args, " "), err)
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
	out.done, out.client = len(took), cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()
	out.spread(took)
	return out, nil
}

// lookNamesUp is the process in the pod: it looks up the names of a file, from any one on, for a time,
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
	for i := rand.IntN(len(names)); time.Now().Before(deadline); i++ {
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
