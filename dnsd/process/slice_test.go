package process

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A scheduler that knows slices of their own (Linux 6.12) tells them, any other says 0.
func TestWakeSoon(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := WakeSoon(); err != nil {
		t.Fatal(err)
	}
	after, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if before.Runtime != 0 && after.Runtime != uint64(slice) {
		t.Errorf("a turn of the processor is %d ns", after.Runtime)
	}
	if after.Policy != before.Policy || after.Nice != before.Nice || after.Priority != before.Priority {
		t.Errorf("%+v has become %+v", before, after)
	}
}
