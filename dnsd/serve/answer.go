package serve

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/dnsd/upstream"
)

// answer writes down what the table says by itself.
func (q *query) answer(a *names.Answer) *dns.Msg {
	r := q.reply()
	r.Authoritative = true
	name := q.msg.Question[0].Name
	r.Answer = cnames(name, a)
	owner := a.Owner(name)
	r.Answer = append(r.Answer, addresses(owner, a.TTL, a.Addresses)...)
	more, glue := sets(owner, a)
	r.Answer, r.Extra = append(r.Answer, more...), append(glue, r.Extra...)
	if a.PTR != "" {
		r.Answer = append(r.Answer, &dns.PTR{Hdr: header(owner, dns.TypePTR, a.TTL), Ptr: a.PTR})
	}
	if a.Zone != "" {
		r.Ns = []dns.RR{soa(a.Zone)}
	}
	if a.NoName {
		r.Rcode = dns.RcodeNameError
	}
	q.socket.gate.counts.own(a)
	return r
}

// ask asks upstream what the table does not know, or not alone. It returns nil if the client is better
// served by no reply: it will ask again.
func (q *query) ask(ctx context.Context, how exchanger, a *names.Answer) (*dns.Msg, verdict) {
	k := q.socket
	counts := &k.gate.counts
	if a.Kind == names.NotOurs || a.Kind == names.Exists {
		counts.forwarded.Add(1)
	} else {
		counts.completed.Add(1)
	}
	name := q.msg.Question[0].Name
	question := q.msg
	if owner := a.Owner(name); owner != name {
		question = q.msg.Copy()
		question.Question[0].Name = owner
		how = k.server.upstream.Exchange // the other way may know the answer to what was asked, and only that
	}
	var trace upstream.Trace
	r, err := how(upstream.WithTrace(ctx, &trace), k.client.Upstream, question)
	v := verdict{source: sources[trace.From], server: trace.Server}
	switch {
	case errors.Is(err, upstream.ErrBusy):
		return nil, k.busy()
	case ctx.Err() != nil:
		return nil, k.dropped()
	case a.Kind == names.Ask && (err != nil || r.Rcode != dns.RcodeSuccess):
		// The name exists here, whatever is thought of it elsewhere.
		return q.nodata(a), v
	case err != nil:
		counts.failed.Add(1)
		v.source = failed
		return q.unreachable(), v
	}
	return q.relay(r, a), v
}

// sources are where upstream has an answer from, as it is counted.
var sources = [...]source{upstream.Asked: asked, upstream.Fresh: cached, upstream.Stale: stale}

// relay turns upstream's reply into ours, behind the CNAMEs of the table that led to it.
func (q *query) relay(from *dns.Msg, a *names.Answer) *dns.Msg {
	r := q.reply()
	name := q.msg.Question[0].Name
	r.Rcode = rcode(a.Kind, from.Rcode, len(from.Answer))
	r.Truncated = from.Truncated
	r.Authoritative = a.Kind == names.Chase // of the first name in the answer (RFC 1035 section 4.1.1)
	// AD is for who asked for it (RFC 6840 section 5.7), and for answers that are upstream's alone.
	r.AuthenticatedData = from.AuthenticatedData && len(a.CNAMEs()) == 0 &&
		(q.msg.AuthenticatedData || q.opt != nil && q.opt.Do())
	r.Answer = append(cnames(name, a), from.Answer...)
	r.Ns = from.Ns
	opt := r.IsEdns0()
	for _, rr := range from.Extra {
		theirs, ok := rr.(*dns.OPT)
		if !ok {
			r.Extra = append([]dns.RR{rr}, r.Extra...)
			continue
		}
		for _, option := range theirs.Option {
			if _, explains := option.(*dns.EDNS0_EDE); explains && opt != nil {
				opt.Option = append(opt.Option, option)
			}
		}
	}
	if r.Rcode > 0xF && opt == nil {
		r.Rcode = dns.RcodeServerFailure // an extended rcode needs an OPT record to stand in
	}
	return r
}

// rcode is what becomes of theirs, beside so many records: a name that exists here is not denied. The SOA
// record of a denial does for NODATA as well.
func rcode(kind names.Kind, theirs, answers int) int {
	if kind == names.Exists && theirs == dns.RcodeNameError && answers == 0 {
		return dns.RcodeSuccess
	}
	return theirs
}

// nodata says that the name exists and has no such record.
func (q *query) nodata(a *names.Answer) *dns.Msg {
	r := q.reply()
	r.Authoritative = true
	r.Answer = cnames(q.msg.Question[0].Name, a)
	r.Ns = []dns.RR{soa(a.Zone)}
	return r
}

func cnames(owner string, a *names.Answer) []dns.RR {
	var all []dns.RR
	for _, target := range a.CNAMEs() {
		all = append(all, &dns.CNAME{Hdr: header(owner, dns.TypeCNAME, a.TTL), Target: target})
		owner = target
	}
	return all
}

// rotate says with which of addrs to begin: with a different one each time, so that clients that take the
// first spread over all. The runtime's random numbers are a thread's own: there is nothing to contend for.
func rotate(addrs []netip.Addr) int {
	if len(addrs) < 2 {
		return 0
	}
	return rand.IntN(len(addrs))
}

// addresses writes addrs down as records of owner.
func addresses(owner string, ttl uint32, addrs []netip.Addr) []dns.RR {
	if len(addrs) == 0 {
		return nil
	}
	all := make([]dns.RR, len(addrs))
	start := rotate(addrs)
	for i := range addrs {
		addr := addrs[(start+i)%len(addrs)]
		if addr.Is4() {
			all[i] = &dns.A{Hdr: header(owner, dns.TypeA, ttl), A: net.IP(addr.AsSlice())}
		} else {
			all[i] = &dns.AAAA{Hdr: header(owner, dns.TypeAAAA, ttl), AAAA: net.IP(addr.AsSlice())}
		}
	}
	return all
}

// What stands in a SOA record: the two names, in front of the zone's, and the numbers after them. The zone
// is not one that anybody could transfer, so that only the last number means anything.
const soaServer, soaMailbox = "ns.dns.", "hostmaster."

var soaNumbers = [...]uint32{1, 7200, 1800, 86400, names.NegativeTTL}

// soa is the record that says for how long a negative answer may be remembered (RFC 2308 section 3).
func soa(zone string) dns.RR {
	n := &soaNumbers
	return &dns.SOA{
		Hdr: header(zone, dns.TypeSOA, names.NegativeTTL),
		Ns:  soaServer + zone, Mbox: soaMailbox + zone,
		Serial: n[0], Refresh: n[1], Retry: n[2], Expire: n[3], Minttl: n[4],
	}
}

func header(name string, rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}
