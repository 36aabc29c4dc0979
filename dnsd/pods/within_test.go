package pods

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// Whoever names a pod's cookie is let in, and out again; nobody keeps a pod that is released.
func TestWithin(t *testing.T) {
	n := newNode(t)
	n.start()
	_, a := n.bare("web-0")
	n.must(n.add(a))
	ctx := t.Context()
	var inside uint64
	n.must(n.pods.Within(ctx, a.NetnsCookie, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		inside, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	}))
	if inside != a.NetnsCookie {
		t.Errorf("ran in the namespace of cookie %d, want %d", inside, a.NetnsCookie)
	}
	n.threads(a)
	if err := n.pods.Within(ctx, a.NetnsCookie, func() error { return errInjected }); !errors.Is(err, errInjected) {
		t.Errorf("the function failed, and Within says %v", err)
	}

	never := func() error { t.Error("ran somewhere"); return nil }
	n.del(a)
	if err := n.pods.Within(ctx, a.NetnsCookie, never); err == nil {
		t.Error("ran for a pod that is released")
	}
	n.stop()
	if err := n.pods.Within(ctx, a.NetnsCookie, never); err == nil {
		t.Error("ran when nobody keeps the pods any more")
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if err := New(n.options).Within(done, a.NetnsCookie, never); !errors.Is(err, context.Canceled) {
		t.Errorf("before Run: %v, want that it was cancelled", err)
	}
}
