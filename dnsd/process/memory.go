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
	// tidyEvery is how often memory is looked at.
	tidyEvery = time.Second
	// tidyRest is how long it is left alone at least when it has been tidied, unless there was work since.
	tidyRest = 10 * time.Second
	// tidyShare is which part of a processor may go into tidying, one in so many, and workShare which when
	// there was work since.
	tidyShare, workShare = 100, 20
)

// Tidy gives memory back to the node whenever a piece of work has left much of it unused. Left to itself,
// Go collects only when half as much again is needed, which may be never, and returns what it does not use
// over minutes: a node would pay for its largest moment all day. worked says that such a piece of work has been
// done. It returns nil when ctx is done.
func Tidy(ctx context.Context, worked <-chan struct{}, log *slog.Logger) error {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	var k keeper
	for {
		select {
		case <-worked:
			k.worked = true
			continue // with what is left of the work
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		has, uses := memory()
		if !k.due(has, uses, time.Now()) {
			continue
		}
		began, had := time.Now(), processorTime()
		if k.worked {
			runtime.GC() // what pools keep outlives one collection
		}
		debug.FreeOSMemory()
		if err := releaseProgram(); err != nil {
			log.Warn("pages of the program stay mapped", "error", err)
		}
		has, uses = memory()
		// Neither alone is the cost: others may have the processors meanwhile, and other work of ours goes on.
		cost := min(processorTime()-had, time.Since(began))
		k = keeper{least: has - min(has, uses), last: has, tidied: time.Now(), cost: cost}
	}
}

// keeper says when to tidy.
type keeper struct {
	worked bool   // there was, since it was tidied
	least  uint64 // that was more than in use then, or at any time since
	last   uint64 // that was had when last looked at
	tidied time.Time
	cost   time.Duration // of that, in time of the processors
}

// due says whether it is time, when so many bytes are had and in use.
func (k *keeper) due(has, uses uint64, now time.Time) bool {
	grows := has > k.last+k.last/64
	k.last, k.least = has, min(k.least, has-min(has, uses))
	switch {
	case grows:
		return false // the work is still being done
	case k.worked: // what was in use amid the work says nothing
		return !now.Before(k.tidied.Add(workShare * k.cost))
	}
	return has > uses+uses/8+k.least && !now.Before(k.tidied.Add(max(tidyRest, tidyShare*k.cost)))
}

// processorTime is what the process has had of the processors.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
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
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer func() { _ = maps.Close() }()
	var from, to uintptr // of the mapping that is being described, if it is the program's
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		line := lines.Text()
		var start, end uintptr
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &start, &end, &mode); n == 3 {
			from, to = 0, 0
			if mode[1] == '-' && mode[3] == 'p' && strings.HasSuffix(line, " "+exe) {
				from, to = start, end
			}
		}
		// A page that was written would be lost, also one that nobody may write any more, as the loader leaves
		// what it has relocated: only what is as it is in the file.
		if rest, ok := strings.CutPrefix(line, "Anonymous:"); !ok || strings.TrimSpace(rest) != "0 kB" || from == to {
			continue
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, from, to-from, syscall.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give back %x-%x of %s: %w", from, to, exe, errno)
		}
	}
	return nil
}
