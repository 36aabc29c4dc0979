package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

const (
	// muchWork is how long a pass takes that leaves garbage by the megabyte.
	muchWork = 20 * time.Millisecond
	// quiet is how long nothing must have been worked on before memory is looked through: longer than
	// keepEvery, so that what was said has been written down.
	quiet = 2 * time.Second
)

// tidy gives memory back to the node each time it has been quiet for a moment after much work, which
// worked tells. Left to itself, Go collects only when half as much again is needed, which may be never,
// and returns what it does not use over minutes: a node would pay for its largest moment all day. While
// work goes on it is left to itself, since a collection takes time from it.
func tidy(ctx context.Context, worked <-chan struct{}, log *slog.Logger) error {
	timer := time.NewTimer(quiet) // there is always something left of the start
	defer timer.Stop()
	for {
		select {
		case <-worked:
			timer.Reset(quiet)
		case <-timer.C:
			runtime.GC() // what pools keep outlives one collection
			debug.FreeOSMemory()
			if err := releaseProgram(); err != nil {
				log.Warn("pages of the program stay mapped", "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// releaseProgram unmaps the pages of the program itself; those in use come back from the page cache at the
// next touch. Half of them only starting needed: every message type of the APIs spoken is registered with
// its description, and what lies around a page touched is mapped along.
func releaseProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer func() { _ = maps.Close() }()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uintptr
		var mode string
		// Written pages would be lost: only what is as it is in the file.
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil || mode[1] != '-' || mode[3] != 'p' ||
			!strings.HasSuffix(lines.Text(), " "+exe) {
			continue
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, from, to-from, syscall.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give back %s: %w", lines.Text(), errno)
		}
	}
	return nil
}
