// Package upstream asks other nameservers, and remembers what they said.
//
// A question is asked of a list of servers that are held to know the same things. The first that can be
// reached answers it; a server that has stopped answering is asked last until it answers again. What was
// learnt is kept per list of servers, so that clients with different nameservers never see each other's
// answers, and is served past its time when no server answers (RFC 8767). Names in a Zone are asked of the
// zone's own servers, whoever asks.
//
// There are two roads: a Line, for plain questions on behalf of a loop that waits for sockets, as far as the
// first try gets; and Client.Exchange, with goroutines, for everything. What a Line cannot finish goes on there.
//
// The package knows nothing of pods: which network namespace a query leaves from, and which mark its
// socket carries, is the Dialer's business.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// How long a question may take. A stub resolver asks again after 2.5 s (musl) or 5 s (glibc), and an
// answer that comes later than that helps nobody.
const (
	firstTry   = time.Second            // for the first server, before another is asked beside it
	nextTry    = 700 * time.Millisecond // for each one after it
	staleAfter = 1800 * time.Millisecond
	budget     = 2400 * time.Millisecond
)

// ErrBusy says that too many questions are being asked at once. It says nothing about the name: the
// query is better dropped than answered.
var ErrBusy = errors.New("too many questions in flight")

// A Dialer opens the sockets that questions leave from. It is called with "udp" or "tcp" and the
// server's address and port, and must give a connected socket with a port of its own each time. It must
// be safe for concurrent use.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Servers says whom to ask, and from where.
type Servers struct {
	// Dial opens the sockets; nil means Options.Dial. Who has one Dialer (compared with ==) has one fate:
	// that nobody answers, and which server is down, is remembered only for those, since the others may
	// stand behind another NetworkPolicy. And they have one share, of the cache and of the questions under
	// way at once: who asks for very much takes little from others.
	Dial Dialer
	// Addrs are the servers in the order of preference: the first is the one that was asked for. It is
	// only read, and must not change during a call nor for 2.4 s after it.
	Addrs []netip.AddrPort
	// Scope separates clients for whom the same servers may have different answers, or who do not trust
	// each other's: only questions of one Scope and the same Addrs share answers.
	Scope string
	// TCP asks over TCP from the start.
	TCP bool
	// Exact says that these servers were named for this very question, so that no Zone takes it.
	Exact bool

	links map[netip.AddrPort]*link // of a Zone: the servers asked over TLS
	by    Dialer                   // of a Zone: that of who asks
}

// asker is the Dialer of who asks, whoever's sockets that takes.
func (s Servers) asker() Dialer {
	if s.by != nil {
		return s.by
	}
	return sole(s.Dial)
}

// Options are the settings of a Client. The zero value is ready to use.
type Options struct {
	// CacheBytes bounds the memory that remembered answers take, in bytes; 0 means DefaultCacheBytes.
	CacheBytes int
	// Zones are asked of servers of their own, the longest name first, whoever asks.
	Zones []Zone
	// Dial opens the sockets of questions that name no Dialer of their own, in the namespace dnsd itself
	// runs in; nil means a plain net.Dialer.
	Dial Dialer
}

// DefaultCacheBytes holds some 30,000 answers.
const DefaultCacheBytes = 16 << 20

// Client asks, and remembers. It is safe for concurrent use. It starts no goroutine that outlives the
// question it is for by more than 2.4 s, but for those of TLS connections, which end when idle for 30 s.
type Client struct {
	cache   *cache
	health  *health
	zones   map[string]Servers
	loops   *loops
	dialer  Dialer    // for who brings none
	buffers sync.Pool // of *[maxMessage]byte
	counts  struct {
		hits, cut, stale, misses, merged, remembered, background, busy, forwarded, loops atomic.Uint64
	}
}

// New makes a Client that remembers nothing yet.
func New(o Options) *Client {
	if o.CacheBytes == 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	if o.Dial == nil {
		o.Dial = &net.Dialer{}
	}
	c := &Client{cache: newCache(o.CacheBytes), health: newHealth(), zones: newZones(o.Zones), loops: newLoops(), dialer: o.Dial}
	c.buffers.New = func() any { return new([maxMessage]byte) }
	return c
}

