package world

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// NegativeTTL is the SOA minimum of the internet's zones, in seconds: how long a "no such name" may be
// remembered.
const NegativeTTL = 2

// Zone is what the internet's nameservers know: records that may be changed at any moment, names that
// misbehave, and a log of every query. It is safe for concurrent use.
type Zone struct {
	mu      sync.Mutex
	records map[string]map[uint16][]dns.RR
	moods   map[string]Mood
	log     []Asked
}

// Asked is one query a nameserver got.
type Asked struct {
	Name string // lower case, without the final dot
	Type string
	// Transport is "udp" or "tcp".
	Transport string
	// Server is the nameserver asked, From the client's address.
	Server, From netip.Addr
}

// Mood is how a name misbehaves: it answers "servfail", "refused", "notimp", "formerr" or "nxdomain" whatever
// there is; "drop"; "truncate" to nothing (over UDP); "oversize", all there is whatever the client takes;
// "bare", without authority, RA, OPT; "unasked", without the question; or "delay" with a duration.
type Mood struct {
	Kind  string
	Delay time.Duration
}

func newZone() *Zone {
	return &Zone{records: map[string]map[uint16][]dns.RR{}, moods: map[string]Mood{}}
}

func canonical(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }

// Set replaces the records of a name and type; ttl is in seconds, data one record's each.
func (z *Zone) Set(name, qtype string, ttl uint32, data ...string) error {
	t, ok := dns.StringToType[strings.ToUpper(qtype)]
	if !ok {
		return fmt.Errorf("zone: unknown record type %q", qtype)
	}
	var set []dns.RR
	for _, d := range data {
		rr, err := dns.NewRR(fmt.Sprintf("%s %d IN %s %s", dns.Fqdn(name), ttl, qtype, d))
		if err != nil {
			return fmt.Errorf("zone: %s %s %s: %w", name, qtype, d, err)
		}
		set = append(set, rr)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	name = canonical(name)
	if z.records[name] == nil {
		z.records[name] = map[uint16][]dns.RR{}
	}
	z.records[name][t] = set
	return nil
}

// Delete removes a name with all its records.
func (z *Zone) Delete(name string) {
	z.mu.Lock()
	delete(z.records, canonical(name))
	z.mu.Unlock()
}

// Feel gives a name a mood; the zero Mood is good behaviour. "name/AAAA" is only its records of one type,
// "@10.96.0.10" the whole nameserver.
func (z *Zone) Feel(name string, m Mood) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if m.Kind == "" {
		delete(z.moods, canonical(name))
		return
	}
	z.moods[canonical(name)] = m
}

// mood is that of a question to a server. The caller holds z.mu.
func (z *Zone) mood(server netip.Addr, name, qtype string) Mood {
	for _, key := range []string{"@" + server.String(), name + "/" + strings.ToLower(qtype), name} {
		if m, ok := z.moods[key]; ok {
			return m
		}
	}
	return Mood{}
}

// Queries returns the queries so far, oldest first.
func (z *Zone) Queries() []Asked {
	z.mu.Lock()
	defer z.mu.Unlock()
	return slices.Clone(z.log)
}

// Forget empties the log of queries.
func (z *Zone) Forget() {
	z.mu.Lock()
	z.log = nil
	z.mu.Unlock()
}

// at is the handler of one nameserver's address over one transport.
func (z *Zone) at(server netip.Addr, transport string, insider bool) dns.HandlerFunc {
	return func(rw dns.ResponseWriter, q *dns.Msg) {
		from, _ := netip.ParseAddrPort(rw.RemoteAddr().String())
		if len(q.Question) != 1 {
			_ = rw.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeFormatError))
			return
		}
		name, qtype := canonical(q.Question[0].Name), dns.Type(q.Question[0].Qtype).String()
		z.mu.Lock()
		z.log = append(z.log, Asked{Name: name, Type: qtype, Transport: transport, Server: server, From: from.Addr().Unmap()})
		mood := z.mood(server, name, qtype)
		z.mu.Unlock()
		switch mood.Kind {
		case "drop":
			return
		case "delay":
			time.Sleep(mood.Delay)
		}
		reply := new(dns.Msg).SetReply(q)
		if rcode, ok := dns.StringToRcode[strings.ToUpper(mood.Kind)]; ok {
			reply.Rcode = rcode
		} else {
			z.answer(reply, insider)
		}
		mood.spoil(reply, q, transport)
		_ = rw.WriteMsg(reply)
	}
}

// spoil makes of a reply what the mood does to it, and else what the client takes.
func (m Mood) spoil(reply, q *dns.Msg, transport string) {
	size := dns.MaxMsgSize
	if transport == "udp" {
		size = dns.MinMsgSize
	}
	if opt := q.IsEdns0(); opt != nil && m.Kind != "bare" {
		reply.SetEdns0(1232, false)
		size = max(size, int(opt.UDPSize()))
	}
	switch m.Kind {
	case "oversize":
		size = dns.MaxMsgSize
	case "bare":
		reply.Ns, reply.RecursionAvailable = nil, false
	case "unasked":
		reply.Question = nil
	case "truncate":
		if transport == "udp" {
			reply.Truncated, reply.Answer = true, nil
			return
		}
	}
	reply.Truncate(size)
}

// ClusterDomain is the cluster's own domain, which only insiders among the nameservers know.
const ClusterDomain = "cluster.local"

// answer fills in what the zone knows: records, through CNAMEs; else NODATA or NXDOMAIN with an SOA.
func (z *Zone) answer(reply *dns.Msg, insider bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	reply.RecursionAvailable = true
	name, qtype := canonical(reply.Question[0].Name), reply.Question[0].Qtype
	secret := !insider && strings.HasSuffix(name, "."+ClusterDomain)
	for range 10 {
		if secret {
			break
		}
		sets := z.records[name]
		if set := sets[qtype]; len(set) > 0 {
			for _, rr := range set {
				reply.Answer = append(reply.Answer, dns.Copy(rr))
			}
			return
		}
		alias := sets[dns.TypeCNAME]
		if len(alias) == 0 {
			break
		}
		reply.Answer = append(reply.Answer, dns.Copy(alias[0]))
		name = canonical(alias[0].(*dns.CNAME).Target)
	}
	if secret || !z.exists(name) {
		reply.Rcode = dns.RcodeNameError
	}
	zone := name[strings.LastIndexByte(name, '.')+1:]
	reply.Ns = []dns.RR{&dns.SOA{
		Hdr: dns.RR_Header{Name: dns.Fqdn(zone), Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: NegativeTTL},
		Ns:  "ns.internet.", Mbox: "root.internet.", Serial: 1, Refresh: 60, Retry: 60, Expire: 60, Minttl: NegativeTTL,
	}}
}

// exists says whether the name or one below it has records.
func (z *Zone) exists(name string) bool {
	for n := range z.records {
		if n == name || strings.HasSuffix(n, "."+name) {
			return true
		}
	}
	return false
}
