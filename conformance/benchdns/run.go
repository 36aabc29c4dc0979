package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/nodens-dns/nodens/conformance/bench"
)

// fewNames is how many names there are while speed is measured.
const fewNames = 10000

// results are everything one run found out.
type results struct {
	options
	machine bench.Machine
	// servers are the names of those measured, nodens first; missing those that could not be had, with
	// the reason.
	servers, missing []string
	versions         map[string]string
	// samples are one a round.
	samples map[series][]sample
	// small and big are bytes resident with 10,000 and with big names, after load.
	small, big map[string]int64
	// rebuilt is nodens at the fixed rate while its table is made anew.
	rebuilt sample
	// maps are the bytes of nodens' BPF maps; pods what a dnsd with that many pods has resident.
	maps, pods int64
	began      time.Time
	took       time.Duration
}

// series is what is measured once a round: a workload on a server, at a fixed rate or not.
type series struct {
	server, workload string
	rated            bool
}

// run measures everything. It takes minutes.
func run(ctx context.Context, s *stage, o options) (*results, error) {
	res := &results{
		options: o, machine: bench.ThisMachine(), versions: map[string]string{}, began: time.Now(),
		samples: map[series][]sample{}, small: map[string]int64{}, big: map[string]int64{},
	}
	var present []int
	wanted := chosen(o.only)
	for i := range drivers {
		d := &drivers[i]
		if !slices.Contains(wanted, d) {
			continue
		}
		program, err := find(d)
		if err != nil {
			res.missing = append(res.missing, d.name+": "+err.Error())
			continue
		}
		res.versions[d.name] = versionOf(ctx, d, program)
		res.servers = append(res.servers, d.name)
		present = append(present, i)
	}
	set, err := makeNames(s.dir, fewNames)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.serveUpstream(set), s.buildMusl(ctx)); err != nil {
		return nil, err
	}
	if o.big > 0 {
		if err := res.measureBig(ctx, s, present); err != nil {
			return nil, err
		}
	}
	if err := res.measureAll(ctx, s, set, present); err != nil {
		return nil, err
	}
	res.took = time.Since(res.began)
	return res, nil
}

// versionOf is the line of what a program says of itself that has its version.
func versionOf(ctx context.Context, d *driver, program string) string {
	if d.version == nil {
		return ""
	}
	text, _ := exec.CommandContext(ctx, program, d.version...).CombinedOutput()
	for word := range strings.FieldsSeq(string(text)) {
		word = strings.TrimPrefix(strings.TrimPrefix(word, "CoreDNS-"), "v")
		if len(word) > 2 && word[0] >= '0' && word[0] <= '9' && strings.Contains(word, ".") {
			return strings.Trim(word, ",;")
		}
	}
	return ""
}

// measureBig starts each server alone with many names, asks for 10,000 of them, and looks at its memory.
func (res *results) measureBig(ctx context.Context, s *stage, present []int) error {
	set, err := makeNames(s.dir, res.options.big)
	if err != nil {
		return err
	}
	for _, i := range present {
		if !drivers[i].holds {
			continue
		}
		progress("memory with %d names: %s", res.options.big, drivers[i].name)
		r, err := s.start(ctx, i, set)
		if err != nil {
			return err
		}
		_, err = s.measure(ctx, r, s.once(set, workloadLocal))
		res.big[r.name] = settled(ctx, r.pid)
		r.stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// measureAll starts all servers and measures them in turn.
func (res *results) measureAll(ctx context.Context, s *stage, set *names, present []int) (err error) {
	var all []*running
	var pids []int
	defer func() {
		for _, r := range all {
			r.stop()
		}
	}()
	for _, i := range present {
		progress("starting %s", drivers[i].name)
		r, err := s.start(ctx, i, set)
		if err != nil {
			return err
		}
		all, pids = append(all, r), append(pids, r.pid)
		for _, w := range []string{workloadLocal, workloadMix, workloadForward} {
			if _, err := s.measure(ctx, r, s.once(set, w)); err != nil {
				return err
			}
		}
	}
	settled(ctx, pids...) // what starting left to do is done before the first round
	for round := range res.rounds {
		progress("round %d of %d", round+1, res.rounds)
		if err := res.round(ctx, s, set, all); err != nil {
			return err
		}
	}
	settled(ctx, pids...)
	for _, r := range all {
		res.small[r.name] = resident(r.pid)
		if r.command == nil {
			res.maps = kernelMaps(r.pid)
		}
	}
	if res.workloads != "" {
		return nil
	}
	progress("rebuilding the table under load")
	if res.rebuilt, err = s.rebuild(ctx, all[0], set); err != nil {
		return err
	}
	if res.options.pods > 0 {
		progress("memory with %d pods", res.options.pods)
		if _, err = s.crowd(ctx, res.options.pods); err == nil {
			res.pods = settled(ctx, all[0].pid)
		}
	}
	return err
}

// round measures every workload on every server, the servers in turn within each.
func (res *results) round(ctx context.Context, s *stage, set *names, all []*running) error {
	type step struct {
		workload string
		rated    bool
		load     loader
	}
	var steps []step
	for _, w := range []string{workloadLocal, workloadForward, workloadMix} {
		steps = append(steps, step{w, false, s.atMost(set, w, res.each)}, step{w, true, s.atRate(set, w, res.each)})
	}
	steps = append(steps, step{workloadSingle, false, s.singles(set, res.each/2)})
	for _, w := range []string{workloadNear, workloadShort, workloadFar} {
		steps = append(steps, step{w, false, s.lookUps(set, w, res.each/2)})
	}
	steps = append(steps, step{workloadMuslNear, false, s.muslLookUps(set, workloadNear, res.each/2)},
		step{workloadMuslShort, false, s.muslLookUps(set, workloadShort, res.each/2)})
	for _, st := range steps {
		if !picks(res.workloads, st.workload) {
			continue
		}
		for _, r := range all {
			// Who knows one zone only has no answer to what a search list makes of a name.
			if !r.forwards && !slices.Contains([]string{workloadLocal, workloadMix, workloadSingle}, st.workload) {
				continue
			}
			out, err := s.quiet(ctx, r, st.load)
			if err != nil {
				return fmt.Errorf("workload %s: %w", st.workload, err)
			}
			key := series{r.name, st.workload, st.rated}
			res.samples[key] = append(res.samples[key], out)
		}
	}
	return nil
}
