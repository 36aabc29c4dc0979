package serve

import (
	"bytes"
	"context"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/dnsd/upstream"
)

// exchanger is upstream.Client's way to ask.
type exchanger func(context.Context, upstream.Servers, *dns.Msg) (*dns.Msg, error)

// forward is a plain query that waits for upstream: the question is on the Line of the loop that read it, and
// the reply is written by that loop. It holds a slot of its pod's.
type forward struct {
	d      *datagrams
	space  []byte // what its reply may be written into, by the loop
	from   peer
	query  arrival
	packet []byte
	began  time.Time
	kind   names.Kind
	row    *names.Row
}

// forward has the i-th message of b asked, for which a slot was taken, and reports whether it is.
func (d *datagrams) forward(line *upstream.Line, b *batch, i int, v *verdict, query *arrival) bool {
	var q plainQuery
	q.read(d.network, b.query(i)) // as before
	f := &forward{d: d, space: b.space(i), from: *b.peer(i), query: *query, packet: bytes.Clone(b.query(i)),
		began: time.Now(), kind: v.kind, row: v.row}
	f.query.packet = f.packet
	d.asking.Add(1)
	if line.Ask(d.client.Upstream, q.question(&d.client.Client), f) {
		return true
	}
	d.asking.Done()
	return false
}

// question is q for upstream.
func (q *plainQuery) question(c *names.Client) upstream.Query {
	return upstream.Query{Name: q.name(), Qtype: q.qtype, RD: q.rd(), AD: q.ad(), CD: q.cd(), DO: q.do,
		Guess: c != nil && c.Guesses(q.name())}
}

// Answer sends the reply, if it fits. It is called by the loop, outside of a turn.
func (f *forward) Answer(reply []byte, server netip.AddrPort) bool {
	d := f.d
	var q plainQuery
	q.read(d.network, f.packet)
	if len(reply) > q.size-q.optSize() {
		return false
	}
	d.gate.counts.forwarded.Add(1)
	d.gate.counts.waited.add(time.Since(f.began))
	b := q.relay(append(f.space[:0], reply...), f.kind)
	v := verdict{source: asked, row: f.row, server: server, rcode: int(b[3] & maskRcode)}
	d.done(&v, &f.query) // before the client knows, so that what it asks next is counted next
	_ = d.udp.Control(func(fd uintptr) error { return f.from.send(int(fd), b) })
	<-d.gate.slots
	d.asking.Done()
	return true
}

// Later goes the long way.
func (f *forward) Later(ask func(context.Context, upstream.Servers, *dns.Msg) (*dns.Msg, error)) {
	reply, v, later := f.d.long(f.packet, nil, ask)
	if later == nil { // the table has learnt the name meanwhile
		later = func(context.Context) ([]byte, verdict) { return reply, v }
	}
	f.d.ask(later, f.began, f.query, f.from)
	f.d.asking.Done()
}

// forsake has what v still waits for on l's Line come to its end without it.
func (l *loop) forsake(v *service) {
	if l.line != nil {
		l.line.Leave(func(w upstream.Waiter) bool { return w.(*forward).d.service == v })
	}
}
