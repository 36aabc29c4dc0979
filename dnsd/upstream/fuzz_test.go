package upstream

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Whatever a server sends: no panic, nothing kept but the answer, and what is kept can be told again.
func FuzzReply(f *testing.F) {
	asked := query("www.example.com.", dns.TypeA)
	asked.SetEdns0(1232, false)
	q := newQuestion(asked)
	for _, m := range []*dns.Msg{
		reply(asked, "www.example.com. 60 IN CNAME a.example.net.", "a.example.net. 60 IN A 192.0.2.1", "evil.example. 1 IN A 192.0.2.2"),
		reply(asked, "www.example.com. 60 IN CNAME www.example.com."),
		reply(asked, "example.com. 60 IN DNAME example.net.", "www.example.com. 60 IN CNAME www.example.net."),
		rcode(asked, dns.RcodeNameError),
		rcode(asked, dns.RcodeFormatError),
		rcode(asked, dns.RcodeBadVers).SetEdns0(1232, true),
	} {
		m.Ns = append(m.Ns, rr("example.com. 60 IN SOA ns. h. 1 1 1 1 20"), rr("example.com. 60 IN NS ns."))
		f.Add(pack(m))
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) < headerBytes {
			return
		}
		m, err := q.parse(packet, binary.BigEndian.Uint16(packet))
		if err != nil {
			return
		}
		failed := error(nil)
		if judge(m, q.Question) != "" {
			failed = errUnusable
		}
		out := newOutcome(q.Question, m, failed)
		if out.err != nil || out.alien && out.failed {
			return // nothing is kept
		}
		kept := found{wire: out.wire, age: time.Second}
		for _, tell := range []func(*dns.Msg) (*dns.Msg, error){out.reply, kept.reply, kept.stale} {
			told, err := tell(asked)
			if err != nil {
				t.Fatalf("cannot be told again: %v", err)
			}
			names := chain(told.Answer, q.Question)
			for _, rr := range told.Answer {
				if rr.Header().Rrtype == dns.TypeA && !slices.Contains(names, dns.CanonicalName(rr.Header().Name)) {
					t.Fatalf("kept what is not the answer:\n%v", told)
				}
			}
			if _, err := told.Pack(); err != nil {
				t.Fatalf("cannot be packed: %v\n%v", err, told)
			}
		}
	})
}
