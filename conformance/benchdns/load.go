package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The workloads; for the first three the name is that of dnsperf's input file.
const (
	workloadLocal   = "local"   // names of the cluster
	workloadForward = "forward" // names beyond it, cached
	workloadMix     = "mix"     // names of the cluster, a fifth search-list misses
	workloadNear    = "near"    // getaddrinfo of a name of the cluster
	workloadShort   = "short"   // getaddrinfo of a name of the cluster without its domain
	workloadFar     = "far"     // getaddrinfo of a name beyond it
	// These ask for the same: one name at a time, and with musl's getaddrinfo.
	workloadSingle    = "single"
	workloadMuslNear  = "musl-near"
	workloadMuslShort = "musl-short"
)

const (
	outstanding = 100  // queries in flight when there is no rate
	fixedRate   = 5000 // queries per second when there is
)

// sample is one run of one workload against one server.
type sample struct {
	// done and lost are queries, or look-ups.
	done, lost int
	perSecond  float64
	// cpu is the server's, per query; both is the server's and the client's; client the client's in all.
	cpu, both, client time.Duration
	// p50 and p99 are 0 where single queries were not timed.
	p50, p99, max time.Duration
	// foreign is the share of the machine that others used, 0 to 1.
	foreign float64
}

// loader is something that asks, in a pod, and counts.
type loader func(context.Context, *running) (sample, error)

// measure runs a load and says what it cost the server.
func (s *stage) measure(ctx context.Context, r *running, load loader) (sample, error) {
	others := func() time.Duration { return busyTime() - ownTime() - cpuTime(r.at.upstream.pid) - cpuTime(r.pid) }
	start, cpu, before := time.Now(), cpuTime(r.pid), others()
	out, err := load(ctx, r)
	if err != nil {
		return out, fmt.Errorf("ask %s: %w", r.name, err)
	}
	served := cpuTime(r.pid) - cpu
	if out.done == 0 {
		return out, fmt.Errorf("ask %s: no query was answered", r.name)
	}
	out.cpu = served / time.Duration(out.done)
	out.both = (served + out.client) / time.Duration(out.done)
	out.foreign = max(0, (others()-before).Seconds()/(float64(runtime.NumCPU())*time.Since(start).Seconds()))
	return out, nil
}

// quiet is measure, repeated while others used more than a twentieth of the machine; the quietest of
// three runs counts.
func (s *stage) quiet(ctx context.Context, r *running, load loader) (best sample, err error) {
	for try := range 3 {
		out, err := s.measure(ctx, r, load)
		if err != nil {
			return best, err
		}
		if try == 0 || out.foreign < best.foreign {
			best = out
		}
		if best.foreign < 0.05 {
			break
		}
	}
	return best, nil
}

// inPod makes a command that runs in a server's pod, on the client's core; nodens' pod is seen by its
// programs in the kernel, the peers' are not.
func (s *stage) inPod(ctx context.Context, r *running, args ...string) (*exec.Cmd, error) {
	pid, err := os.ReadFile(r.at.path(r.pod.Name + ".pid"))
	if err != nil {
		return nil, err
	}
	args = append([]string{"--target", strings.TrimSpace(string(pid)), "--net", "--mount"}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if r.command == nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(r.at.cgroup.Fd())
	}
	return cmd, nil
}

func (s *stage) path(name string) string { return s.Dir + "/" + name }

// atMost is dnsperf as fast as it gets answers.
func (s *stage) atMost(set *names, workload string, d time.Duration) loader {
	return func(ctx context.Context, r *running) (sample, error) {
		return s.dnsperf(ctx, r, set, workload, "-l", seconds(d), "-q", strconv.Itoa(outstanding))
	}
}

// atRate is dnsperf at a fixed rate, which times every query.
func (s *stage) atRate(set *names, workload string, d time.Duration) loader {
	return func(ctx context.Context, r *running) (sample, error) {
		return s.dnsperf(ctx, r, set, workload, "-l", seconds(d), "-Q", strconv.Itoa(fixedRate), "-v")
	}
}

// once is every question of a workload once, for warming up.
func (s *stage) once(set *names, workload string) loader {
	return func(ctx context.Context, r *running) (sample, error) {
		return s.dnsperf(ctx, r, set, workload, "-n", "1", "-l", "20", "-q", "50")
	}
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) }

func (s *stage) dnsperf(ctx context.Context, r *running, set *names, workload string, args ...string) (out sample, err error) {
	args = append([]string{"dnsperf", "-s", r.addr.String(), "-d", set.path(workload), "-t", "2"}, args...)
	cmd, err := s.inPod(ctx, r, args...)
	if err != nil {
		return out, err
	}
	var text, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &complaint
	if err := cmd.Run(); err != nil {
		return out, fmt.Errorf("dnsperf: %w: %s", err, complaint.Bytes())
	}
	out, err = readDnsperf(text.String())
	out.client = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return out, err
}

// readDnsperf reads dnsperf's summary and, where there are any, its lines about single queries:
// "> NOERROR www.example.test A 0.000123".
func readDnsperf(text string) (out sample, err error) {
	var took []time.Duration
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) == 5 && f[0] == ">":
			if s, err := strconv.ParseFloat(f[4], 64); err == nil {
				took = append(took, time.Duration(s*float64(time.Second)))
			}
		case len(f) > 2 && f[0] == "Queries" && f[1] == "completed:":
			out.done, err = strconv.Atoi(f[2])
		case len(f) > 2 && f[0] == "Queries" && f[1] == "lost:":
			out.lost, err = strconv.Atoi(f[2])
		case len(f) > 3 && f[0] == "Queries" && f[1] == "per":
			out.perSecond, err = strconv.ParseFloat(f[3], 64)
		}
		if err != nil {
			return out, fmt.Errorf("dnsperf: %q: %w", line, err)
		}
	}
	if out.done == 0 && out.lost == 0 {
		return out, errors.New("dnsperf says nothing of its queries")
	}
	out.spread(took)
	return out, nil
}

// spread fills in the percentiles. It sorts took.
func (out *sample) spread(took []time.Duration) {
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	at := func(p int) time.Duration { return took[min(len(took)-1, len(took)*p/100)] }
	out.p50, out.p99, out.max = at(50), at(99), took[len(took)-1]
}
