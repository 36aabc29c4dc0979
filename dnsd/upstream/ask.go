package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// maxTries bounds how often one question is sent when nobody answers: what fits into the budget.
const maxTries = 3

// errUnusable goes with a reply that is worth handing on only if no other server has a better one.
var errUnusable = errors.New("no usable answer")

// round is one question on its way through the servers. Only the goroutine in ask touches it.
type round struct {
	c       *Client
	s       Servers
	q       *question
	servers []netip.AddrPort // still worth asking, the next one first
	asked   []attempt        // in the order sent; its capacity is how many there may be
	pending int
	results chan attempt
	best    attempt // with the least bad of the unusable replies, if there is one
	err     error   // why the last one to fail failed
}

// attempt is one try with one server, and how it ended.
type attempt struct {
	server netip.AddrPort
	began  time.Time
	reply  *dns.Msg
	err    error
}

// ask puts q to the servers until one gives a usable reply. The next server is asked when one refuses,
// or stays silent for a while; whoever was asked before may still answer. Without a usable reply it
// returns the best of the others beside the error. by is the server that gave the reply. If the first one has
// been sent the question already, sent is what there is to wait for; else it is nil.
func (c *Client) ask(ctx context.Context, s Servers, q *question, sent *call) (reply *dns.Msg, by netip.AddrPort, err error) {
	began := time.Now()
	if sent != nil {
		began = sent.began
	}
	ctx, cancel := context.WithDeadline(ctx, began.Add(budget))
	defer cancel()
	order, probe := c.health.order(s, time.Now())
	if probe.IsValid() {
		go c.probe(context.WithoutCancel(ctx), s, probe, q)
	}
	tries := max(maxTries, len(order))
	r := &round{c: c, s: s, q: q, servers: order,
		asked: make([]attempt, 0, tries), results: make(chan attempt, tries)}
	if sent != nil {
		r.goOn(ctx, sent)
	} else {
		r.next(ctx)
	}
	timer := time.NewTimer(time.Until(began.Add(firstTry)))
	defer timer.Stop()
	for r.pending > 0 {
		select {
		case a := <-r.results:
			r.pending--
			if a.err == nil {
				return a.reply, a.server, nil
			}
			if ctx.Err() != nil {
				r.err = context.Cause(ctx)
				return r.best.reply, r.best.server, r.failure()
			}
			r.drop(a)
			if r.next(ctx) {
				timer.Reset(nextTry)
			}
		case <-timer.C:
			if last := r.asked[len(r.asked)-1]; slices.Contains(r.servers, last.server) {
				c.health.silent(s, last.server, last.began)
			}
			r.next(ctx)
			timer.Reset(nextTry)
		case <-ctx.Done():
			r.err = context.Cause(ctx)
			return r.best.reply, r.best.server, r.failure()
		}
	}
	return r.best.reply, r.best.server, r.failure()
}

// next asks the server whose turn it is, unless none is left or the question was sent often enough.
// Everybody gets a turn before anybody gets a second one.
func (r *round) next(ctx context.Context) bool {
	if len(r.servers) == 0 || len(r.asked) == cap(r.asked) {
		return false
	}
	a := attempt{server: r.servers[0], began: time.Now()}
	r.servers = append(r.servers[1:], a.server)
	packet := r.q.wire
	if r.times(a.server) == 1 {
		packet = r.c.loops.mark(packet) // silent once: it may be waiting for ourselves
	}
	r.try(ctx, a, packet, func(ctx context.Context) (*dns.Msg, error) {
		return r.c.send(ctx, r.s, r.s.network(a.server), a.server, r.q, packet)
	})
	return true
}

// goOn is next for a question that was sent by a Line.
func (r *round) goOn(ctx context.Context, w *call) {
	last := slices.DeleteFunc(r.servers, func(s netip.AddrPort) bool { return s == w.server })
	r.servers = append(last, w.server)
	r.try(ctx, attempt{server: w.server, began: w.asked}, r.q.wire, w.wait)
}