// Exchange answers q, a query with one question, from memory or from the first of the servers that can:
// those of the Zone that q is in, else s.
//
// The reply is the caller's own, with q's ID and its spelling of the name, and carries an OPT record
// only if q has one. It is a message whatever its rcode; an error means that no server gave one, which
// takes at most 2.4 s, or that ctx ended, or ErrBusy. q itself is not changed. EDNS options of q go no
// further than this: a server sees its DO, CD, AD and RD bits, and a UDP size of our own.
//
// A question that is already being asked is waited for, not asked again. It goes on when ctx ends: for
// the others who wait, and for the memory.
func (c *Client) Exchange(ctx context.Context, s Servers, q *dns.Msg) (*dns.Msg, error) {
	s, err := c.prepare(s, q)
	if err != nil {
		return nil, err
	}
	if c.loops.marked(q) {
		return c.broken(q), nil
	}
	var buf [keyBytes]byte
	key := appendKey(buf[:0], s, q)
	began := time.Now()
	for again := true; ; again = false {
		f := c.cache.find(key, s, time.Now())
		if f.lead {
			go c.fly(context.Background(), s, newQuestion(q), f.flight, nil) // for all who wait, not for ctx alone
		}
		c.count(f)
		if !f.wait {
			if f.failing {
				c.lookOut(context.Background(), s, q)
			}
			trace(ctx, f.from(), netip.AddrPort{})
			return f.reply(q)
		}
		out, err := f.flight.wait(ctx, f.wire != nil)
		if err == nil && again && !f.lead && out.err != nil && !sameDialer(out.by, s.Dial) && time.Since(began) < firstTry {
			// Whoever led could not even ask, his pod being gone perhaps, or cut off. We may.
			continue
		}
		return c.conclude(ctx, q, f, out, err)
	}
}

// conclude is what who asked q is told when a flight has ended, or the waiting for it.
func (c *Client) conclude(ctx context.Context, q *dns.Msg, f found, out outcome, err error) (*dns.Msg, error) {
	switch {
	case err != nil:
		return nil, err
	case out.failed && f.wire != nil:
		c.counts.stale.Add(1)
		trace(ctx, Stale, netip.AddrPort{})
		return f.stale(q)
	}
	trace(ctx, Asked, out.server)
	return out.reply(q)
}

// Ask is Exchange past the memory: the servers are asked, always, and the answer is not kept. It is for
// callers with a schedule of their own. It ends with ctx.
func (c *Client) Ask(ctx context.Context, s Servers, q *dns.Msg) (*dns.Msg, error) {
	s, err := c.prepare(s, q)
	if err != nil {
		return nil, err
	}
	reply, _, err := c.ask(ctx, s, newQuestion(q), nil)
	if reply == nil {
		return nil, err
	}
	return newOutcome(q.Question[0], reply, err).reply(q)
}

// fly asks for everybody who waits for f, and has the outcome remembered. The question may have been sent
// already.
func (c *Client) fly(ctx context.Context, s Servers, q *question, f *flight, sent *call) {
	reply, server, err := c.ask(ctx, s, q, sent)
	less, ok := c.withoutAAAA(ctx, s, q, reply, err)
	if ok {
		reply, err = less, nil
	}
	f.outcome = newOutcome(q.Question, reply, err)
	if ok && f.ttl == 0 {
		f.ttl = failureLast
	}
	f.by, f.server = s.Dial, server
	c.cache.land(f, time.Now())
	close(f.done)
}

// lookOut finds out whether servers that had all stopped answering are back.
func (c *Client) lookOut(ctx context.Context, s Servers, q *dns.Msg) {
	if server := c.health.due(s, time.Now()); server.IsValid() {
		go c.probe(ctx, s, server, newQuestion(q))
	}
}

// sole returns d if it can be compared, else none.
func sole(d Dialer) Dialer {
	if d == nil || !reflect.ValueOf(d).Comparable() {
		return nil
	}
	return d
}

// sameDialer says whether a and b are one Dialer, as far as they can be compared at all.
func sameDialer(a, b Dialer) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return sole(a) != nil && sole(b) != nil && a == b
}

// count notes what became of one question.
func (c *Client) count(f found) {
	switch {
	case f.wait && f.lead:
		c.counts.misses.Add(1)
	case f.wait:
		c.counts.merged.Add(1)
	case errors.Is(f.err, ErrBusy):
		c.counts.busy.Add(1)
	case f.wire == nil:
		c.counts.remembered.Add(1)
	case f.past:
		c.counts.stale.Add(1)
	case f.cut:
		c.counts.cut.Add(1)
	default:
		c.counts.hits.Add(1)
	}
	if f.lead && !f.wait {
		c.counts.background.Add(1)
	}
}

// prepare says whom to ask q, or what makes that impossible.
func (c *Client) prepare(s Servers, q *dns.Msg) (Servers, error) {
	switch {
	case len(q.Question) != 1:
		return s, fmt.Errorf("a query must have one question, this one has %d", len(q.Question))
	case q.Opcode != dns.OpcodeQuery || q.Response:
		return s, errors.New("not a query")
	}
	if _, ok := dns.IsDomainName(q.Question[0].Name); !ok {
		return s, fmt.Errorf("%q is not a domain name", q.Question[0].Name)
	}
	if s = c.route(s, q.Question[0]); len(s.Addrs) == 0 {
		return s, errors.New("no nameserver to ask")
	}
	return s, nil
}
