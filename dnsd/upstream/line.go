package upstream

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// Line asks plain questions over UDP without a goroutine for each, on behalf of somebody who waits for events
// anyhow: its sockets are in his epoll set, and he calls Ready and Tick. A question waits here for its first
// try: for a plain answer of a server that is well, which is what becomes of nearly all. Whatever else happens
// to it goes the way of Client.Exchange from there on, with a goroutine to wait.
//
// Ask, Ready and Tick are for one goroutine; the other methods may be called by any. Whoever takes a call off
// the Line, with move, ends it: so it ends once.
type Line struct {
	client *Client
	buf    [maxMessage]byte

	mu    sync.Mutex
	ports ports
	sent  calls // that are sent, the first in front
	held  calls // that are held, likewise
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
	return &Line{client: c, ports: ports{epoll: epoll, tag: tag, all: map[int32]*port{}, idle: map[kind][]*port{}}}
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
	if !q.Guess || !l.hold(w, now) {
		l.send(w, now)
	}
	over := w.over()
	l.mu.Unlock()
	if over {
		l.end(w)
	}
	return true
}

// send sends the question. If it cannot, the call is left.
func (l *Line) send(w *call, now time.Time) {
	w.asked = now
	l.client.health.asked(w.server)
	err := l.ports.take(w, now)
	if err == nil {
		_, err = unix.Write(w.port.fd, w.query)
	} else {
		err = fmt.Errorf("%w: %w", errUnsent, err)
	}
	if err != nil {
		w.got.err = err
		l.move(w, left, now)
		return
	}
	l.move(w, sent, now)
}

// move gives a call that is not over another state. Nothing else does, nor touches the lists and the link to
// its twin where they go with a state.
func (l *Line) move(w *call, to state, now time.Time) {
	switch w.state {
	case sent:
		l.sent.remove(w)
	case held:
		l.held.remove(w)
		w.twin.twin, w.twin = nil, nil
	}
	switch w.state = to; to {
	case sent:
		l.sent.add(w, now)
	case held:
		l.held.add(w, now)
	case left:
		w.came = make(chan received, 1)
	}
}

// Ready reads what has come for the socket with this number, which is EpollEvent.Fd; events are the event's.
func (l *Line) Ready(number int32, events uint32) {
	w := l.read(number, events)
	if w == nil {
		return
	}
	l.end(w)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ports.release(w, w.got.at) // only now: nobody waits for that
}

// read reads what has come, and returns the call that is over by that, for the caller to end.
func (l *Line) read(number int32, events uint32) *call {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.ports.all[number]
	if p == nil {
		return nil
	}
	w, r := p.call, received{}
	switch {
	case events&unix.EPOLLHUP != 0:
		r.err = fmt.Errorf("%w: %w", errUnsent, net.ErrClosed)
		l.ports.drop(p)
	case w != nil:
		r = w.receive(l.buf[:])
	}
	if w == nil || r.nothing() {
		return nil
	}
	r.at = time.Now()
	if w.state == left { // before that came
		w.deliver(r)
		l.ports.release(w, r.at)
		return nil
	}
	w.got = r
	if l.decide(w, r.at); w.over() {
		return w
	}
	l.ports.release(w, r.at)
	return nil
}

// end tells the Waiter of a call how it is over. It is called once, without locks, by who moved it there.
func (l *Line) end(w *call) {
	if w.state == done {
		l.settle(w)
	} else {
		l.handOver(w)
	}
	l.goOn(w)
}

// settle ends a call with an answer.
func (l *Line) settle(w *call) {
	c, f := l.client, w.found.flight
	if !w.asked.IsZero() {
		c.heard(w.s, w.server, w.asked, w.got.at, int(w.got.plain.wire[3]&0xf))
	}
	f.outcome = *w.got.plain
	f.by, f.server = w.s.Dial, w.server
	c.cache.land(f, w.got.at)
	close(f.done)
	if !w.waiter.Answer(f.wire, w.server) {
		w.waiter.Later(w.exchange)
	}
}

// handOver leaves a call to goroutines: that of its flight, and whatever its Waiter starts.
func (l *Line) handOver(w *call) {
	if !w.got.nothing() {
		w.deliver(w.got)
	}
	sent := w
	if w.asked.IsZero() {
		sent = nil
	}
	go l.client.fly(context.Background(), w.s, w.question(), w.found.flight, sent)
	w.waiter.Later(w.exchange)
}

// Tick does what is due, and says how long there is nothing more; ok is false if that is for good.
func (l *Line) Tick(now time.Time) (next time.Duration, ok bool) {
	var over []*call
	l.mu.Lock()
	for w := l.sent.first; w != nil && now.Sub(w.since) >= firstTry; w = l.sent.first {
		l.move(w, left, now)
		over = append(over, w)
	}
	over = l.hurry(over, now)
	until, ok := l.ports.sweep(now)
	soon := func(w *call, after time.Duration) {
		if w != nil && (!ok || w.since.Add(after).Before(until)) {
			until, ok = w.since.Add(after), true
		}
	}
	soon(l.sent.first, firstTry)
	soon(l.held.first, patience)
	l.mu.Unlock()
	for _, w := range over {
		l.end(w)
	}
	return until.Sub(now), ok
}

// Leave hands over the calls of Waiters that do not wait for the Line any more.
func (l *Line) Leave(gone func(Waiter) bool) {
	now := time.Now()
	var over []*call
	l.mu.Lock()
	for _, list := range [...]*calls{&l.sent, &l.held} {
		for w := list.first; w != nil; {
			next := w.next
			if gone(w.waiter) {
				l.move(w, left, now)
				over = append(over, w)
			}
			w = next
		}
	}
	l.mu.Unlock()
	for _, w := range over {
		l.end(w)
	}
}

// Close ends the Line: its calls are handed over, and its sockets closed. None of its methods may be called
// after that.
func (l *Line) Close() {
	l.Leave(func(Waiter) bool { return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.ports.all {
		l.ports.close(p)
	}
	clear(l.ports.idle)
}
