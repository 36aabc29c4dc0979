package upstream

import (
	"container/list"
	"encoding/binary"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// keyBytes is enough for the key of nearly every question; a longer one costs an allocation.
	keyBytes = 384
	// nameAt is where the name begins in a key.
	nameAt = 5
	// entryBytes is what an entry takes besides its key and its message.
	entryBytes = 384
	// maxFlights bounds the questions being asked at once, each of which has a socket or two.
	maxFlights = 1024
	// maxStale is how long past its time an answer may be served when there is no better (RFC 8767).
	maxStale = 24 * time.Hour
	// A failure is remembered this long at first, and twice as long each time it happens again, up to
	// the last (RFC 9520, section 3.2).
	failureFirst = time.Second
	failureLast  = 5 * time.Second
	// An answer that was asked for this often is renewed when a tenth of its time is left.
	popular = 3
)

// cache holds answers, failures and the questions being asked. Answers are kept packed: exact in size,
// without pointers, and every reader's copy is his own by nature.
type cache struct {
	mu      sync.Mutex
	limit   int
	bytes   int
	entries map[string]*list.Element // of *entry
	flights map[string]*flight
	shares  map[Dialer]*share
	evicted uint64
	epoch   uint64 // failures of an earlier one are forgiven
}

// entry is what is known about one question.
type entry struct {
	key   string
	share *share
	used  time.Time
	// The last good answer; wire is nil if there never was one.
	wire            []byte
	stored, expires time.Time
	hits            int
	// The failures since.
	failures int
	failed   outcome
	until    time.Time
	epoch    uint64
	// Under the key of a subtree, and only there.
	subtree subtree
}

func (e *entry) size() int {
	return entryBytes + len(e.key) + len(e.wire) + len(e.failed.wire) + len(e.subtree.zone) + len(e.subtree.witness)
}

func newCache(limit int) *cache {
	return &cache{limit: limit, entries: make(map[string]*list.Element), flights: make(map[string]*flight),
		shares: make(map[Dialer]*share)}
}

// appendKey appends what two questions must have in common to have the same answer, unambiguously: the
// bits that change it, type, class, name, servers, scope.
func appendKey(b []byte, s Servers, q *dns.Msg) []byte {
	bits := [...]bool{q.RecursionDesired, q.CheckingDisabled, q.AuthenticatedData, wantsDNSSEC(q), s.TCP}
	return appendQuestionKey(b, s, bits, q.Question[0])
}

func appendQuestionKey(b []byte, s Servers, set [5]bool, q dns.Question) []byte {
	var bits byte
	for i, bit := range set {
		if bit {
			bits |= 1 << i
		}
	}
	b = append(b, bits)
	b = binary.BigEndian.AppendUint16(b, q.Qtype)
	b = binary.BigEndian.AppendUint16(b, q.Qclass)
	name := q.Name
	for i := range len(name) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	b = append(b, 0, byte(len(s.Addrs))) // a name in text has no NUL
	for _, a := range s.Addrs {
		ip := a.Addr().As16()
		b = append(b, ip[:]...)
		b = append(b, a.Addr().Zone()...)
		b = append(b, 0)
		b = binary.BigEndian.AppendUint16(b, a.Port())
	}
	return append(b, s.Scope...)
}

// find says what to do about a question that may be asked of s: use what it returns, or wait for somebody to
// ask.
func (c *cache) find(key []byte, s Servers, now time.Time) (f found) {
	c.mu.Lock()
	defer c.mu.Unlock()
	element := c.entries[string(key)]
	if element == nil {
		if e := c.cut(key, now); e != nil {
			f.wire, f.age, f.cut = e.wire, now.Sub(e.stored), true
			return f
		}
		f.wait = true
		c.join(&f, key, s, now)
		return f
	}
	e := element.Value.(*entry)
	e.use(element, now)
	if e.wire != nil && now.Before(e.expires.Add(maxStale)) {
		f.wire, f.age, f.past = e.wire, now.Sub(e.stored), !now.Before(e.expires)
	}
	remembered := e.failures > 0 && now.Before(e.until) && e.epoch == c.epoch &&
		(e.failed.err == nil || sameDialer(e.failed.by, s.Dial))
	switch {
	case f.wire != nil && !f.past:
		e.hits++
		if e.hits >= popular && e.expires.Sub(now) < e.expires.Sub(e.stored)/10 && !remembered {
			c.join(&f, key, s, now)
		}
	case remembered:
		f.failing = true
		if f.wire == nil {
			f.failed, f.err = e.failed, e.failed.err
		}
	case f.wire != nil && e.failures > 0:
		// It failed not long ago and may again: nobody needs to wait for that.
		c.join(&f, key, s, now)
	default:
		f.wait = true
		c.join(&f, key, s, now)
	}
	return f
}

