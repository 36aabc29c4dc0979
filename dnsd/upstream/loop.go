package upstream

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"github.com/miekg/dns"
)

const (
	// loopOption is an EDNS option for local use (RFC 6891, section 9).
	loopOption = 0xFE35
	// maxSame is how many copies of one packet may be on their way to one server at once: a client that
	// gets no answer sends the same packet again.
	maxSame = 3
)

// errLoop goes with a packet that is going round in a circle.
var errLoop = errors.New("the packet comes back to where it is sent from: the nameservers lead in a circle")

// loops knows what is our own when it comes back: from a server that forwards to us, or because a server
// is us.
//
// A question that comes back waits for itself, since questions are merged: so it goes round once, and
// ends when its time is up. That it was ours shows when a server that was silent is asked a second time:
// then the question carries an option with a number only we know, which forwarders hand on (those that do
// not leave it at the waiting). It is not there the first time, because there are servers and firewalls
// that drop what they do not know.
//
// Packets passed through untouched cannot be marked. Of one packet only so many copies may be under way.
type loops struct {
	number [8]byte

	mu       sync.Mutex
	underway map[string]int // by server and packet
}

func newLoops() *loops {
	l := &loops{underway: make(map[string]int)}
	_, _ = rand.Read(l.number[:]) // never fails
	return l
}

// mark returns wire, a question's with an OPT record without options at its end, with our number in it.
func (l *loops) mark(wire []byte) []byte {
	b := slices.Clone(wire[:len(wire)-2]) // the length of no options
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(l.number)))
	b = binary.BigEndian.AppendUint16(b, loopOption)
	b = binary.BigEndian.AppendUint16(b, uint16(len(l.number)))
	return append(b, l.number[:]...)
}

// marked says whether q carries our number.
func (l *loops) marked(q *dns.Msg) bool {
	opt := q.IsEdns0()
	return opt != nil && slices.ContainsFunc(opt.Option, func(o dns.EDNS0) bool {
		local, ok := o.(*dns.EDNS0_LOCAL)
		return ok && local.Code == loopOption && bytes.Equal(local.Data, l.number[:])
	})
}

// broken ends a loop: q is a question of our own.
func (c *Client) broken(q *dns.Msg) *dns.Msg {
	c.counts.loops.Add(1)
	m := address(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure), q)
	explain(m, dns.ExtendedErrorCodeOther, "this question came back to the server that asks it")
	return m
}

// enter notes that packet goes to server, until release. It fails if that goes on too often already.
func (l *loops) enter(server netip.AddrPort, packet []byte) (release func(), err error) {
	key := server.String() + string(packet)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.underway[key] == maxSame {
		return nil, errLoop
	}
	l.underway[key]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.underway[key]--; l.underway[key] == 0 {
			delete(l.underway, key)
		}
	}, nil
}
