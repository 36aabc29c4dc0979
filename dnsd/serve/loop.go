package serve

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/dnsd/upstream"
)

const (
	// maxLoops bounds the goroutines that wait for the sockets of all pods, and half of the runtime's
	// processors does, for each may keep one while it waits. One loop answers more than 50,000 queries a
	// second.
	maxLoops = 4
	// yieldEvery is how often a loop lets the scheduler know that it does give way. The runtime takes the
	// processor from who does not for 10 ms, and then again every 20 µs.
	yieldEvery = 8 * time.Millisecond
)

// lineTag tells the sockets of a loop's Line from those it answers on, in the data of an event.
const lineTag = 1

// loops wait for sockets. A query comes alone more often than not, and then the waking is what costs:
// through the runtime's poller it comes with a read that finds nothing, and with another thread, the
// runtime's monitor, that is woken to see one goroutine run for 10 µs. A loop waits in a system call of its
// own instead, which the monitor lets be. That is less than two thirds of the time per query at a rate of
// 5,000 a second.
type loops struct {
	mu  sync.Mutex
	all []*loop
}

// loop is one goroutine and the sockets it answers on, which take turns. It lives while it has any.
type loop struct {
	epoll, wake int // the set of sockets, and an eventfd in it
	line        *upstream.Line
	served      int // sockets that it is there for, removed or not; guarded by loops.mu

	mu      sync.Mutex
	sockets map[int32]served
	kinds   map[string]int // of them, by network
	next    int32

	resting []resting // run's own
}

// resting is a socket that is not read for a while.
type resting struct {
	id    int32
	until time.Time
}

// enter has some loop serve d, by the name of id, until it is removed, or d fails. The loop lives until leave.
func (ls *loops) enter(d served) (l *loop, id int32, err error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, other := range ls.all {
		if l == nil || other.len(d) < l.len(d) {
			l = other
		}
	}
	if l == nil || len(ls.all) < min(maxLoops, max(1, runtime.GOMAXPROCS(0)/2)) {
		client, _ := d.base().server.upstream.(*upstream.Client)
		switch made, err := newLoop(client); {
		case err == nil:
			l = made
			ls.all = append(ls.all, l)
			go l.run()
		case l == nil:
			return nil, 0, err
		}
	}
	l.served++
	id, err = l.add(d)
	return l, id, err
}

// leave ends a loop without sockets.
func (ls *loops) leave(l *loop) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.served--; l.served > 0 {
		return
	}
	for i, other := range ls.all {
		if other == l {
			ls.all = append(ls.all[:i], ls.all[i+1:]...)
			_, _ = unix.Write(l.wake, binary.NativeEndian.AppendUint64(nil, 1))
		}
	}
}

// newLoop makes a loop that asks c, if there is one.
func newLoop(c *upstream.Client) (*loop, error) {
	l := &loop{sockets: map[int32]served{}, kinds: map[string]int{}}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make a set of sockets to wait for: %w", err)
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err == nil {
		// Its key is 0, which no socket has.
		err = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, l.wake, &unix.EpollEvent{Events: unix.EPOLLIN})
	}
	if err != nil {
		l.close()
		return nil, fmt.Errorf("make the means to end a loop: %w", err)
	}
	if c != nil {
		l.line = c.NewLine(l.epoll, lineTag)
	}
	return l, nil
}

func (l *loop) close() {
	if l.line != nil {
		l.line.Close()
	}
	_ = unix.Close(l.epoll)
	if l.wake > 0 {
		_ = unix.Close(l.wake)
	}
}

// len is how many sockets like d there are: those of UDP are asked far more than those of TCP.
func (l *loop) len(d served) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kinds[d.base().network]
}

func (l *loop) find(id int32) served {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sockets[id]
}

func (l *loop) add(d served) (id int32, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.next++; l.next <= 0 || l.sockets[l.next] != nil; l.next++ {
		l.next = max(l.next, 0)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: l.next}
	on := d.base().on
	err = on.Control(func(fd uintptr) error {
		on.loop.Store(l) // before it can be closed
		return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, int(fd), &event)
	})
	if err != nil {
		return 0, fmt.Errorf("wait for a socket: %w", err)
	}
	l.sockets[l.next] = d
	l.kinds[d.base().network]++
	return l.next, nil
}

// forget takes an open descriptor out of the set.
func (l *loop) forget(fd int) { _ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, fd, nil) }

