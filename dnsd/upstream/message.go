package upstream

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// udpSize is the size we say we take over UDP: it fits one packet everywhere (DNS flag day 2020).
	udpSize = 1232
	// maxChain bounds the CNAMEs followed from a question to its answer.
	maxChain = 16
	// staleTTL is what a record served past its time says (RFC 8767, section 4).
	staleTTL = 30
	maxTTL   = 24 * time.Hour
	// maxNegative bounds how long "no" is believed, whatever the zone says: a new name should not have
	// to wait for it.
	maxNegative = 30 * time.Second
)

// question is a query as it is sent: the name in lower case, with nothing in it that is the client's.
type question struct {
	dns.Question
	// bare is the packet with ID 0 and no EDNS; wire is the same with it. Neither is ever written to.
	bare, wire []byte
}

// newQuestion takes from q what a server needs to know. q has passed check.
func newQuestion(q *dns.Msg) *question {
	m := dns.Msg{Question: []dns.Question{{
		Name:   dns.CanonicalName(q.Question[0].Name),
		Qtype:  q.Question[0].Qtype,
		Qclass: q.Question[0].Qclass,
	}}}
	m.RecursionDesired, m.CheckingDisabled, m.AuthenticatedData = q.RecursionDesired, q.CheckingDisabled, q.AuthenticatedData
	// Packing a header and one valid name cannot fail.
	bare, _ := m.Pack()
	m.SetEdns0(udpSize, wantsDNSSEC(q))
	wire, _ := m.Pack()
	return &question{Question: m.Question[0], bare: bare, wire: wire}
}

func wantsDNSSEC(q *dns.Msg) bool {
	opt := q.IsEdns0()
	return opt != nil && opt.Do()
}

// parse reads a reply and holds it against the question: ID, direction, and the question section byte by
// byte, letters of the name in either case. A header without a question is taken only for what old
// servers mean by it: that they do not understand EDNS.
func (q *question) parse(packet []byte, id uint16) (*dns.Msg, error) {
	if len(packet) < headerBytes || binary.BigEndian.Uint16(packet) != id ||
		packet[2]&0xf8 != 0x80 { // QR set, opcode QUERY
		return nil, errMismatch
	}
	var m dns.Msg
	if len(packet) == headerBytes {
		if m.Unpack(packet) != nil || !refusesEDNS(&m) {
			return nil, errMismatch
		}
		return &m, nil
	}
	if binary.BigEndian.Uint16(packet[4:]) != 1 || !sameQuestion(packet[headerBytes:], q.bare[headerBytes:]) {
		return nil, errMismatch
	}
	if err := m.Unpack(packet); err != nil {
		if !m.Truncated {
			return nil, errMismatch // the right one may yet come
		}
		m.Answer, m.Ns, m.Extra = nil, nil, nil // cut in the middle of a record
	}
	return &m, nil
}

// sameQuestion says whether section starts with the question want, a name, type and class on the wire.
func sameQuestion(section, want []byte) bool {
	if len(section) < len(want) {
		return false
	}
	name := len(want) - 4
	for i, c := range section[:name] { // a label's length is below 'A', so it is compared as it is
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != want[i] {
			return false
		}
	}
	return string(section[name:len(want)]) == string(want[name:])
}

// refusesEDNS says whether m is how a server that does not know EDNS replies to it.
func refusesEDNS(m *dns.Msg) bool {
	return (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) && m.IsEdns0() == nil
}

// judge drops from m what does not belong to an answer to q, unless that is all of it, and says why another
// server should be asked, or nothing if what is left is an answer.
func judge(m *dns.Msg, q dns.Question) string {
	whole := slices.Clone(m.Answer)
	trim(m, q)
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError, dns.RcodeYXDomain:
	default:
		return dns.RcodeToString[m.Rcode]
	}
	if len(whole) > 0 && len(m.Answer) == 0 {
		if m.Rcode == dns.RcodeSuccess && foreign(whole, q) {
			m.Answer = whole
		}
		return "the answer is to something else"
	}
	if m.RecursionDesired && len(m.Answer) == 0 && m.Rcode == dns.RcodeSuccess && soa(m) == nil && delegates(m) {
		return "it refers to other servers"
	}
	return ""
}

// foreign says whether an answer has nothing to do with q at all. Some servers give one on purpose, and
// there are clients that look at no owner: who asked may have it if nobody has a better one, since the
// same server could as well have lied about the name. It is never remembered.
func foreign(answer []dns.RR, q dns.Question) bool {
	name := dns.CanonicalName(q.Name)
	return len(answer) > 0 && !slices.ContainsFunc(answer, func(rr dns.RR) bool {
		owner := dns.CanonicalName(rr.Header().Name)
		return owner == name || rr.Header().Rrtype == dns.TypeDNAME && dns.IsSubDomain(owner, name)
	})
}

