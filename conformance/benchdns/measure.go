package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tree returns a process and all below it.
func tree(pid int) []int {
	all := []int{pid}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for child := range strings.FieldsSeq(string(text)) {
			if n, err := strconv.Atoi(child); err == nil {
				all = append(all, tree(n)...)
			}
		}
	}
	return all
}

// cpuTime is how long the threads of a process and of all below it have run, in their own code and in
// the kernel's on their behalf: what is charged to them, softirqs of their sends included.
func cpuTime(pid int) time.Duration {
	var sum time.Duration
	for _, p := range tree(pid) {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p))
		for _, thread := range threads {
			text, _ := os.ReadFile(thread)
			var ran int64
			if _, err := fmt.Sscan(string(text), &ran); err == nil {
				sum += time.Duration(ran)
			}
		}
	}
	return sum
}

// resident is how much memory processes and all below them have, in bytes.
func resident(pids ...int) (bytes int64) {
	for _, pid := range pids {
		for _, p := range tree(pid) {
			bytes += kilobytes(fmt.Sprintf("/proc/%d/status", p), "VmRSS:") << 10
		}
	}
	return bytes
}

// settled is resident once it has stopped falling: what was needed only for starting is given back in a
// while, or not. It waits for 4 s at least and 20 s at most.
func settled(ctx context.Context, pids ...int) (bytes int64) {
	bytes = resident(pids...)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for looks, steady := 0, 0; looks < 40 && steady < 8; looks, steady = looks+1, steady+1 {
		select {
		case <-ctx.Done():
			return bytes
		case <-tick.C:
		}
		now := resident(pids...)
		if now < bytes-bytes/100 {
			steady = 0
		}
		bytes = now
	}
	return bytes
}

// kernelMaps is how much memory the BPF maps have that a process holds open, in bytes.
func kernelMaps(pid int) (bytes int64) {
	seen := map[string]bool{}
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		id, size := "", int64(0)
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			switch {
			case len(f) == 2 && f[0] == "map_id:":
				id = f[1]
			case len(f) == 2 && f[0] == "memlock:":
				size, _ = strconv.ParseInt(f[1], 10, 64)
			}
		}
		if id != "" && !seen[id] {
			seen[id] = true
			bytes += size
		}
	}
	return bytes
}

// kilobytes reads one "Key: 123 kB" line of a file.
func kilobytes(path, key string) int64 {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == key {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}

// busyTime is how long the machine's cores were busy since it started; time the hypervisor took away
// is not in it.
func busyTime() time.Duration {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	var ticks int64
	for i, field := range strings.Fields(line) {
		switch i {
		case 1, 2, 3, 6, 7: // user, nice, system, irq, softirq
			n, _ := strconv.ParseInt(field, 10, 64)
			ticks += n
		}
	}
	return time.Duration(ticks) * (time.Second / 100) // USER_HZ is 100 wherever Go runs
}

// ownTime is how long this process has run, and all children it has waited for.
func ownTime() time.Duration {
	var sum time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return sum
}

// pin puts this process and all it starts from now on on one core.
func pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		return err
	}
	for _, thread := range threads {
		tid, err := strconv.Atoi(filepath.Base(thread))
		if err != nil {
			continue
		}
		if err := unix.SchedSetaffinity(tid, &set); err != nil && err != unix.ESRCH {
			return fmt.Errorf("pin to core %d: %w", cpu, err)
		}
	}
	return nil
}
