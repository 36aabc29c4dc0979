package upstream

import (
	"encoding/binary"
	"time"

	"github.com/miekg/dns"
)

// A resolver asks for A and AAAA of a name at once. What becomes of the one may answer the other: a name that
// is denied for A does not exist (RFC 2308, section 5), and one that is denied for AAAA alone does, whatever
// its server says (see withoutAAAA). So a call for AAAA may be held until the call for A of the same name, its
// twin from then on, is over:
//
//   - a Guess, before it is sent: if A is denied it never is, which saves a packet;
//   - any that was denied while A is under way: the denial stands if A is denied too. If not it is left.
//
// It is held for as long as patience, but not beyond its twin: then a Guess is sent, and a denial is left.

// patience is how long a call is held. Nearly every server that is near answers within it.
const patience = 50 * time.Millisecond

// spared says whether w is a question that the outcome of another may answer, or change: see withoutAAAA.
func (w *call) spared() bool {
	return w.qtype() == dns.TypeAAAA && w.query[len(w.query)-4]&0x80 == 0
}

// hold has w, a guess that is not sent yet, held if its twin is under way.
func (l *Line) hold(w *call, now time.Time) bool {
	if !w.spared() {
		return false
	}
	_, other := l.client.cache.sibling(w.found.flight.key, now)
	return l.pair(w, other, now)
}

// pair has w held for other, if that is under way on this Line.
func (l *Line) pair(w, other *call, now time.Time) bool {
	if other == nil || other.line != l || other.state != sent || other.twin != nil {
		return false
	}
	l.move(w, held, now)
	w.twin, other.twin = other, w
	return true
}

// decide moves a call on that was sent, and whose first try has ended.
func (l *Line) decide(w *call, now time.Time) {
	switch {
	case w.got.plain == nil:
		l.move(w, left, now)
	case w.got.plain.denied && w.spared():
		denied, other := l.client.cache.sibling(w.found.flight.key, now)
		switch {
		case denied:
			l.move(w, done, now)
		case !l.pair(w, other, now):
			l.move(w, left, now)
		}
	default:
		l.move(w, done, now)
	}
}

// goOn goes on with the call that is held for w, which is over.
func (l *Line) goOn(w *call) {
	l.mu.Lock()
	t := w.twin
	if t == nil {
		l.mu.Unlock()
		return
	}
	now := time.Now()
	switch denied := w.state == done && w.got.plain.denied; {
	case denied && t.got.plain == nil:
		t.got = received{plain: t.likewise(w.got.plain), at: w.got.at}
		l.move(t, done, now)
	case denied:
		l.move(t, done, now)
	default:
		l.release(t, now)
	}
	over := t.over()
	l.mu.Unlock()
	if over {
		l.end(t)
	}
}

// likewise is what the outcome of w's twin, a denial, is for w.
func (w *call) likewise(twin *outcome) *outcome {
	own := *twin
	own.wire = append([]byte(nil), twin.wire...)
	binary.BigEndian.PutUint16(own.wire[headerBytes+len(w.section())-4:], dns.TypeAAAA)
	return &own
}

// release has a call that is held wait no more.
func (l *Line) release(w *call, now time.Time) {
	if w.got.plain != nil {
		l.move(w, left, now)
	} else {
		l.send(w, now)
	}
}

// hurry releases the calls that have been held for long enough, and appends those to over that are by that.
func (l *Line) hurry(over []*call, now time.Time) []*call {
	for w := l.held.first; w != nil && now.Sub(w.since) >= patience; w = l.held.first {
		if l.release(w, now); w.over() {
			over = append(over, w)
		}
	}
	return over
}
