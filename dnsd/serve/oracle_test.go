package serve

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// rememberingServer has a table, and an upstream that has been asked for public.example, denied.example
// and big.example, with and without EDNS.
func rememberingServer(t testing.TB) (*Server, *Client) {
	t.Helper()
	ns := startNameserver(t, func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m)
		r.AuthenticatedData = true
		name := m.Question[0].Name
		switch name {
		case "public.example.":
			r.Answer = []dns.RR{
				&dns.CNAME{Hdr: header(name, dns.TypeCNAME, 80_000), Target: "web.example."},
				&dns.A{Hdr: header("web.example.", dns.TypeA, 86_400), A: []byte{192, 0, 2, 1}},
			}
		case "big.example.":
			for i := range byte(60) {
				r.Answer = append(r.Answer, &dns.A{Hdr: header(name, dns.TypeA, 86_400), A: []byte{192, 0, 2, i}})
			}
		default:
			r.Rcode = dns.RcodeNameError
			_, parent, _ := strings.Cut(name, ".")
			zone := soa(parent).(*dns.SOA)
			zone.Hdr.Ttl, zone.Minttl = 86_400, 86_400
			r.Ns = []dns.RR{zone}
		}
		_ = w.WriteMsg(r)
	})
	s, c := newServer(table()), client(ns)
	for _, name := range remembered {
		for _, m := range variants(name, dns.TypeA) {
			if _, err := s.upstream.Exchange(t.Context(), c.Upstream, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s, c
}

var remembered = []string{"public.example.", "denied.example.", "big.example.", "svc.cluster.local."}

// variants are the ways in which a client can ask one question.
func variants(name string, qtype uint16) (all []*dns.Msg) {
	for _, size := range []uint16{0, 512, 1232, 4096} {
		for bits := range 8 {
			m := question(name, qtype)
			m.AuthenticatedData, m.CheckingDisabled = bits&1 != 0, bits&2 != 0
			if size > 0 {
				m.SetEdns0(size, bits&4 != 0)
				if size == 1232 {
					m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
				}
			}
			all = append(all, m)
		}
	}
	return all
}

// TestShortcut asks everything the tests have in all variants: what should take the shortcut does, and
// gets the answer of the long way.
func TestShortcut(t *testing.T) {
	s, c := rememberingServer(t)
	for _, tc := range []struct {
		name  string
		types []uint16
	}{
		{"api.partner.test.", []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS}},
		{"API.Partner.tEsT.", []uint16{dns.TypeA, dns.TypeAAAA}},
		{"few.partner.test.", []uint16{dns.TypeA, dns.TypeAAAA}},
		{"many.partner.test.shop.svc.cluster.local.", []uint16{dns.TypeA, dns.TypeAAAA}},
		{"foo.wild.test.", []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS}},
		{"foo.wild.test.svc.cluster.local.", []uint16{dns.TypeA, dns.TypeAAAA}},
		{"cart.shop.svc.cluster.local.", []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeMX, dns.TypeANY}},
		{"cart.shop.shop.svc.cluster.local.", []uint16{dns.TypeA, dns.TypeAAAA}},
		{"alias.shop.svc.cluster.local.", []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeTXT, dns.TypeANY}},
		{"localhost.", []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeMX}},
		{"foo.invalid.", []uint16{dns.TypeA}},
		{"public.example.", []uint16{dns.TypeA}},
		{"PUBLIC.example.", []uint16{dns.TypeA}},
		{"denied.example.", []uint16{dns.TypeA}},
		{"svc.cluster.local.", []uint16{dns.TypeA}},
	} {
		for _, qtype := range tc.types {
			for _, m := range variants(tc.name, qtype) {
				for _, network := range networks {
					packet, err := m.Pack()
					if err != nil {
						t.Fatal(err)
					}
					if !compareWays(t, s, c, network, packet) {
						t.Errorf("%s: not answered on the shortcut:\n%v", network, m)
					}
				}
			}
		}
	}
}