// start is find for a question that can be asked at once: it finds a flight to lead and to wait for, or
// nothing where there is more to it. by is told to whoever asks for by of the flight.
func (c *cache) start(key []byte, by *call, now time.Time) (f found, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flights[string(key)] != nil {
		return f, false
	}
	if element := c.entries[string(key)]; element != nil {
		e := element.Value.(*entry)
		if e.failures > 0 || now.Before(e.expires) {
			return f, false
		}
		if e.wire != nil && now.Before(e.expires.Add(maxStale)) {
			e.use(element, now)
			f.wire, f.age, f.past = e.wire, now.Sub(e.stored), true
		}
	} else if c.cut(key, now) != nil {
		return f, false
	}
	f.wait = true
	if c.join(&f, key, by.s, now); !f.lead {
		return found{}, false
	}
	f.flight.call = by
	return f, true
}

// sibling says what is known of the question that differs from key, of type AAAA, in asking for A: that its
// name is denied, or whose call it is being asked by.
func (c *cache) sibling(key string, now time.Time) (denied bool, asked *call) {
	var buf [keyBytes]byte
	k := append(buf[:0], key...)
	binary.BigEndian.PutUint16(k[1:], dns.TypeA)
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flights[string(k)]; f != nil {
		return false, f.call
	}
	if element := c.entries[string(k)]; element != nil {
		e := element.Value.(*entry)
		denied = e.wire != nil && now.Before(e.expires) && e.wire[3]&0xf == dns.RcodeNameError
	}
	return denied, nil
}

// join finds the flight for key, or makes one that the finder leads, if there is room.
func (c *cache) join(f *found, key []byte, s Servers, now time.Time) {
	if f.flight = c.flights[string(key)]; f.flight != nil {
		return
	}
	of := s.asker()
	if !c.room(of, f.wait) {
		f.wait = false
		if f.wire == nil {
			f.err = ErrBusy
		}
		return
	}
	f.lead = true
	f.flight = &flight{key: string(key), share: c.share(of), began: now, done: make(chan struct{})}
	f.flight.share.flights++
	c.flights[f.flight.key] = f.flight
}

// land ends a flight and remembers its outcome.
func (c *cache) land(f *flight, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.flights, f.key)
	c.remember(f, now)
	f.share.flights-- // only now, so that the share is there
	c.tidy(f.share)
}

// remember keeps what came of f, for as long as that is worth anything.
func (c *cache) remember(f *flight, now time.Time) {
	if f.unsent || f.alien || !f.failed && f.ttl == 0 {
		// Nothing to remember; and an older answer must not outlive one that says "only now".
		if !f.unsent && !f.alien {
			c.remove(c.entries[f.key])
			c.learn(f, now)
		}
		return
	}
	e := entry{key: f.key}
	if old := c.entries[f.key]; old != nil {
		e = *old.Value.(*entry)
	}
	if f.failed {
		if e.epoch != c.epoch {
			e.failures = 0
		}
		e.until = now.Add(min(failureFirst<<min(e.failures, 8), failureLast))
		e.failures++
		e.failed, e.epoch = f.outcome, c.epoch
	} else {
		e = entry{key: f.key, wire: f.wire, stored: now, expires: now.Add(f.ttl)}
		c.learn(f, now)
	}
	c.put(e, f.share, now)
}

// put keeps e, which s has a flight for, in the place of what was under its key.
func (c *cache) put(e entry, s *share, now time.Time) {
	c.remove(c.entries[e.key])
	e.share, e.used = s, now
	c.entries[e.key] = s.recent.PushFront(&e)
	c.bytes += e.size()
	s.bytes += e.size()
	for c.bytes > c.limit {
		c.remove(c.loser(s, now).recent.Back())
		c.evicted++
	}
}

// remove takes an element out, if there is one.
func (c *cache) remove(element *list.Element) {
	if element == nil {
		return
	}
	e := element.Value.(*entry)
	e.share.recent.Remove(element)
	delete(c.entries, e.key)
	c.bytes -= e.size()
	e.share.bytes -= e.size()
	c.tidy(e.share)
}

// forgive makes every remembered failure worth another try.
func (c *cache) forgive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
}
