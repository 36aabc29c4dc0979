package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// bootTime is when the machine started, by the clock as it is set now.
func bootTime() (time.Time, error) {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}, fmt.Errorf("ask how long the machine is up: %w", err)
	}
	return time.Now().Add(-time.Duration(up.Nano())), nil
}

// startTime is when a process of /proc began, to a hundredth of a second.
func startTime(process string) (time.Time, error) {
	const field, perSecond = 22 - 2, 100 // proc_pid_stat(5): starttime, in ticks; USER_HZ is 100 everywhere
	stat, err := os.ReadFile(filepath.Join(process, "stat"))
	if err != nil {
		return time.Time{}, err
	}
	// The second field is the program's name in parentheses, in which anything may stand.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < field {
		return time.Time{}, fmt.Errorf("%s/stat has %d fields", process, len(fields)+2)
	}
	ticks, err := strconv.ParseInt(string(fields[field-1]), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s/stat: %w", process, err)
	}
	booted, err := bootTime()
	return booted.Add(time.Duration(ticks) * (time.Second / perSecond)), err
}
