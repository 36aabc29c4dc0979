package serve

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/miekg/dns"
)

// FuzzBegin throws packets at the message path: whatever comes, a reply made here is well-formed, fits,
// and is to that query.
func FuzzBegin(f *testing.F) {
	for _, m := range []*dns.Msg{
		question("api.partner.test.", dns.TypeA),
		question("many.partner.test.shop.svc.cluster.local.", dns.TypeA).SetEdns0(700, true),
		question("_mongodb._tcp.api.partner.test.", dns.TypeSRV),
		question("out.shop.svc.cluster.local.", dns.TypeHTTPS),
		question("0.0.244.10.in-addr.arpa.", dns.TypePTR),
		question("public.example.", dns.TypeANY),
		new(dns.Msg).SetUpdate("example."),
		new(dns.Msg).SetAxfr("example."),
	} {
		packed, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed, true)
		f.Add(packed[:len(packed)-2], false)
	}
	f.Add([]byte("\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"), true) // a name that points at itself
	s := New(Options{})
	s.upstream = stub(func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
		if len(m.Question[0].Name)%2 == 0 {
			return nil, errors.New("nobody there")
		}
		return new(dns.Msg).SetRcode(m, dns.RcodeNameError), nil
	})
	s.Store(table())
	c := client()
	buf := make([]byte, maxQuery)
	f.Fuzz(func(t *testing.T, packet []byte, udp bool) {
		network := map[bool]string{true: "udp", false: "tcp"}[udp]
		reply, _, later := s.enter(c, network).begin(packet, buf)
		if reply == nil && later != nil {
			reply, _ = later(t.Context())
		}
		if reply == nil {
			return
		}
		var q, r dns.Msg
		if err := q.Unpack(packet); err != nil {
			t.Fatalf("%x is no message but was answered: %v", packet, err)
		}
		if err := r.Unpack(reply); err != nil {
			t.Fatalf("reply %x to %x: %v", reply, packet, err)
		}
		if !r.Response || binary.BigEndian.Uint16(reply) != q.Id || len(r.Question) > 1 {
			t.Fatalf("reply %v to %v", &r, &q)
		}
		limit := dns.MaxMsgSize
		if udp {
			limit = dns.MinMsgSize
			if opt := q.IsEdns0(); opt != nil {
				limit = max(limit, int(opt.UDPSize()))
			}
		}
		if len(reply) > limit {
			t.Fatalf("%d bytes to a client that takes %d", len(reply), limit)
		}
	})
}
