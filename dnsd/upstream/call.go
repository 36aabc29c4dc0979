package upstream

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// received is how a first try ended: with one of these, or not yet.
type received struct {
	plain *outcome
	reply *dns.Msg
	err   error
}

func (r received) nothing() bool { return r == received{} }

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

// deliver has whoever waits for w, which was left to him, know how its first try ended, if it has.
func (w *call) deliver(r received) {
	if r.plain != nil { // he knows nothing of those
		r.reply, r.err = w.question().parse(r.plain.wire, w.id)
		r.plain = nil
	}
	if !r.nothing() {
		select {
		case w.came <- r:
		default: // after an error
		}
	}
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
