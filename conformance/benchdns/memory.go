package main

import (
	"context"
	"fmt"
	"path/filepath"
)

// footprint is what a process has, the memory in bytes: what is its own, what is mapped from files (the
// program itself above all) and what is shared with others (BPF arrays).
type footprint struct {
	total, anon, file, shared int64
	fds, threads              int
}

func footprintOf(pid int) footprint {
	status := fmt.Sprintf("/proc/%d/status", pid)
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	return footprint{
		total: kilobytes(status, "VmRSS:") << 10, anon: kilobytes(status, "RssAnon:") << 10,
		file: kilobytes(status, "RssFile:") << 10, shared: kilobytes(status, "RssShmem:") << 10,
		fds: len(fds), threads: int(kilobytes(status, "Threads:")),
	}
}

// memory measures nothing but nodens: what it has with all names, then with all pods, and what it costs
// those to ask at the fixed rate in total. It prints a table.
func memory(ctx context.Context, s *stage, o options) error {
	set, err := makeNames(s.dir, fewNames)
	if err != nil {
		return err
	}
	if err := s.serveUpstream(set); err != nil {
		return err
	}
	r, err := s.start(ctx, 0, set)
	if err != nil {
		return err
	}
	defer r.stop()
	fmt.Printf("| nodens with %d names | resident MiB | own | file | shared | fds | threads |\n", fewNames)
	fmt.Println("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
	show := func(when string) {
		settled(ctx, r.pid)
		f := footprintOf(r.pid)
		fmt.Printf("| %s | %.1f | %.1f | %.1f | %.1f | %d | %d |\n", when, mebibytes(f.total), mebibytes(f.anon),
			mebibytes(f.file), mebibytes(f.shared), f.fds, f.threads)
	}
	show("started")
	if _, err := s.measure(ctx, r, s.once(set, workloadLocal)); err != nil {
		return err
	}
	show("each asked for once")
	if _, err := s.rebuild(ctx, r, set); err != nil {
		return err
	}
	show("all read again")
	pods, err := s.crowd(ctx, o.pods)
	if err != nil {
		return err
	}
	show(fmt.Sprintf("%d pods of two nameservers", o.pods))
	out, err := s.measure(ctx, r, s.everywhere(set, pods))
	if err != nil {
		return err
	}
	show(fmt.Sprintf("%d queries per second of all", fixedRate))
	fmt.Printf("\nThose: p50 %.0f µs, p99 %.0f µs, slowest %.1f ms, %d answered, %d lost, CPU %.1f µs each, %.0f %% of the machine used by others.\n",
		micros(out.p50), micros(out.p99), micros(out.max)/1000, out.done, out.lost, micros(out.cpu), 100*out.foreign)
	return nil
}