// try has packet sent by first, and what it takes to make an answer of what comes back done.
func (r *round) try(ctx context.Context, a attempt, packet []byte, first func(context.Context) (*dns.Msg, error)) {
	r.asked = append(r.asked, a)
	r.pending++
	go func() {
		a.reply, a.err = r.c.try(ctx, r.s, a.server, r.q, packet, first)
		r.results <- a
	}()
}

// times is how often a server was asked.
func (r *round) times(server netip.AddrPort) (n int) {
	for _, a := range r.asked {
		if a.server == server {
			n++
		}
	}
	return n
}

// drop takes a server that has said no, or cannot be reached, off the list.
func (r *round) drop(a attempt) {
	r.servers = slices.DeleteFunc(r.servers, func(s netip.AddrPort) bool { return s == a.server })
	r.err = fmt.Errorf("%s: %w", a.server, a.err)
	if a.reply == nil && !errors.Is(a.err, errUnsent) {
		r.c.health.silent(r.s, a.server, a.began)
	}
	best := r.best.reply
	if a.reply != nil && (best == nil || best.Rcode != dns.RcodeSuccess && a.reply.Rcode == dns.RcodeSuccess) {
		r.best = a
	}
}

func (r *round) failure() error {
	var servers []netip.AddrPort
	for _, a := range r.asked {
		if !slices.Contains(servers, a.server) {
			servers = append(servers, a.server)
		}
	}
	if errors.Is(r.err, context.DeadlineExceeded) {
		r.err = fmt.Errorf("no answer in time: %w", r.err)
	}
	return fmt.Errorf("asking %v for %s %s: %w", servers, r.q.Name, dns.TypeToString[r.q.Qtype], r.err)
}

// probe asks a server that is known to be silent, for nobody but the record of who is alive.
func (c *Client) probe(ctx context.Context, s Servers, server netip.AddrPort, q *question) {
	ctx, cancel := context.WithTimeout(ctx, firstTry)
	defer cancel()
	_, _ = c.send(ctx, s, s.network(server), server, q, q.wire) // an answer is noted where it arrives
}

// try asks one server, with packet at first, which first sends. A reply beside an error is no answer, but
// better than nothing.
func (c *Client) try(ctx context.Context, s Servers, server netip.AddrPort, q *question, packet []byte,
	first func(context.Context) (*dns.Msg, error)) (*dns.Msg, error) {
	reply, err := c.fetch(ctx, s, server, q, packet, first)
	if reply == nil {
		return nil, err
	}
	if why := judge(reply, q.Question); why != "" && err == nil {
		c.health.refused(server)
		err = fmt.Errorf("%w: %s", errUnusable, why)
	}
	return reply, err
}

// fetch does what it takes to have a server's whole reply: without EDNS if the server does not know it
// (RFC 6891, section 7), over TCP if the reply is cut short, or if somebody seems to be guessing at it
// (RFC 5452, section 9.1). If TCP does not work, the short one comes back beside the error.
func (c *Client) fetch(ctx context.Context, s Servers, server netip.AddrPort, q *question, packet []byte,
	first func(context.Context) (*dns.Msg, error)) (*dns.Msg, error) {
	network := s.network(server)
	reply, err := first(ctx)
	if err == nil && refusesEDNS(reply) {
		packet = q.bare
		reply, err = c.send(ctx, s, network, server, q, packet)
	}
	if network != "udp" || !errors.Is(err, errGuessed) && (err != nil || !reply.Truncated) {
		return reply, err
	}
	ctx, cancel := context.WithTimeout(ctx, firstTry)
	defer cancel()
	whole, err := c.send(ctx, s, "tcp", server, q, packet)
	if err != nil {
		return reply, fmt.Errorf("over TCP: %w", err)
	}
	return whole, nil
}
