package upstream

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// patience is how long a Guess for AAAA waits for what becomes of the same for A.
const patience = 50 * time.Millisecond

// Line asks plain questions over UDP without a goroutine for each, on behalf of somebody who waits for events
// anyhow: its sockets are in his epoll set, and he calls Ready and Tick. A question waits here for its first
// try: for a plain answer of a server that is well, which is what becomes of nearly all. Whatever else happens
// to it goes the way of Client.Exchange from there on, with a goroutine to wait.
//
// Ask, Ready and Tick are for one goroutine; the other methods may be called by any.
type Line struct {
	client *Client
	buf    [maxMessage]byte

	mu    sync.Mutex
	ports ports
	sent  calls // the one sent first in front
	held  calls // not sent yet: they wait for the call that they are the twin of
}

// Waiter is who waits for the answer to a question. Exactly one of its methods takes it in the end. They are
// called without locks, and must not block.
type Waiter interface {
	// Answer takes the reply, which is as Client.Cached returns it but for the TTLs, and only lent; server
	// gave it. It returns false if it cannot use the reply as it is, in which case Later is called.
	Answer(reply []byte, server netip.AddrPort) bool
	// Later says that there is more to it: ask is Client.Exchange for this very question, and may block.
	Later(ask func(context.Context, Servers, *dns.Msg) (*dns.Msg, error))
}

// NewLine makes a Line whose sockets are in an epoll set with tag as the upper half of their data, that is
// EpollEvent.Pad, which must tell them from what else is there.
func (c *Client) NewLine(epoll int, tag int32) *Line {
	return &Line{client: c, ports: ports{epoll: epoll, tag: tag, idle: map[kind][]*port{}}}
}

// call is a question of a Line.
type call struct {
	line    *Line
	waiter  Waiter
	s       Servers
	sockets Sockets
	server  netip.AddrPort
	found   found // by us, who lead its flight
	name    string
	query   []byte // the packet that asks
	id      uint16
	began   time.Time

	// The following are guarded by the Line's mu.
	sent       time.Time
	port       *port // while an answer may come
	mismatched int
	over       bool          // the Line is done with it, or somebody else waits on
	came       chan received // then: the first try, once
	twin       *call         // that for AAAA, which waits for this one
	answer     *outcome      // what it got meanwhile

	list       *calls // that it is in since then, between these
	since      time.Time
	prev, next *call
}

// Ask is Client.Exchange for a question that nobody is asking yet, of servers that are all well. It reports
// false for any other, and nothing has happened then. The name of q is not kept.
func (l *Line) Ask(s Servers, q Query, waiter Waiter) bool {
	c, now := l.client, time.Now()
	question := dns.Question{Name: q.Name, Qtype: q.Qtype, Qclass: dns.ClassINET}
	s = c.route(s, question)
	if len(s.Addrs) == 0 || s.network(s.Addrs[0]) != "udp" {
		return false
	}
	sockets, ok := c.sockets(s)
	if !ok || !c.health.well(s, now) {
		return false
	}
	var space [keyBytes]byte
	key := appendQuestionKey(space[:0], s, [...]bool{q.RD, q.CD, q.AD, q.DO, s.TCP}, question)
	w := &call{line: l, waiter: waiter, s: s, sockets: sockets, server: s.Addrs[0], began: now}
	if w.found, ok = c.cache.start(key, w, now); !ok {
		return false
	}
	c.counts.misses.Add(1)
	w.name = w.found.flight.key[nameAt : nameAt+len(q.Name)]
	l.mu.Lock()
	w.id = l.ports.id()
	w.query = q.pack(w.id)
	if q.Guess && w.spared() && l.hold(w, now) {
		l.mu.Unlock()
		return true
	}
	err := l.send(w, now)
	l.mu.Unlock()
	if err != nil {
		l.handOver(w, received{err: err})
	}
	return true
}

// spared says whether w is a question that the outcome of another may answer, or change: see withoutAAAA.
func (w *call) spared() bool {
	return w.qtype() == dns.TypeAAAA && w.query[len(w.query)-4]&0x80 == 0
}

