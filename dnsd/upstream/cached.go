package upstream

import (
	"encoding/binary"
	"time"

	"github.com/miekg/dns"
)

// Query is what matters of a plain query of class IN to who remembers its answer.
type Query struct {
	// Name is in lower case, with its final dot and without escapes. It is not kept.
	Name  string
	Qtype uint16
	// RD, AD and CD are the query's bits, DO that of its EDNS.
	RD, AD, CD, DO bool
	// Guess says that the name is one of several a resolver tries in turn, and not likely to exist.
	Guess bool
}

// Cached is Exchange for where that takes neither asking nor waiting: it copies the message that answers
// q to the beginning of buf, its TTLs counted down, and returns it. It returns nil, and counts nothing,
// if no fresh answer of at most limit bytes is remembered, or if it is time to ask for a new one.
//
// The header and the spelling of the name are those of the message as it came, and it has no additional
// records. It does not block, and allocates only if buf is too short.
func (c *Client) Cached(s Servers, q Query, buf []byte, limit int) []byte {
	question := dns.Question{Name: q.Name, Qtype: q.Qtype, Qclass: dns.ClassINET}
	s = c.route(s, question)
	var space [keyBytes]byte
	key := appendQuestionKey(space[:0], s, [...]bool{q.RD, q.CD, q.AD, q.DO, s.TCP}, question)
	wire, age := c.cache.fresh(key, limit, time.Now())
	if wire == nil {
		return nil
	}
	wire = append(buf[:0], wire...)
	if !countDown(wire, uint32(age/time.Second)) {
		return nil
	}
	c.counts.hits.Add(1)
	return wire
}

// fresh returns the answer under key, and its age, unless find had more to do than to return it.
func (c *cache) fresh(key []byte, limit int, now time.Time) (wire []byte, age time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	element := c.entries[string(key)]
	if element == nil {
		return nil, 0
	}
	e := element.Value.(*entry)
	left := e.expires.Sub(now)
	if len(e.wire) == 0 || len(e.wire) > limit || left <= 0 || left < e.expires.Sub(e.stored)/10 {
		return nil, 0
	}
	e.use(element, now)
	e.hits++
	return e.wire, now.Sub(e.stored)
}

// countDown lowers the TTLs of wire by age, in seconds. It reports false if wire has anything but one
// question, answers and authority.
func countDown(wire []byte, age uint32) bool {
	if binary.BigEndian.Uint16(wire[4:]) != 1 || binary.BigEndian.Uint16(wire[10:]) != 0 {
		return false
	}
	rest := afterName(wire[headerBytes:])
	if len(rest) < 4 {
		return false
	}
	rest = rest[4:]
	for range int(binary.BigEndian.Uint16(wire[6:])) + int(binary.BigEndian.Uint16(wire[8:])) {
		const fixed = 10 // type, class, TTL, length of the data
		if rest = afterName(rest); len(rest) < fixed {
			return false
		}
		ttl := binary.BigEndian.Uint32(rest[4:])
		binary.BigEndian.PutUint32(rest[4:], ttl-min(ttl, age))
		size := fixed + int(binary.BigEndian.Uint16(rest[8:]))
		if len(rest) < size {
			return false
		}
		rest = rest[size:]
	}
	return len(rest) == 0
}

// afterName returns what follows the name that b begins with, nothing if that is not whole.
func afterName(b []byte) []byte {
	for len(b) > 0 {
		size := int(b[0])
		switch {
		case size == 0:
			return b[1:]
		case size >= 0xc0: // a pointer ends a name
			return b[min(2, len(b)):]
		case len(b) <= size:
			return nil
		}
		b = b[1+size:]
	}
	return nil
}
