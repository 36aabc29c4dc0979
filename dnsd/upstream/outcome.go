package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// outcome is how a question ended. It is immutable and shared; everybody unpacks a message of his own.
type outcome struct {
	wire   []byte         // the reply, packed; nil beside an error
	err    error          // why there is none
	failed bool           // no server gave a usable answer; wire is what one said instead
	unsent bool           // because we had no socket: nobody else is to blame
	alien  bool           // wire is about another name, and must not be remembered
	by     Dialer         // whose sockets it was asked from
	server netip.AddrPort // that wire came from
	ttl    time.Duration  // how long to believe wire; 0 means only now
	// What an answer says of the name asked for, and the zone whose SOA it has.
	exists, denied bool
	zone           string
}

// newOutcome packs what ask returned.
func newOutcome(q dns.Question, reply *dns.Msg, err error) outcome {
	out := outcome{failed: err != nil, unsent: errors.Is(err, errUnsent)}
	if reply == nil {
		out.err = err
		return out
	}
	out.alien = foreign(reply.Answer, q)
	if !out.failed {
		out.ttl = lifetime(reply, q)
		out.exists, out.denied, out.zone = existence(reply, q)
	} else if len(extendedErrors(reply)) == 0 {
		reply.SetEdns0(udpSize, false) // after trim there is none, or one with such errors
		explain(reply, dns.ExtendedErrorCodeNetworkError, err.Error())
	}
	reply.Compress = true
	wire, perr := reply.Pack()
	if perr == nil {
		// Some malformed records can be read and written, but then not be read again.
		_, perr = unpack(wire)
	}
	if perr != nil {
		return outcome{failed: true, err: fmt.Errorf("the answer to %s %s is malformed: %w", q.Name, dns.TypeToString[q.Qtype], perr)}
	}
	out.wire = wire
	return out
}

// reply is the outcome as it is told to who asked q.
func (out outcome) reply(q *dns.Msg) (*dns.Msg, error) {
	if out.err != nil {
		return nil, out.err
	}
	m, err := unpack(out.wire)
	if err != nil {
		return nil, err
	}
	return address(m, q), nil
}

// found is what the cache has for a question.
type found struct {
	wire    []byte        // an answer, or nil
	age     time.Duration // of wire
	past    bool          // wire is older than it may be, and good only if there is no better
	cut     bool          // wire is about a name above the one asked for, which does not exist
	failed  outcome       // a remembered failure, if there is no wire
	err     error         // ErrBusy, or a remembered failure without a message
	failing bool          // it failed not long ago, and is not asked again yet
	flight  *flight       // the question being asked, if it is
	lead    bool          // by us: the finder must start it
	wait    bool          // for the flight; else wire, failed or err is the answer
}

// reply is what was found as it is told to who asked q.
func (f found) reply(q *dns.Msg) (*dns.Msg, error) {
	switch {
	case f.err != nil:
		return nil, f.err
	case f.wire == nil:
		m, err := f.failed.reply(q)
		if err == nil {
			explain(m, dns.ExtendedErrorCodeCachedError, "")
		}
		return m, err
	case f.past:
		return f.stale(q)
	}
	m, err := unpack(f.wire)
	if err != nil {
		return nil, err
	}
	age := uint32(f.age / time.Second)
	setTTL(m, func(ttl uint32) uint32 { return ttl - min(ttl, age) })
	m.Authoritative = false
	return address(m, q), nil
}

// from says where that comes from.
func (f found) from() From {
	if f.past {
		return Stale
	}
	return Fresh
}

// stale is the answer that was found, although its time has passed.
func (f found) stale(q *dns.Msg) (*dns.Msg, error) {
	m, err := unpack(f.wire)
	if err != nil {
		return nil, err
	}
	setTTL(m, func(uint32) uint32 { return staleTTL })
	m.Authoritative = false
	code := dns.ExtendedErrorCodeStaleAnswer
	if m.Rcode == dns.RcodeNameError {
		code = dns.ExtendedErrorCodeStaleNXDOMAINAnswer
	}
	m = address(m, q)
	explain(m, code, "")
	return m, nil
}

// explain says in m why it is what it is (RFC 8914), if its asker speaks EDNS.
func explain(m *dns.Msg, code uint16, text string) {
	if opt := m.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: text})
	}
}

func setTTL(m *dns.Msg, to func(uint32) uint32) {
	for _, section := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range section {
			rr.Header().Ttl = to(rr.Header().Ttl)
		}
	}
}

func unpack(wire []byte) (*dns.Msg, error) {
	m := new(dns.Msg)
	if err := m.Unpack(wire); err != nil {
		return nil, fmt.Errorf("unpack answer: %w", err)
	}
	return m, nil
}

// flight is one question being asked, for everybody who waits for it.
type flight struct {
	key   string
	share *share // of who leads it
	began time.Time
	done  chan struct{} // closed when outcome is set
	call  *call         // of the Line that leads it, if one does
	outcome
}

// wait waits for the outcome. With something stale to fall back on it gives up when the flight has taken
// too long, with a failed outcome; the flight goes on.
func (f *flight) wait(ctx context.Context, fallback bool) (outcome, error) {
	var enough <-chan time.Time
	if fallback {
		timer := time.NewTimer(time.Until(f.began.Add(staleAfter)))
		defer timer.Stop()
		enough = timer.C
	}
	select {
	case <-f.done:
		return f.outcome, nil
	case <-enough:
		return outcome{failed: true}, nil
	case <-ctx.Done():
		return outcome{}, context.Cause(ctx)
	}
}
