package serve

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/nodens-dns/nodens/dnsd/names"
)

// Learned is a reply that follows from the table alone, for somebody who can give it in our place.
type Learned struct {
	Asker     uint64 // the Client's
	Namespace string // likewise
	Name      string // in lower case, with its final dot
	Qtype     uint16
	// Generation is that of the table.
	Generation uint64
	// Records are what follows the question, without OPT, and how many of them there are in the sections.
	// Addresses, if any, come last: Count records of Step bytes each, from Fixed on.
	Records              []byte
	Answers, Authorities uint16
	Rcode                uint8
	Fixed, Step, Count   int
}

// What is learned of all pods has room in one place, and to write it costs more than to answer. So each pod may
// have as much learned at once as it can use, and then no more than is asked anew in a mesh that changes: one
// that asks for names at random neither drives out what others have had learned nor slows them down.
const (
	lessonsAtOnce = 256
	lessonEvery   = 20 * time.Millisecond
)

// lessons are what a pod may still have learned.
type lessons struct{ paidUntil atomic.Int64 } // in the past for who has something left

// take takes one, if there is one left.
func (l *lessons) take(now time.Time) bool {
	for {
		was := l.paidUntil.Load()
		next := max(was, now.Add(-lessonsAtOnce*lessonEvery).UnixNano()) + int64(lessonEvery)
		if next > now.UnixNano() {
			return false
		}
		if l.paidUntil.CompareAndSwap(was, next) {
			return true
		}
	}
}

// teach tells who wants to know what became of a question that was answered from the table, if it was asked
// in a way that is likely to be met again by somebody who stands in front of us: plainly, over UDP.
func (k *socket) teach(q *plainQuery, t *names.Table, a *names.Answer, reply []byte) {
	if k.server.teach == nil || k.client.Asker == 0 || k.network != "udp" || q.options || a.Fleeting || reply[2]&bitTC != 0 ||
		!k.gate.lessons.take(time.Now()) {
		return
	}
	records := reply[headerSize+len(q.section) : len(reply)-q.optSize()]
	l := Learned{
		Asker: k.client.Asker, Namespace: k.client.Namespace, Name: string(q.text[:q.textLen]), Qtype: q.qtype, Generation: t.Generation(),
		Records: records, Count: len(a.Addresses), Rcode: reply[3] & maskRcode,
		Answers: binary.BigEndian.Uint16(reply[6:]), Authorities: binary.BigEndian.Uint16(reply[8:]),
	}
	if l.Count > 0 {
		l.Step = 2 + recordSize + sizeOf(a.Addresses[0])
		l.Fixed = len(records) - l.Count*l.Step
	}
	k.server.teach(l)
}

func sizeOf(addr netip.Addr) int { return addr.BitLen() / 8 }

// Authority is the SOA record of negative answers from its owner on, as it is where the zone is the name
// asked for, and the places in its data of the other two pointers to that name.
func Authority() (record []byte, pointers [2]int) {
	const zone = "zone."
	var p packer
	p.soa(zone, zone)
	pointers[0] = 2 + recordSize + len(soaServer) // a name is as long as text as it is on the wire
	pointers[1] = pointers[0] + 2 + len(soaMailbox)
	return p.b, pointers
}
