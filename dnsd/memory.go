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
	// tidyEvery is how often memory is looked at.
	tidyEvery = time.Second
	// tidyShare is which part of the time may go into tidying: one in so many.
	tidyShare = 10
)

// tidy gives memory back to the node whenever a piece of work has left much of it unused. Left to itself,
// Go collects only when half as much again is needed, which may be never, and returns what it does not use
// over minutes: a node would pay for its largest moment all day.
func tidy(ctx context.Context, log *slog.Logger) error {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	var least, last int // what tidying left, and what was there when last looked at
	var tidied bool     // just now: some of the program comes back
	var rested time.Time
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now := resident()
		grows := now > last+last/64
		last = now
		switch {
		case grows: // the work is still being done
		case tidied:
			least, tidied = now, false
		case now > least+least/8 && time.Now().After(rested):
			began := time.Now()
			runtime.GC() // what pools keep outlives one collection
			debug.FreeOSMemory()
			if err := releaseProgram(); err != nil {
				log.Warn("pages of the program stay mapped", "error", err)
			}
			last, tidied, rested = 0, true, time.Now().Add(tidyShare*time.Since(began))
		}
	}
}

// resident is the memory this process has, in pages.
func resident() int {
	text, err := os.ReadFile("/proc/self/statm")
	var size, pages int
	if err == nil {
		_, err = fmt.Sscan(string(text), &size, &pages)
	}
	if err != nil {
		return 0 // not on Linux
	}
	return pages
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
