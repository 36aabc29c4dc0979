package serve

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/dnsd/upstream"
)

// maxUDPReply is what a datagram over IPv4 can carry. Clients are on the same node, over lo, so that
// whatever size they ask for arrives in one piece.
const maxUDPReply = 65507

// query is a plain question and how its reply is to look.
type query struct {
	socket *socket
	msg    *dns.Msg
	opt    *dns.OPT // nil if the query has none
	size   int      // what the client takes, in bytes
}

// verdict is what became of a query, for those who count and those who watch.
type verdict struct {
	source source
	row    *names.Row     // of the table, if it knew the name
	kind   names.Kind     // what the table had to say
	open   bool           // nothing yet: it is a plain question that is for upstream to answer
	server netip.AddrPort // which answered, if one was asked for this
	rcode  int            // of the reply, less than 0 for none
}

// work is what is left to do where upstream has to be asked. It blocks until there is a reply, packed,
// or nil where the client gets none.
type work func(context.Context) ([]byte, verdict)

// begin answers packet if that takes no asking; the reply may lie in buf. Otherwise it returns the work
// that does. With neither, the packet is thrown away.
func (k *socket) begin(packet, buf []byte) ([]byte, verdict, work) {
	if reply, v := k.shortcut(packet, buf); reply != nil {
		return reply, v, nil
	}
	return k.long(packet, buf, k.server.upstream.Exchange)
}

func (k *socket) malformed() verdict {
	k.gate.counts.malformed.Add(1)
	return verdict{source: malformed, rcode: -1}
}

func (k *socket) dropped() verdict {
	k.gate.counts.dropped.Add(1)
	return verdict{source: dropped, rcode: -1}
}

func (k *socket) busy() verdict {
	k.gate.counts.busy.Add(1)
	return verdict{source: busy, rcode: -1}
}

// wait does the work, and counts how long that has taken since it began.
func (k *socket) wait(ctx context.Context, later work, began time.Time) ([]byte, verdict) {
	reply, v := later(ctx)
	k.gate.counts.waited.add(time.Since(began))
	return reply, v
}

// long is begin for everything: it takes the packet apart into a message, and makes one of the reply. If
// upstream has to be asked then that is how.
func (k *socket) long(packet, buf []byte, how exchanger) ([]byte, verdict, work) {
	if len(packet) < headerSize {
		return nil, k.malformed(), nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(packet); err != nil || m.Response {
		return nil, verdict{}, k.pass(packet, nil)
	}
	if !plain(m) {
		return nil, verdict{}, k.pass(packet, m)
	}
	q := &query{socket: k, msg: m, opt: m.IsEdns0(), size: maxReply(k.network, 0)}
	if q.opt != nil {
		q.size = maxReply(k.network, q.opt.UDPSize())
	}
	if q.opt != nil && q.opt.Version() != 0 {
		k.gate.counts.refused.Add(1)
		r := q.reply()
		r.Rcode = dns.RcodeBadVers
		reply, v := q.pack(r, verdict{}, buf)
		return reply, v, nil
	}
	t := k.server.Table()
	a := t.Lookup(&k.client.Client, m.Question[0].Name, m.Question[0].Qtype)
	row := t.Row(&a)
	if a.Kind == names.Ours {
		reply, v := q.pack(q.answer(&a), verdict{source: k.server.sourceOf(row), row: row}, buf)
		return reply, v, nil
	}
	return nil, verdict{}, func(ctx context.Context) ([]byte, verdict) {
		r, v := q.ask(ctx, how, &a)
		v.row = row
		if r == nil {
			return nil, v
		}
		return q.pack(r, v, nil)
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
func (k *socket) pass(packet []byte, m *dns.Msg) work {
	packet = bytes.Clone(packet)
	return func(ctx context.Context) ([]byte, verdict) {
		counts := &k.gate.counts
		counts.passed.Add(1)
		reply, err := k.server.upstream.Forward(ctx, k.client.Upstream, k.network, packet)
		if err == nil {
			return reply, verdict{source: passed, server: k.client.Upstream.Addrs[0], rcode: int(reply[3] & maskRcode)}
		}
		if errors.Is(err, upstream.ErrBusy) {
			return nil, k.busy()
		}
		counts.failed.Add(1)
		if m == nil {
			return nil, verdict{source: failed, rcode: -1}
		}
		q := &query{socket: k, msg: m, opt: m.IsEdns0()}
		if reply, err = q.unreachable().Pack(); err != nil {
			return nil, verdict{source: failed, rcode: -1}
		}
		return reply, verdict{source: failed, rcode: dns.RcodeServerFailure}
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
// stub resolver without TCP lives on those. It returns v with the rcode.
func (q *query) pack(r *dns.Msg, v verdict, buf []byte) ([]byte, verdict) {
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
	counts := &q.socket.gate.counts
	if r.Truncated {
		counts.truncated.Add(1)
	}
	v.rcode = r.Rcode
	packed, err := r.PackBuffer(buf)
	if err != nil {
		// Some record cannot be written: one of upstream's, or a name no source should have let in.
		counts.failed.Add(1)
		v.rcode = dns.RcodeServerFailure
		if packed, err = q.failure(dns.ExtendedErrorCodeInvalidData, "a record of the answer cannot be written").Pack(); err != nil {
			return nil, verdict{source: failed, rcode: -1}
		}
	}
	return packed, v
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
		"none of the nameservers "+q.socket.client.Nameserver.Addr().String()+" and its peers answered")
}
