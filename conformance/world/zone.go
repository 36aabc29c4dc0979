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

// Mood is how a name misbehaves: "servfail", "refused", "drop", "truncate" (over UDP), or "delay" with
// a duration.
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

// Feel gives a name a mood; the zero Mood is good behaviour. "@10.96.0.10" is the whole nameserver.
func (z *Zone) Feel(name string, m Mood) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if m.Kind == "" {
		delete(z.moods, canonical(name))
		return
	}
	z.moods[canonical(name)] = m
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
		name := canonical(q.Question[0].Name)
		z.mu.Lock()
		z.log = append(z.log, Asked{
			Name: name, Type: dns.Type(q.Question[0].Qtype).String(),
			Transport: transport, Server: server, From: from.Addr().Unmap(),
		})
		mood, moody := z.moods["@"+server.String()]
		if !moody {
			mood = z.moods[name]
		}
		z.mu.Unlock()
		reply := new(dns.Msg)
		switch mood.Kind {
		case "drop":
			return
		case "servfail":
			reply.SetRcode(q, dns.RcodeServerFailure)
			_ = rw.WriteMsg(reply)
			return
		case "refused":
			reply.SetRcode(q, dns.RcodeRefused)
			_ = rw.WriteMsg(reply)
			return
		case "delay":
			time.Sleep(mood.Delay)
		}
		z.answer(reply.SetReply(q), insider)
		if opt := q.IsEdns0(); opt != nil {
			reply.SetEdns0(1232, false)
		}
		if transport == "udp" {
			size := dns.MinMsgSize
			if opt := q.IsEdns0(); opt != nil {
				size = max(size, int(opt.UDPSize()))
			}
			if mood.Kind == "truncate" {
				reply.Truncated, reply.Answer = true, nil
			}
			reply.Truncate(size)
		}
		_ = rw.WriteMsg(reply)
	}
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
