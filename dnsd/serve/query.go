package serve

import (
	"bytes"
	"context"
	"errors"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/dnsd/upstream"
)

// maxUDPReply is what a datagram over IPv4 can carry. Clients are on the same node, over lo, so that
// whatever size they ask for arrives in one piece.
const maxUDPReply = 65507

// query is a plain question and how its reply is to look.
type query struct {
	server *Server
	client *Client
	msg    *dns.Msg
	opt    *dns.OPT // nil if the query has none
	size   int      // what the client takes, in bytes
}

// work is what is left to do where upstream has to be asked. It blocks until there is a reply, packed,
// or nil where the client gets none.
type work func(context.Context) []byte

// begin answers packet, from network "udp" or "tcp", if that takes no asking; the reply may lie in buf.
// Otherwise it returns the work that does. With neither, the packet is thrown away.
func (s *Server) begin(c *Client, network string, packet, buf []byte) ([]byte, work) {
	if len(packet) < headerSize {
		s.counts.malformed.Add(1)
		return nil, nil
	}
	if reply := s.shortcut(c, network, packet, buf); reply != nil {
		return reply, nil
	}
	return s.long(c, network, packet, buf)
}

// long is begin for everything: it takes the packet apart into a message, and makes one of the reply.
func (s *Server) long(c *Client, network string, packet, buf []byte) ([]byte, work) {
	m := new(dns.Msg)
	if err := m.Unpack(packet); err != nil || m.Response {
		return nil, s.pass(c, network, packet, nil)
	}
	if !plain(m) {
		return nil, s.pass(c, network, packet, m)
	}
	q := &query{server: s, client: c, msg: m, opt: m.IsEdns0(), size: maxReply(network, 0)}
	if q.opt != nil {
		q.size = maxReply(network, q.opt.UDPSize())
	}
	if q.opt != nil && q.opt.Version() != 0 {
		s.counts.refused.Add(1)
		r := q.reply()
		r.Rcode = dns.RcodeBadVers
		return q.pack(r, buf), nil
	}
	a := s.Table().Lookup(&c.Client, m.Question[0].Name, m.Question[0].Qtype)
	if a.Kind == names.Ours {
		return q.pack(q.answer(&a), buf), nil
	}
	return nil, func(ctx context.Context) []byte {
		if r := q.ask(ctx, &a); r != nil {
			return q.pack(r, nil)
		}
		return nil
	}
}

// maxReply is how much a client takes that announced this size, 0 if it did not.
func maxReply(network string, announced uint16) int {
	if network == "tcp" {
		return dns.MaxMsgSize
	}
	return min(max(int(announced), dns.MinMsgSize), maxUDPReply)
}

// plain reports whether m is a question that can be answered from a table or a cache: one question of
// class IN, not for a transfer, with nothing beside it but one OPT record. A signature (TSIG, SIG(0))
// covers the whole packet, so that only the server it is meant for can answer.
func plain(m *dns.Msg) bool {
	if m.Opcode != dns.OpcodeQuery || len(m.Question) != 1 || len(m.Answer)+len(m.Ns) > 0 {
		return false
	}
	q := m.Question[0]
	if q.Qclass != dns.ClassINET || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
		return false
	}
	return len(m.Extra) == 0 || len(m.Extra) == 1 && m.Extra[0].Header().Rrtype == dns.TypeOPT
}

// pass hands packet on as it is. m is what it says, or nil if it is no question at all: then silence
// is the only fitting reply to silence.
func (s *Server) pass(c *Client, network string, packet []byte, m *dns.Msg) work {
	packet = bytes.Clone(packet)
	return func(ctx context.Context) []byte {
		s.counts.passed.Add(1)
		reply, err := s.upstream.Forward(ctx, c.Upstream, network, packet)
		if err == nil {
			return reply
		}
		s.counts.failed.Add(1)
		if m == nil || errors.Is(err, upstream.ErrBusy) {
			return nil
		}
		q := &query{server: s, client: c, msg: m, opt: m.IsEdns0()}
		if reply, err = q.unreachable().Pack(); err != nil {
			return nil
		}
		return reply
	}
}

// reply starts a reply: the question as it was asked, RA since upstream recurses for us, and an OPT
// record only where one was sent (RFC 6891 section 6.1.1).
func (q *query) reply() *dns.Msg {
	r := new(dns.Msg).SetReply(q.msg)
	r.RecursionAvailable = true
	if q.opt != nil {
		r.SetEdns0(ednsSize, q.opt.Do())
	}
	return r
}

// pack writes r down, in buf if that is long enough, with TC and the records that fit if not all do: a
// stub resolver without TCP lives on those.
func (q *query) pack(r *dns.Msg, buf []byte) []byte {
	if r.Len() > q.size {
		r.Compress = true
		if opt := r.IsEdns0(); r.Len() > q.size {
			// What is merely additional goes first, and without TC (RFC 2181 section 9).
			if r.Extra = nil; opt != nil {
				r.Extra = []dns.RR{opt}
			}
		}
	}
	r.Truncate(q.size)
	if r.Truncated {
		q.server.counts.truncated.Add(1)
	}
	packed, err := r.PackBuffer(buf)
	if err != nil {
		// Some record cannot be written: one of upstream's, or a name no source should have let in.
		q.server.counts.failed.Add(1)
		if packed, err = q.failure(dns.ExtendedErrorCodeInvalidData, "a record of the answer cannot be written").Pack(); err != nil {
			return nil
		}
	}
	return packed
}

// failure is the reply where there is no answer to be had, with the reason for those who speak EDNS, as a
// number and in words (RFC 8914).
func (q *query) failure(code uint16, reason string) *dns.Msg {
	r := q.reply()
	r.Rcode = dns.RcodeServerFailure
	if opt := r.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: reason})
	}
	return r
}

// unreachable is the failure of everybody who could have been asked.
func (q *query) unreachable() *dns.Msg {
	return q.failure(dns.ExtendedErrorCodeNoReachableAuthority,
		"none of the nameservers "+q.client.Nameserver.Addr().String()+" and its peers answered")
}
