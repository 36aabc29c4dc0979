package serve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// served is a descriptor that a loop waits for, UDP or TCP.
type served interface {
	base() *service
	// ready does what there is to do, up to a batch of it, and waits for nothing. It reports whether some of
	// that is now being asked upstream, and for how long the descriptor must not have a turn.
	ready(l *loop, b *batch, now time.Time) (asking bool, rest time.Duration, err error)
	// stop has nothing more read, accepted or added, from the moment it returns.
	stop()
}

// service is what all served descriptors have. It costs no goroutine while there is nothing to do.
type service struct {
	*socket
	on     *descriptor
	ctx    context.Context // of what is done beside the loop
	cancel context.CancelFunc
	asking sync.WaitGroup // what is done beside the loop
	over   atomic.Bool

	mu     sync.Mutex // held while it begins, and while it ends
	self   served
	loop   *loop // nil if there is none to be had
	id     int32 // by which that knows it
	loosen func() bool
	ended  func(error)
}

func (s *Server) newService(c *Client, network string, on *descriptor) *service {
	v := &service{socket: s.enter(c, network), on: on}
	v.ctx, v.cancel = context.WithCancel(context.Background())
	return v
}

func (v *service) base() *service { return v }

// begin has a loop wait for v's descriptor, and calls ended once, by a goroutine of its own, when nothing of
// that runs any more.
func (v *service) begin(self served, ended func(error)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.self, v.ended = self, ended
	v.on.serve(v)
	v.loosen = context.AfterFunc(v.server.retiring, func() { v.end(nil) })
	var err error
	if v.loop, v.id, err = v.server.loops.enter(self); err != nil {
		go v.end(err)
	}
}

// end ends v, which blocks until nothing of it runs any more. All calls but the first do nothing.
func (v *service) end(err error) {
	if v.over.Swap(true) {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.loosen()
	if v.loop != nil {
		v.loop.remove(v.id)
	}
	v.self.stop() // from here on, nothing is added to what is waited for
	if v.server.retiring.Err() != nil {
		v.asking.Wait()
	}
	v.cancel()
	if v.loop != nil {
		v.loop.forsake(v)
	}
	v.asking.Wait()
	if v.loop != nil {
		v.server.loops.leave(v.loop)
	}
	v.on.serve(nil)
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("serve pod %s, which asks %s over %s: %w", v.client.Pod, v.client.Nameserver, v.network, err)
	}
	v.ended(err)
}