// remove takes a socket out; that it is gone is fine. By the time it returns, it has no turn any more unless
// it is open and has one now.
func (l *loop) remove(id int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := l.sockets[id]; d != nil {
		delete(l.sockets, id)
		l.kinds[d.base().network]--
		// One that is closed has left the set.
		_ = d.base().on.Control(func(fd uintptr) error { l.forget(int(fd)); return nil })
	}
}

// run gives every socket that has something a turn, over and over, until told that there is none left.
func (l *loop) run() {
	defer l.close()
	b := newBatch()
	ready := make([]unix.EpollEvent, 64)
	now := time.Now()
	for yielded, wait := now, -1; ; {
		n, err := unix.EpollWait(l.epoll, ready, wait)
		if err != nil && err != unix.EINTR {
			panic(fmt.Sprintf("wait for sockets: %v", err)) // the set is not one: nothing that happens outside does that
		}
		now = time.Now()
		asking := false
		for i := range max(n, 0) {
			id := ready[i].Fd
			if ready[i].Pad == lineTag {
				l.line.Ready(id, ready[i].Events)
				continue
			}
			if id == 0 {
				return
			}
			if d := l.find(id); d != nil {
				asking = l.turn(id, d, b, now) || asking
			}
		}
		l.resume(now)
		wait = l.idle(now)
		// Those that ask can begin on this very thread.
		if asking || now.Sub(yielded) > yieldEvery {
			runtime.Gosched()
			yielded = now
		}
	}
}

// turn gives a socket its turn, and reports whether some of what it read is now being asked upstream.
func (l *loop) turn(id int32, d served, b *batch, now time.Time) (asking bool) {
	asking, rest, err := d.ready(l, b, now)
	if err != nil {
		rest = l.failed(id, d, err)
	}
	if rest > 0 {
		_ = l.watch(id, unix.EPOLL_CTL_DEL) // whose event it was is in the set, unless it is closed
		l.resting = append(l.resting, resting{id, now.Add(rest)})
	}
	return asking
}

// failed ends what cannot be read any more, or waited for. For want of memory or descriptors it is only left alone for a
// while: what comes waits in its queue.
func (l *loop) failed(id int32, d served, err error) (rest time.Duration) {
	if scarce(err) {
		return scarcePause
	}
	l.remove(id)
	go d.base().end(err)
	return 0
}

// untilRested is in how many milliseconds the first of those that rest is to be read again; -1: never.
func (l *loop) untilRested(now time.Time) int {
	if len(l.resting) == 0 {
		return -1
	}
	first := l.resting[0].until
	for _, r := range l.resting[1:] {
		if r.until.Before(first) {
			first = r.until
		}
	}
	return max(0, int(first.Sub(now).Milliseconds())+1)
}

// resume waits again for those that have rested. Those that the kernel has no room for in the set rest on.
func (l *loop) resume(now time.Time) {
	rest := l.resting[:0]
	for _, r := range l.resting {
		if !r.until.After(now) {
			longer := l.rested(r.id)
			if longer == 0 {
				continue
			}
			r.until = now.Add(longer)
		}
		rest = append(rest, r)
	}
	l.resting = rest
}

// rested waits again for a socket, or says for how long it is to rest on. Nobody would see that it is never
// read again: if it cannot be, it ends.
func (l *loop) rested(id int32) (longer time.Duration) {
	err := l.watch(id, unix.EPOLL_CTL_ADD)
	if d := l.find(id); err != nil && d != nil {
		return l.failed(id, d, err)
	}
	return 0
}

// watch puts a socket into the set or takes it out. That it is gone is fine.
func (l *loop) watch(id int32, op int) error {
	l.mu.Lock() // so that it does not go in between: a descriptor would stay that belongs to nobody
	defer l.mu.Unlock()
	d := l.sockets[id]
	if d == nil {
		return nil
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: id}
	return d.base().on.Control(func(fd uintptr) error { return unix.EpollCtl(l.epoll, op, int(fd), &event) })
}

// idle has the Line do what is due, and says for how many milliseconds there is nothing to do but to wait for
// sockets; -1: for good.
func (l *loop) idle(now time.Time) int {
	rest := l.untilRested(now)
	if l.line == nil {
		return rest
	}
	next, ok := l.line.Tick(now)
	if !ok {
		return rest
	}
	wait := int((max(next, 0) + time.Millisecond - 1) / time.Millisecond)
	if rest >= 0 {
		wait = min(wait, rest)
	}
	return wait
}
