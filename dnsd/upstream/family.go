package upstream

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// withoutAAAA turns what ask returned for an AAAA question into "no such record" where it is a failure, or
// denies the name, and yet the name has an A record: some load balancers and home routers know of nothing
// but those (RFC 4074 section 4), and musl's resolver takes their word for it that the whole name is not
// there, or waits for five seconds. The A question is nearly always being asked at the same time by the
// same client, so that this costs nothing. It reports whether it did.
//
// A client that wants signatures gets what there is: it would not believe us.
func (c *Client) withoutAAAA(ctx context.Context, s Servers, q *question, reply *dns.Msg, err error) (*dns.Msg, bool) {
	if q.Qtype != dns.TypeAAAA || q.Qclass != dns.ClassINET || wantsDNSSEC(q.message()) || errors.Is(err, errUnsent) ||
		err == nil && reply.Rcode == dns.RcodeSuccess {
		return nil, false
	}
	patience := firstTry
	if reply == nil {
		patience = 100 * time.Millisecond // the client has waited for long enough
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	question := q.message()
	question.Question[0].Qtype, question.Extra = dns.TypeA, nil
	a, failed := c.Exchange(ctx, s, question)
	if failed != nil || a.Rcode != dns.RcodeSuccess || !slices.ContainsFunc(a.Answer, isA) {
		return nil, false
	}
	m := new(dns.Msg).SetReply(q.message())
	m.RecursionAvailable = true
	if reply != nil && reply.Rcode == dns.RcodeNameError {
		m.Ns = reply.Ns // with how long to believe it
	}
	m.SetEdns0(udpSize, false)
	explain(m, dns.ExtendedErrorCodeOther, "the nameserver has no answer to this, but has one for A")
	return m, true
}

func isA(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeA }

// message is the question as a message of the caller's own.
func (q *question) message() *dns.Msg {
	m := new(dns.Msg)
	_ = m.Unpack(q.wire) // which we packed
	return m
}