// hold has w, a guess, wait for the call that asks for A of the same name, if that is under way. If it turns
// out that there is no such name then that goes for both (RFC 2308, section 5), and one packet is saved.
func (l *Line) hold(w *call, now time.Time) bool {
	_, other := l.client.cache.sibling(w.found.flight.key, now)
	if other == nil || other.line != l || other.over || other.twin != nil {
		return false
	}
	other.twin = w
	l.held.add(w, now)
	return true
}

// send sends the question. After an error the call is over.
func (l *Line) send(w *call, now time.Time) error {
	w.sent = now
	l.client.health.asked(w.server)
	err := l.ports.take(w, now)
	if err == nil {
		_, err = unix.Write(w.port.fd, w.query)
	} else {
		err = fmt.Errorf("%w: %w", errUnsent, err)
	}
	if err != nil {
		w.leave()
		return err
	}
	l.sent.add(w, now)
	return nil
}

// leave makes w somebody else's to wait for.
func (w *call) leave() {
	w.over, w.came = true, make(chan received, 1)
	if w.list != nil {
		w.list.remove(w)
	}
}

// Ready reads what has come for the socket with this number, which is EpollEvent.Fd; events are the event's.
func (l *Line) Ready(number int32, events uint32) {
	l.mu.Lock()
	p := l.ports.all[number]
	if p == nil || p.call == nil && events&unix.EPOLLHUP == 0 {
		l.mu.Unlock()
		return
	}
	w := p.call
	var r received
	if events&unix.EPOLLHUP != 0 {
		r.err = fmt.Errorf("%w: %w", errUnsent, net.ErrClosed)
		l.ports.drop(p)
	} else if r = w.receive(l.buf[:]); r.nothing() {
		l.mu.Unlock()
		return
	}
	if w == nil {
		l.mu.Unlock()
		return
	}
	late := w.over
	if w.over = true; !late {
		l.sent.remove(w)
	}
	l.mu.Unlock()
	if late {
		w.deliver(r)
	} else {
		l.finish(w, r)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.port != nil {
		l.ports.release(w.port, time.Now())
	}
}

// finish goes on with a call whose first try has ended.
func (l *Line) finish(w *call, r received) {
	c, now := l.client, time.Now()
	if r.plain == nil {
		l.handOver(w, r)
		return
	}
	if w.mismatched > 0 {
		c.health.mismatched(w.server, w.mismatched)
	}
	if c.health.answered(w.s.Scope, w.server, now.Sub(w.sent), int(r.plain.wire[3]&0xf)) {
		c.cache.forgive()
	}
	if r.plain.denied && w.spared() {
		denied, other := c.cache.sibling(w.found.flight.key, now)
		l.mu.Lock()
		wait := !denied && other != nil && other.line == l && !other.over && other.twin == nil
		if wait {
			other.twin, w.answer, w.over = w, r.plain, false
			l.held.add(w, now)
		}
		l.mu.Unlock()
		if wait {
			return
		}
		if !denied {
			l.handOver(w, r)
			return
		}
	}
	l.settle(w, r.plain)
}

// settle ends a call with an answer.
func (l *Line) settle(w *call, out *outcome) {
	f := w.found.flight
	f.outcome = *out
	f.by, f.server = w.s.Dial, w.server
	l.client.cache.land(f, time.Now())
	close(f.done)
	if !w.waiter.Answer(f.wire, w.server) {
		w.waiter.Later(w.exchange)
	}
	l.release(w, out)
}

// handOver leaves a call to goroutines: that of its flight, and whatever its Waiter starts.
func (l *Line) handOver(w *call, r received) {
	l.mu.Lock()
	if w.came == nil {
		w.leave()
	}
	sent := w
	if w.sent.IsZero() {
		sent = nil
	}
	l.mu.Unlock()
	w.deliver(r)
	go l.client.fly(context.Background(), w.s, w.question(), w.found.flight, sent)
	w.waiter.Later(w.exchange)
	l.release(w, nil)
}

// exchange is Client.Exchange for w, whose flight somebody else sees to.
func (w *call) exchange(ctx context.Context, _ Servers, q *dns.Msg) (*dns.Msg, error) {
	out, err := w.found.flight.wait(ctx, w.found.wire != nil)
	return w.line.client.conclude(ctx, q, w.found, out, err)
}

// release goes on with the twin of a call that is over, with this outcome if it has one.
func (l *Line) release(w *call, out *outcome) {
	l.mu.Lock()
	t := w.twin
	if w.twin = nil; t == nil || t.list != &l.held {
		l.mu.Unlock() // there is none that waits: it ran out of patience, or was left, and has its own end
		return
	}
	l.held.remove(t)
	denied, answer := out != nil && out.denied, t.answer
	if answer == nil && !denied {
		err := l.send(t, time.Now())
		l.mu.Unlock()
		if err != nil {
			l.handOver(t, received{err: err})
		}
		return
	}
	t.over = true
	l.mu.Unlock()
	switch {
	case !denied:
		l.handOver(t, received{plain: answer})
	case answer == nil:
		own := *out
		own.wire = append([]byte(nil), out.wire...)
		binary.BigEndian.PutUint16(own.wire[headerBytes+len(t.section())-4:], dns.TypeAAAA)
		l.settle(t, &own)
	default:
		l.settle(t, answer)
	}
}

// Tick does what is due, and says how long there is nothing more; ok is false if that is for good.
func (l *Line) Tick(now time.Time) (next time.Duration, ok bool) {
	type ending struct {
		*call
		received
	}
	var over []ending
	l.mu.Lock()
	for w := l.sent.first; w != nil && now.Sub(w.since) >= firstTry; w = l.sent.first {
		w.leave()
		over = append(over, ending{call: w})
	}
	for w := l.held.first; w != nil && now.Sub(w.since) >= patience; w = l.held.first {
		if w.answer != nil {
			w.leave()
			over = append(over, ending{w, received{plain: w.answer}})
			continue
		}
		l.held.remove(w)
		if err := l.send(w, now); err != nil {
			over = append(over, ending{w, received{err: err}})
		}
	}
	until, ok := l.ports.sweep(now)
	soon := func(w *call, after time.Duration) {
		if w != nil && (!ok || w.since.Add(after).Before(until)) {
			until, ok = w.since.Add(after), true
		}
	}
	soon(l.sent.first, firstTry)
	soon(l.held.first, patience)
	l.mu.Unlock()
	for _, e := range over {
		l.handOver(e.call, e.received)
	}
	return until.Sub(now), ok
}

// Leave hands over the calls of Waiters that do not wait for the Line any more.
func (l *Line) Leave(gone func(Waiter) bool) {
	var left []*call
	l.mu.Lock()
	for _, list := range [...]*calls{&l.sent, &l.held} {
		for w := list.first; w != nil; {
			next := w.next
			if gone(w.waiter) {
				w.leave()
				left = append(left, w)
			}
			w = next
		}
	}
	l.mu.Unlock()
	for _, w := range left {
		l.handOver(w, received{plain: w.answer})
	}
}

// Close ends the Line: its calls are handed over, and its sockets closed. None of its methods may be called
// after that.
func (l *Line) Close() {
	l.Leave(func(Waiter) bool { return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.ports.all {
		if p != nil {
			l.ports.close(p)
		}
	}
	clear(l.ports.idle)
}

// wait is the first try of a call that was handed over: see Client.send.
func (w *call) wait(ctx context.Context) (*dns.Msg, error) {
	var r received
	select {
	case r = <-w.came:
	case <-ctx.Done():
		r.err = context.Cause(ctx)
	}
	w.line.mu.Lock()
	if w.port != nil {
		w.line.ports.close(w.port)
	}
	mismatched := w.mismatched
	w.line.mu.Unlock()
	return w.line.client.note(ctx, w.s, w.server, w.sent, mismatched, r.reply, r.err)
}
