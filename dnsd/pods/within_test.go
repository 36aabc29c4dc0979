package pods

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/cni/attach"
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
	n.leavesAfter(a)
	n.must(n.add(a))
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

// leavesAfter removes the attachment while somebody is in its namespace: whoever rings for that waits for him.
func (n *node) leavesAfter(a attach.Attachment) {
	n.t.Helper()
	entered, told, left := make(chan struct{}), make(chan error, 1), make(chan error, 1)
	go func() {
		left <- n.pods.Within(n.t.Context(), a.NetnsCookie, func() error {
			close(entered)
			select {
			case err := <-told:
				return errors.Join(errors.New("DEL says that nothing is left in the namespace"), err)
			case <-time.After(100 * time.Millisecond): // long enough for one that does not wait
				return nil
			}
		})
	}()
	select {
	case <-entered:
	case err := <-left:
		n.t.Fatal(err)
	}
	n.must(attach.Remove(n.options.Dir, a.Key()))
	told <- n.ring(attach.OpDel, a.Key())
	n.must(<-left)
	n.must(<-told)
}
