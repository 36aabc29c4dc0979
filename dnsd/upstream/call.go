package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

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

	// The following are guarded by the Line's mu until the call is over. Then they do not change any more,
	// but for the port and what comes to it.
	state      state
	asked      time.Time // when it was sent, if it was
	got        received  // how its first try ended, if it has
	twin       *call     // that it is held for, and the other way round
	came       chan received
	port       *port // while an answer may come
	mismatched int

	list       *calls // that it is in since then, between these
	since      time.Time
	prev, next *call
}

// state says who has a call, and what for.
type state uint8

const (
	// held has the Line, until its twin is over, or for as long as patience.
	held state = iota + 1 // at first it is none of these: whoever makes it has it
	// sent has the Line, until a reply comes, or for as long as firstTry.
	sent
	// done has an answer. It is over: whoever moved it there ends it.
	done
	// left is over too, but others wait on, for what is yet to come, or came already.
	left
)

func (w *call) over() bool { return w.state >= done }

// received is how a first try ended: with one of these, or not yet.
type received struct {
	plain *outcome
	reply *dns.Msg
	err   error
	at    time.Time // when that came
}

func (r received) nothing() bool { return r.plain == nil && r.reply == nil && r.err == nil }

// receive reads until there is a reply that fits the question, an error, or nothing more to read for now.
func (w *call) receive(buf []byte) received {
	for {
		n, err := unix.Read(w.port.fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return received{}
		case err != nil:
			return received{err: err}
		}
		r := w.parse(buf[:n])
		if !errors.Is(r.err, errMismatch) {
			return r
		}
		w.line.client.health.mismatched(w.server, 1)
		if w.mismatched++; w.mismatched >= maxMismatched {
			return received{err: errGuessed}
		}
	}
}

// parse is question.parse, with less ado where packet is plain.
func (w *call) parse(packet []byte) (r received) {
	if len(packet) <= headerBytes || binary.BigEndian.Uint16(packet) != w.id || packet[2]&0xf8 != 0x80 ||
		binary.BigEndian.Uint16(packet[4:]) != 1 || !sameQuestion(packet[headerBytes:], w.section()) {
		r.reply, r.err = w.question().parse(packet, w.id)
		return r
	}
	if p, ok := readPlain(packet, w.section(), w.name); ok {
		r.plain = &outcome{wire: p.keep(packet), ttl: p.ttl, exists: p.exists, denied: p.denied, zone: p.zone}
		return r
	}
	r.reply, r.err = w.question().parse(packet, w.id)
	return r
}

// deliver has whoever waits for w know how its first try ended.
func (w *call) deliver(r received) {
	select {
	case w.came <- r:
	default: // after an error
	}
}

// wait is the first try of a call that was left: see Client.send.
func (w *call) wait(ctx context.Context) (*dns.Msg, error) {
	var r received
	select {
	case r = <-w.came:
	case <-ctx.Done():
		r.err = context.Cause(ctx)
	}
	if r.plain != nil {
		r.reply, r.err = w.question().parse(r.plain.wire, w.id)
	}
	w.line.mu.Lock()
	if w.port != nil {
		w.line.ports.close(w.port)
	}
	w.line.mu.Unlock()
	return w.line.client.note(ctx, w.s, w.server, w.asked, r.at, r.reply, r.err)
}

// exchange is Client.Exchange for w, whose flight somebody else sees to.
func (w *call) exchange(ctx context.Context, _ Servers, q *dns.Msg) (*dns.Msg, error) {
	out, err := w.found.flight.wait(ctx, w.found.wire != nil)
	return w.line.client.conclude(ctx, q, w.found, out, err)
}

// section is the question section of what was asked, in lower case.
func (w *call) section() []byte { return w.query[headerBytes : len(w.query)-optBytes] }

func (w *call) qtype() uint16 { return binary.BigEndian.Uint16(w.query[len(w.query)-optBytes-4:]) }

// question is what was asked, in the words of the rest of the package.
func (w *call) question() *question {
	m := new(dns.Msg)
	_ = m.Unpack(w.query) // which we packed
	return newQuestion(m)
}

// optBytes is the length of an OPT record without options.
const optBytes = 11

// pack is the packet that asks q, as newQuestion has it.
func (q Query) pack(id uint16) []byte {
	b := make([]byte, headerBytes, headerBytes+len(q.Name)+1+4+optBytes)
	binary.BigEndian.PutUint16(b, id)
	flag := func(on bool, bit byte) byte {
		if on {
			return bit
		}
		return 0
	}
	b[2] = flag(q.RD, 0x01)
	b[3] = flag(q.AD, 0x20) | flag(q.CD, 0x10)
	b[5], b[11] = 1, 1
	for start, i := 0, 0; i < len(q.Name); i++ {
		if q.Name[i] == '.' && i > start {
			b = append(append(b, byte(i-start)), q.Name[start:i]...)
			start = i + 1
		}
	}
	b = append(b, 0)
	b = binary.BigEndian.AppendUint16(b, q.Qtype)
	b = binary.BigEndian.AppendUint16(b, dns.ClassINET)
	return append(b, 0, 0, byte(dns.TypeOPT), udpSize>>8, udpSize&0xff, 0, 0, flag(q.DO, 0x80), 0, 0, 0)
}

// calls is a list of calls in the order they were added.
type calls struct{ first, last *call }

func (l *calls) add(w *call, now time.Time) {
	w.since = now
	if w.list, w.prev, w.next = l, l.last, nil; w.prev == nil {
		l.first = w
	} else {
		w.prev.next = w
	}
	l.last = w
}

// remove takes w out, if it is in.
func (l *calls) remove(w *call) {
	if w.list != l {
		return
	}
	if w.prev == nil {
		l.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.list, w.prev, w.next = nil, nil, nil
}
