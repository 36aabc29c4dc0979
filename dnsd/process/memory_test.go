package process

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A page of the program that was written before it was protected is not what is in the file: a loader leaves
// such ones, and they must stay.
func TestReleaseProgramKeepsWhatWasWritten(t *testing.T) {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = exe.Close() }()
	page, err := unix.Mmap(int(exe.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(page) }()
	const written = "relocated"
	copy(page, written)
	if err := unix.Mprotect(page, unix.PROT_READ); err != nil {
		t.Fatal(err)
	}
	if err := releaseProgram(); err != nil {
		t.Fatal(err)
	}
	if got := string(page[:len(written)]); got != written {
		t.Errorf("the page says %q", got)
	}
}

func TestTidyIsDue(t *testing.T) {
	const mib = 1 << 20
	tidied := time.Now()
	before := func(worked bool, cost time.Duration) keeper {
		return keeper{worked: worked, least: 10 * mib, last: 60 * mib, tidied: tidied, cost: cost}
	}
	for _, tc := range []struct {
		what      string
		k         keeper
		has, uses uint64
		after     time.Duration
		want      bool
	}{
		{"little is unused", before(false, 0), 60 * mib, 50 * mib, time.Hour, false},
		{"little seems to be, after work", before(true, 0), 60 * mib, 58 * mib, time.Hour, true},
		{"much is unused", before(false, 0), 60 * mib, 30 * mib, tidyRest, true},
		{"it grows", before(true, 0), 62 * mib, 30 * mib, time.Hour, false},
		{"it has just been tidied", before(false, 0), 60 * mib, 30 * mib, tidyRest - 1, false},
		{"but there was work", before(true, 0), 60 * mib, 30 * mib, 0, true},
		{"which costs much", before(true, time.Second), 60 * mib, 30 * mib, workShare*time.Second - 1, false},
		{"and may", before(true, time.Second), 60 * mib, 30 * mib, workShare * time.Second, true},
		{"without work it may less", before(false, time.Second), 60 * mib, 30 * mib, tidyShare*time.Second - 1, false},
	} {
		k := tc.k
		if got := k.due(tc.has, tc.uses, tidied.Add(tc.after)); got != tc.want {
			t.Errorf("%s: %v", tc.what, got)
		}
	}
	// Where it was tidied amid work, more was left than can be helped.
	k := before(false, 0)
	k.due(52*mib, 50*mib, tidied)
	k.due(70*mib, 50*mib, tidied)
	if !k.due(70*mib, 50*mib, tidied.Add(tidyRest)) {
		t.Error("what was left once is left for ever")
	}
}
