package upstream

import (
	"context"
	"errors"
	"net/netip"

	"github.com/miekg/dns"
)

// Exchange answers q, a query with one question, from memory or from the first of the servers that can.
//
// The reply is the caller's own, with q's ID and its spelling of the name, and carries an OPT record
// only if q has one. It is a message whatever its rcode; an error means that no server gave one, which
// takes at most 2.4 s, or that ctx ended. q itself is not changed. EDNS options of q go no further than
// this: an upstream sees its DO, CD, AD and RD bits and a UDP size of our own.
func (c *Client) Exchange(ctx context.Context, s Servers, q *dns.Msg) (*dns.Msg, error) {
	return nil, errors.New("not yet")
}

// Ask is Exchange past the memory: the servers are asked, always, and the answer is not kept. It is for
// who has a schedule of his own.
func (c *Client) Ask(ctx context.Context, s Servers, q *dns.Msg) (*dns.Msg, error) {
	return nil, errors.New("not yet")
}

// Forward hands packet, a whole DNS message, to the first of the servers over network ("udp" or "tcp")
// and returns the message that comes back with the same ID, both untouched: for what is not a plain
// query, and may be signed. It blocks until then, until ctx ends, or for 5 s. A transfer of several
// messages is cut off after the first.
func (c *Client) Forward(ctx context.Context, s Servers, network string, packet []byte) ([]byte, error) {
	return nil, errors.New("not yet")
}

// Stats returns what has been counted since New.
func (c *Client) Stats() Stats { return Stats{} }

// ResolvConf reads the nameservers and search list of a resolv.conf(5).
func ResolvConf(path string) (servers []netip.AddrPort, search []string, err error) {
	return nil, nil, errors.New("not yet")
}

type (
	cache    struct{}
	health   struct{}
	counters struct{}
)

func newCache(int) *cache { return nil }
func newHealth() *health  { return nil }
