package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// diary is a cache and what was told to it, by which it is judged.
type diary struct {
	t       *testing.T
	cache   *cache
	now     time.Time
	keys    [][]byte
	queries []*dns.Msg
	dialers [2]Dialer
	flights []*flight
	told    map[string]told // by the wire of an answer, which is like no other
	last    map[string]string
}

// told is an answer that was told to the cache: of which key, when, and for how long.
type told struct {
	key    string
	at     time.Time
	ttl    time.Duration
	denied bool
}

func newDiary(t *testing.T) *diary {
	d := &diary{t: t, cache: newCache(8 * entryBytes), now: time.Unix(1e9, 0), told: map[string]told{}, last: map[string]string{}}
	d.dialers = [2]Dialer{new(pipes), new(pipes)}
	s := to(netip.MustParseAddrPort("192.0.2.1:53"))
	for _, name := range []string{"x.z.", "y.x.z.", "v.y.x.z.", "u.y.x.z.", "w.x.z.", "q.z.", "z."} {
		d.queries = append(d.queries, query(name, dns.TypeA))
		d.keys = append(d.keys, appendKey(nil, s, d.queries[len(d.queries)-1]))
	}
	return d
}

// look finds question i both ways, and starts a flight where the cache wants one.
func (d *diary) look(i int) {
	key := d.keys[i]
	quick, quickAge := d.cache.fresh(key, maxMessage, d.now)
	f := d.cache.find(key, Servers{Dial: d.dialers[i%len(d.dialers)]}, d.now)
	if f.lead {
		d.flights = append(d.flights, f.flight)
	}
	if quick != nil && (string(quick) != string(f.wire) || quickAge != f.age || f.past || f.cut) {
		d.t.Fatalf("%s: fresh says %x, find says %+v", topOf(key), quick, f)
	}
	if f.wire == nil {
		if !f.wait && f.err == nil && f.failed.wire == nil {
			d.t.Fatalf("%s: no answer, nor anybody to wait for: %+v", topOf(key), f)
		}
		return
	}
	what, ok := d.told[string(f.wire)]
	switch {
	case !ok || f.age != d.now.Sub(what.at):
		d.t.Fatalf("%s: %+v was never told, or not then", topOf(key), f)
	case f.cut && (!what.denied || f.age >= what.ttl || !dns.IsSubDomain(topOf([]byte(what.key)), topOf(key))):
		d.t.Fatalf("%s is denied for the sake of %s, %v ago", topOf(key), topOf([]byte(what.key)), f.age)
	case !f.cut && (what.key != string(key) || d.last[what.key] != string(f.wire)):
		d.t.Fatalf("%s: given what was said of %s, or an older answer", topOf(key), topOf([]byte(what.key)))
	case f.past != (f.age >= what.ttl) || f.age >= what.ttl+maxStale:
		d.t.Fatalf("%s: %v old, believed for %v, past: %v", topOf(key), f.age, what.ttl, f.past)
	}
}

// land ends the flight that has been under way for longest, in one of several ways.
func (d *diary) land(how byte) {
	if len(d.flights) == 0 {
		return
	}
	f := d.flights[0]
	d.flights = d.flights[1:]
	var q *dns.Msg
	for i := range d.keys {
		if string(d.keys[i]) == f.key {
			q = d.queries[i]
		}
	}
	var failure error
	m := reply(q, fmt.Sprintf("%s %d IN A 192.0.2.1", q.Question[0].Name, how/4))
	m.Id = uint16(len(d.told)) // which tells it from any other
	denied := how%4 == 1
	switch how % 4 {
	case 1:
		m.Answer, m.Rcode = nil, dns.RcodeNameError
		m.Ns = []dns.RR{rr(fmt.Sprintf("z. %d IN SOA ns. h. 1 1 1 1 20", how/4))}
	case 2:
		m, failure = nil, errors.New("nobody there")
	}
	f.outcome = newOutcome(q.Question[0], m, failure)
	if f.wire != nil {
		d.told[string(f.wire)] = told{key: f.key, at: d.now, ttl: f.ttl, denied: denied}
		d.last[f.key] = string(f.wire)
	}
	d.cache.land(f, d.now)
	close(f.done)
}

// check holds what the cache counts against what it has.
func (d *diary) check() {
	c, bytes, entries, flights := d.cache, 0, 0, 0
	for of, s := range c.shares {
		own := 0
		for e := s.recent.Front(); e != nil; e = e.Next() {
			entry := e.Value.(*entry)
			own += entry.size()
			if c.entries[entry.key] != e || entry.share != s {
				d.t.Fatalf("%q is not where it is looked for", entry.key)
			}
		}
		if own != s.bytes || s.of != of || s.flights == 0 && s.recent.Len() == 0 {
			d.t.Fatalf("a share of %d bytes, %d entries and %d flights counts %d bytes", own, s.recent.Len(), s.flights, s.bytes)
		}
		bytes, entries, flights = bytes+own, entries+s.recent.Len(), flights+s.flights
	}
	if bytes != c.bytes || c.bytes > c.limit || len(c.entries) != entries || flights != len(d.flights) || len(c.flights) != flights {
		d.t.Fatalf("%d bytes, counted as %d of %d; %d entries, %d in order; %d flights, %d begun, %d in shares",
			bytes, c.bytes, c.limit, len(c.entries), entries, len(c.flights), len(d.flights), flights)
	}
}

// FuzzCache asks a small cache, has its questions answered, and lets time pass, in any order: it gives
// nothing but the last answer to the very question, for as long as that was to be believed or as what it
// is, and denies nothing that was not denied; and it stays within its bounds.
func FuzzCache(f *testing.F) {
	f.Add([]byte{0, 0, 1, 16, 0, 0, 3, 8, 0, 0, 0, 0, 3, 99, 0, 0, 1, 2, 0, 0, 2, 0, 0, 0, 4, 99, 0, 0})         // renewed, stale, failed
	f.Add([]byte{0, 0, 1, 101, 0, 2, 1, 101, 0, 3, 1, 101, 0, 4, 0, 1, 1, 101, 0, 2, 3, 10, 0, 4, 3, 250, 0, 4}) // denied below one denied
	f.Add([]byte{0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 1, 8, 1, 9, 1, 12, 1, 8, 1, 8, 3, 1, 0, 1, 0, 2})                 // more than there is room for
	f.Fuzz(func(t *testing.T, program []byte) {
		d := newDiary(t)
		for ; len(program) > 1; program = program[2:] {
			switch argument := program[1]; program[0] % 5 {
			case 0:
				d.look(int(argument) % len(d.keys))
			case 1:
				d.land(argument)
			case 2:
				d.cache.forgive()
			case 3:
				d.now = d.now.Add(time.Duration(argument) * 250 * time.Millisecond)
			case 4:
				d.now = d.now.Add(time.Duration(argument) * 20 * time.Minute)
			}
			d.check()
		}
	})
}
