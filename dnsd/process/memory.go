// Package process makes dnsd a good guest of its node: it gives back memory, asks for a processor soon rather
// than for long, and tells its supervisor how it is.
package process

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	gometrics "runtime/metrics"
	"strings"
	"syscall"
	"time"
)

const (
	// tidyEvery is how often memory is looked at, and tidyRest how long it is left alone at least when it has
	// been tidied.
	tidyEvery, tidyRest = time.Second, 10 * time.Second
	// tidyShare is which part of the time may go into tidying: one in so many.
	tidyShare = 20
)

// Tidy gives memory back to the node whenever a piece of work has left much of it unused. Left to itself,
// Go collects only when half as much again is needed, which may be never, and returns what it does not use
// over minutes: a node would pay for its largest moment all day. It returns nil when ctx is done.
func Tidy(ctx context.Context, log *slog.Logger) error {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	var least, last uint64 // that was more than in use when it had been tidied, and that was had when last looked at
	var rested time.Time
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		has, uses := memory()
		grows := has > last+last/64
		last = has
		if grows || has <= uses+uses/8+least || time.Now().Before(rested) {
			continue // while it grows, the work is still being done
		}
		began := time.Now()
		runtime.GC() // what pools keep outlives one collection
		debug.FreeOSMemory()
		if err := releaseProgram(); err != nil {
			log.Warn("pages of the program stay mapped", "error", err)
		}
		has, uses = memory()
		least, rested = has-min(has, uses), time.Now().Add(max(tidyRest, tidyShare*time.Since(began)))
	}
}

// memory is what Go has from the system and has not returned, and how much of it was in use when it last
// collected, in bytes.
func memory() (has, uses uint64) {
	samples := []gometrics.Sample{
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}, {Name: "/gc/heap/live:bytes"},
	}
	gometrics.Read(samples)
	return samples[0].Value.Uint64() - samples[1].Value.Uint64(), samples[2].Value.Uint64()
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