// What takes the long way must not come to harm on the shortcut.
func TestNoShortcut(t *testing.T) {
	s, c := rememberingServer(t)
	badvers := question("api.partner.test.", dns.TypeA).SetEdns0(1232, false)
	badvers.IsEdns0().SetVersion(1)
	subnet := question("api.partner.test.", dns.TypeA).SetEdns0(1232, false)
	subnet.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, Address: net.IPv4zero}}
	chaos := question("api.partner.test.", dns.TypeA)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	unasked := question("unasked.example.", dns.TypeA)
	for what, m := range map[string]*dns.Msg{
		"SRV": question("_mongodb._tcp.api.partner.test.", dns.TypeSRV), "PTR": question("0.0.244.10.in-addr.arpa.", dns.TypePTR),
		"an unwritable name": question("bad.partner.test.", dns.TypeCNAME), "an escape": question(`a\.b.wild.test.`, dns.TypeA),
		"the root": question(".", dns.TypeNS), "EDNS version 1": badvers, "an option with a form": subnet, "class CH": chaos,
		"an update": new(dns.Msg).SetUpdate("api.partner.test."), "a reply": new(dns.Msg).SetReply(unasked), "a new name": unasked,
		"a transfer": new(dns.Msg).SetAxfr("api.partner.test."),
	} {
		packet, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if reply, _ := s.enter(c, "udp").shortcut(packet, make([]byte, replySize)); reply != nil {
			t.Errorf("%s was answered on the shortcut: %x", what, reply)
		}
	}
}

// FuzzShortcut holds the shortcut against miekg/dns: whatever is answered on the shortcut is answered
// alike on the long way.
func FuzzShortcut(f *testing.F) {
	for _, name := range append(remembered, "many.partner.test.shop.svc.cluster.local.", "Foo.wild.test.", "alias.shop.svc.cluster.local.", "x.localhost.") {
		for i, m := range variants(name, dns.TypeA) {
			if packet, err := m.Pack(); err == nil && i%9 == 0 {
				f.Add(packet, true)
			}
		}
	}
	s, c := rememberingServer(f)
	f.Fuzz(func(t *testing.T, packet []byte, udp bool) {
		compareWays(t, s, c, map[bool]string{true: "udp", false: "tcp"}[udp], packet)
	})
}

// compareWays answers packet on both ways, complains if they differ, and reports whether the shortcut was
// one at all.
func compareWays(t *testing.T, s *Server, c *Client, network string, packet []byte) bool {
	t.Helper()
	short, _ := s.enter(c, network).shortcut(packet, make([]byte, 0, 64)) // too short on purpose
	if short == nil {
		return false
	}
	long := func(network string) *reading {
		reply, _, later := s.enter(c, network).long(packet, make([]byte, replySize), s.upstream.Exchange)
		if later != nil {
			reply, _ = later(t.Context())
		}
		return read(t, reply)
	}
	got, want := read(t, short), long(network)
	if end := headerSize + len(got.name) + 5; got.name != "" && !bytes.Equal(short[headerSize:end], packet[headerSize:end]) {
		t.Fatalf("the question of %x came back as %x", packet, short)
	}
	if got.tc || want.tc {
		// How many records fit is a matter of compression: it is enough that no more would have.
		all := long("tcp")
		if q := unpacked(t, packet); got.tc && len(short)+28 <= maxReply(network, announced(q)) {
			t.Fatalf("%x was cut to %d bytes:\n%v", packet, len(short), got)
		}
		if missing := slices.DeleteFunc(got.answer, func(rr string) bool { return slices.Contains(all.answer, rr) }); len(missing) > 0 {
			t.Fatalf("%x was answered %v, which is not in\n%v", packet, missing, all)
		}
		got.answer, got.tc, want.answer, want.tc = nil, false, nil, false
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%s %x was answered\n%v\non the shortcut, else\n%v", network, packet, got, want)
	}
	return true
}

// reading is what a reply says, apart from the order of records, and from case and compression.
type reading struct {
	header                   dns.MsgHdr
	tc                       bool
	name                     string
	answer, authority, extra []string
}

func read(t *testing.T, packet []byte) *reading {
	t.Helper()
	m := unpacked(t, packet)
	r := &reading{header: m.MsgHdr, tc: m.Truncated}
	r.header.Truncated = false
	if len(m.Question) == 1 {
		r.name = strings.TrimSuffix(m.Question[0].Name, ".") + "."
	}
	for _, section := range []struct {
		rrs  []dns.RR
		said *[]string
	}{{m.Answer, &r.answer}, {m.Ns, &r.authority}, {m.Extra, &r.extra}} {
		for _, rr := range section.rrs {
			if rr.Header().Ttl > 50_000 && rr.Header().Rrtype != dns.TypeOPT {
				rr.Header().Ttl = 50_000 // of what is remembered; a second may have passed
			}
			*section.said = append(*section.said, strings.ToLower(rr.String()))
		}
		slices.Sort(*section.said)
	}
	return r
}

func unpacked(t *testing.T, packet []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(packet); err != nil {
		t.Fatalf("%x: %v", packet, err)
	}
	return m
}

// announced is the size that q's EDNS announces.
func announced(q *dns.Msg) uint16 {
	if opt := q.IsEdns0(); opt != nil {
		return opt.UDPSize()
	}
	return 0
}