func delegates(m *dns.Msg) bool {
	return slices.ContainsFunc(m.Ns, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeNS })
}

// trim drops every record that does not answer q: what is not on the chain of aliases that starts at its
// name, or not of its type; authority other than the proof of a negative answer or what DNSSEC needs;
// and all additional records, which nobody asked for and a server has no standing to give.
func trim(m *dns.Msg, q dns.Question) {
	names := chain(m.Answer, q)
	m.Answer = slices.DeleteFunc(m.Answer, func(rr dns.RR) bool {
		h := rr.Header()
		switch h.Rrtype {
		case dns.TypeDNAME:
			return !slices.ContainsFunc(names, func(n string) bool { return dns.IsSubDomain(h.Name, n) })
		case q.Qtype, dns.TypeCNAME, dns.TypeRRSIG:
		default:
			if q.Qtype != dns.TypeANY {
				return true
			}
		}
		return !slices.Contains(names, dns.CanonicalName(h.Name))
	})
	last := names[len(names)-1]
	m.Ns = slices.DeleteFunc(m.Ns, func(rr dns.RR) bool {
		switch rr.Header().Rrtype {
		case dns.TypeSOA:
			return !dns.IsSubDomain(rr.Header().Name, last)
		case dns.TypeNSEC, dns.TypeNSEC3, dns.TypeRRSIG:
			return false
		}
		return len(m.Answer) > 0
	})
	errors := extendedErrors(m)
	m.Extra = nil
	if errors != nil {
		opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}, Option: errors}
		m.Extra = []dns.RR{opt}
	}
}

// chain returns the names a reply goes through from the question's, in lower case.
func chain(answer []dns.RR, q dns.Question) []string {
	names := []string{dns.CanonicalName(q.Name)}
	for len(names) <= maxChain {
		i := slices.IndexFunc(answer, func(rr dns.RR) bool {
			return rr.Header().Rrtype == dns.TypeCNAME && dns.CanonicalName(rr.Header().Name) == names[len(names)-1]
		})
		if i < 0 || q.Qtype == dns.TypeCNAME {
			break
		}
		target := dns.CanonicalName(answer[i].(*dns.CNAME).Target)
		if slices.Contains(names, target) {
			break
		}
		names = append(names, target)
	}
	return names
}

// lifetime says how long m may be believed: the least TTL of its answer, or for "no such name" and "no
// such data" what the zone's SOA allows (RFC 2308, section 5). Without a SOA, "no" is not kept.
func lifetime(m *dns.Msg, q dns.Question) time.Duration {
	if m.Truncated {
		return 0
	}
	ttl := maxTTL
	for _, rr := range m.Answer {
		ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
	}
	positive := slices.ContainsFunc(m.Answer, func(rr dns.RR) bool {
		return q.Qtype == dns.TypeANY || rr.Header().Rrtype == q.Qtype
	})
	if positive && m.Rcode == dns.RcodeSuccess {
		return ttl
	}
	zone := soa(m)
	if zone == nil {
		return 0
	}
	zone.Hdr.Ttl = min(zone.Hdr.Ttl, zone.Minttl)
	return min(ttl, time.Duration(zone.Hdr.Ttl)*time.Second, maxNegative)
}

func soa(m *dns.Msg) *dns.SOA {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return soa
		}
	}
	return nil
}

// extendedErrors are the options of m that explain its rcode (RFC 8914), the only ones that are not
// between the server and us alone.
func extendedErrors(m *dns.Msg) (errors []dns.EDNS0) {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if o.Option() == dns.EDNS0EDE {
				errors = append(errors, o)
			}
		}
	}
	return errors
}

// address makes reply, of which the caller is the only owner, the reply to q.
func address(reply, q *dns.Msg) *dns.Msg {
	errors := extendedErrors(reply)
	name := q.Question[0].Name
	for _, section := range [][]dns.RR{reply.Answer, reply.Ns} {
		for _, rr := range section {
			if h := rr.Header(); strings.EqualFold(h.Name, name) {
				h.Name = name
			}
		}
	}
	reply.Extra = slices.DeleteFunc(reply.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
	reply.Id = q.Id
	reply.Response = true
	reply.Question = slices.Clone(q.Question)
	reply.RecursionDesired, reply.CheckingDisabled, reply.Zero = q.RecursionDesired, q.CheckingDisabled, false
	reply.Compress = true
	if q.IsEdns0() != nil {
		reply.SetEdns0(udpSize, wantsDNSSEC(q))
		opt := reply.IsEdns0()
		opt.Option = append(opt.Option, errors...)
	} else if reply.Rcode > 0xf {
		reply.Rcode = dns.RcodeServerFailure // the rest of the code has no place without OPT
	}
	return reply
}
