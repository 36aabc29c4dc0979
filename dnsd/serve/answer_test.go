package serve

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/dnsd/upstream"
)

var networks = []string{"udp", "tcp"}

func TestReplyLooksLikeItsQuery(t *testing.T) {
	ns := startNameserver(t, zone("public.example."))
	addr := start(t, newServer(table()), client(ns))
	for _, network := range networks {
		for _, name := range []string{"aPi.PaRtNeR.tEsT.", "PuBlIc.eXaMpLe."} {
			for _, edns := range []bool{false, true} {
				m := question(name, dns.TypeA)
				m.CheckingDisabled, m.RecursionDesired, m.Zero = true, edns, true
				if edns {
					m.SetEdns0(4096, true)
					m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"},
						&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("unheard of")}}
				}
				r := exchange(t, network, addr, m)
				if len(r.Answer) != 1 || !r.RecursionAvailable || !r.CheckingDisabled || r.Zero || r.RecursionDesired != edns ||
					r.Question[0].Name != name || r.Authoritative != strings.HasSuffix(name, "tEsT.") {
					t.Errorf("%s: %v", network, r)
				}
				opt := r.IsEdns0()
				if (opt != nil) != edns || edns && (opt.UDPSize() != 1232 || !opt.Do() || opt.Version() != 0 || len(opt.Option) != 0) {
					t.Errorf("%s: OPT is %v", network, opt)
				}
			}
		}
	}
}

func TestFutureEDNS(t *testing.T) {
	s := newServer(table())
	m := question("api.partner.test.", dns.TypeA)
	m.SetEdns0(1232, false)
	m.IsEdns0().SetVersion(1)
	r := exchange(t, "udp", start(t, s, client()), m)
	if r.Rcode != dns.RcodeBadVers || len(r.Answer) != 0 || r.IsEdns0().Version() != 0 || s.Stats().Refused != 1 {
		t.Errorf("%v", r)
	}
}

func TestNegativeAnswers(t *testing.T) {
	ns := startNameserver(t, zone())
	addr := start(t, newServer(table()), client(ns))
	for name, zone := range map[string]string{
		"few.partner.test.":                        "few.partner.test.",
		"few.partner.test.shop.svc.cluster.local.": "cluster.local.",
	} {
		r := exchange(t, "udp", addr, question(name, dns.TypeAAAA))
		soa, ok := (*dns.SOA)(nil), false
		if len(r.Ns) == 1 {
			soa, ok = r.Ns[0].(*dns.SOA)
		}
		if !ok || soa.Minttl != 5 || soa.Hdr.Ttl != 5 || soa.Hdr.Name != zone || r.Rcode != dns.RcodeSuccess || !r.Authoritative {
			t.Errorf("%v", r)
		}
	}
}

func TestServiceComesWithAddresses(t *testing.T) {
	addr := start(t, newServer(table()), client())
	m := question("_mongodb._tcp.api.partner.test.", dns.TypeSRV)
	m.SetEdns0(1232, false)
	r := exchange(t, "udp", addr, m)
	if len(r.Answer) != 1 || r.Answer[0].(*dns.SRV).Port != 27017 || r.Answer[0].(*dns.SRV).Target != "api.partner.test." ||
		len(r.Extra) != 3 || r.IsEdns0() == nil {
		t.Errorf("%v", r)
	}
}

func TestPointer(t *testing.T) {
	r := exchange(t, "udp", start(t, newServer(table()), client()), question("0.0.244.10.in-addr.arpa.", dns.TypePTR))
	if len(r.Answer) != 1 || r.Answer[0].(*dns.PTR).Ptr != "api.partner.test." {
		t.Errorf("%v", r)
	}
}

func TestAddressesRotate(t *testing.T) {
	addr := start(t, newServer(table()), client())
	firsts := map[string]int{}
	for range 100 {
		r := exchange(t, "udp", addr, question("few.partner.test.", dns.TypeA))
		if len(r.Answer) != 4 {
			t.Fatalf("%v", r)
		}
		firsts[r.Answer[0].(*dns.A).A.String()]++
	}
	if len(firsts) != 4 { // by chance once in 10^12 runs
		t.Errorf("first of four addresses over 100 answers: %v", firsts)
	}
}

func TestCNAMEOutOfTheTable(t *testing.T) {
	ns := startNameserver(t, zone("slow.example."))
	addr := start(t, newServer(table()), client(ns))
	for _, tc := range []struct {
		name    string
		qtype   uint16
		rcode   int
		answers []string
	}{
		{"Out.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"slow.example.", "203.0.113.5"}},
		{"out.shop.svc.cluster.local.", dns.TypeAAAA, dns.RcodeSuccess, []string{"slow.example."}},
		{"out.shop.svc.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"out.shop.svc.cluster.local.", "slow.example.", "203.0.113.5"}},
		{"gone.shop.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, []string{"nowhere.example."}},
	} {
		r := exchange(t, "udp", addr, question(tc.name, tc.qtype))
		var got []string
		for _, rr := range r.Answer {
			got = append(got, dns.Field(rr, 1))
		}
		if r.Rcode != tc.rcode || !slices.Equal(got, tc.answers) || !r.Authoritative || r.Question[0].Name != tc.name ||
			r.Answer[0].Header().Name != tc.name {
			t.Errorf("%v", r)
		}
	}
}

// A name that exists here is never denied because it is unknown, or cannot be asked for, elsewhere.
func TestOtherTypesOfAKnownName(t *testing.T) {
	for what, handler := range map[string]dns.HandlerFunc{
		"denies":  zone(),
		"refuses": func(w dns.ResponseWriter, m *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeRefused)) },
	} {
		ns := startNameserver(t, handler)
		r := exchange(t, "udp", start(t, newServer(table()), client(ns)), question("few.partner.test.", dns.TypeMX))
		if r.Rcode != dns.RcodeSuccess || len(r.Answer) != 0 || len(r.Ns) != 1 || len(ns.asked()) == 0 {
			t.Errorf("upstream %s: %v", what, r)
		}
	}
	ns := startNameserver(t, func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m)
		r.Answer = []dns.RR{&dns.MX{Hdr: header(m.Question[0].Name, dns.TypeMX, 60), Mx: "mail.example."}}
		_ = w.WriteMsg(r)
	})
	r := exchange(t, "udp", start(t, newServer(table()), client(ns)), question("few.partner.test.shop.svc.cluster.local.", dns.TypeMX))
	if len(r.Answer) != 2 || r.Answer[1].(*dns.MX).Mx != "mail.example." || r.Answer[1].Header().Name != "few.partner.test." {
		t.Errorf("%v", r)
	}
}

func TestUpstreamDown(t *testing.T) {
	s := New(Options{})
	s.upstream = stub(func(context.Context, *dns.Msg) (*dns.Msg, error) { return nil, errors.New("nobody there") })
	s.Store(table())
	c := client()
	c.Nameserver = netip.MustParseAddrPort("192.0.2.53:53")
	addr := start(t, s, c)
	m := question("public.example.", dns.TypeA)
	m.SetEdns0(1232, false)
	r := exchange(t, "udp", addr, m)
	if r.Rcode != dns.RcodeServerFailure || len(r.IsEdns0().Option) != 1 || r.IsEdns0().Option[0].Option() != dns.EDNS0EDE {
		t.Errorf("with EDNS: %v", r)
	}
	if r = exchange(t, "tcp", addr, question("public.example.", dns.TypeA)); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("without EDNS: %v", r)
	}
	if r = exchange(t, "udp", addr, question("few.partner.test.", dns.TypeTXT)); r.Rcode != dns.RcodeSuccess || len(r.Ns) != 1 {
		t.Errorf("a type that upstream might know: %v", r)
	}
	if r = exchange(t, "udp", addr, question("out.shop.svc.cluster.local.", dns.TypeA)); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("a CNAME whose target cannot be looked up: %v", r)
	}
	update := new(dns.Msg).SetUpdate("example.")
	if r = exchange(t, "udp", addr, update); r.Rcode != dns.RcodeServerFailure || r.Opcode != dns.OpcodeUpdate {
		t.Errorf("an update: %v", r)
	}
}

// The real upstream client has to give up in time for the one stub resolver in a hurry.
func TestSilentUpstream(t *testing.T) {
	const hurry = 2500 * time.Millisecond // musl's
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		s, c := newServer(nil), client()
		c.Upstream = upstream.Servers{Dial: silence{}, Addrs: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}}
		go s.enter(c, "tcp").serveConn(t.Context(), theirs)
		began := time.Now()
		if _, err := ours.Write(framed(t, question("public.example.", dns.TypeA))); err != nil {
			t.Fatal(err)
		}
		packet, err := readMessage(ours, bufio.NewReader(ours))
		if err != nil {
			t.Fatal(err)
		}
		r := new(dns.Msg)
		if err := r.Unpack(packet); err != nil || r.Rcode != dns.RcodeServerFailure || time.Since(began) >= hurry {
			t.Errorf("after %v: %v, %v", time.Since(began), err, r)
		}
		_ = ours.Close()
	})
}

// silence leads to servers that take every packet and never say a word.
type silence struct{}

func (silence) DialContext(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, far) }()
	return near, nil
}

func TestUnwritableAnswer(t *testing.T) {
	if r := exchange(t, "udp", start(t, newServer(table()), client()), question("bad.partner.test.", dns.TypeCNAME)); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("%v", r)
	}
}

func TestWithoutTable(t *testing.T) {
	ns := startNameserver(t, zone("api.partner.test."))
	s := newServer(nil)
	addr := start(t, s, client(ns))
	if r := exchange(t, "udp", addr, question("api.partner.test.", dns.TypeA)); len(r.Answer) != 1 || r.Authoritative {
		t.Errorf("before the first table: %v", r)
	}
	s.Store(table())
	if r := exchange(t, "udp", addr, question("api.partner.test.", dns.TypeA)); len(r.Answer) != 1 || !r.Authoritative {
		t.Errorf("after it: %v", r)
	}
	s.Store(names.Build(&mesh.Plan{}, names.Options{}))
	if s.Table().Len() != 0 {
		t.Error("the table was not swapped")
	}
}

// Everything a reply may take from upstream's, and nothing else.
func TestRelay(t *testing.T) {
	s := New(Options{})
	s.upstream = stub(func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
		r := new(dns.Msg).SetReply(m)
		r.Authoritative, r.AuthenticatedData, r.Rcode = true, true, dns.RcodeBadCookie
		r.SetEdns0(4000, true)
		r.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeStaleAnswer},
			&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
		r.Ns = []dns.RR{soa("example.")}
		r.Extra = append(r.Extra, addresses("ns.example.", 60, []netip.Addr{netip.MustParseAddr("192.0.2.1")})...)
		return r, nil
	})
	addr := start(t, s, client())
	m := question("public.example.", dns.TypeA)
	if r := exchange(t, "udp", addr, m); r.Rcode != dns.RcodeServerFailure || r.Authoritative || r.AuthenticatedData || len(r.Ns) != 1 || len(r.Extra) != 1 {
		t.Errorf("without EDNS: %v", r)
	}
	m.SetEdns0(1232, true)
	r := exchange(t, "udp", addr, m)
	if r.Rcode != dns.RcodeBadCookie || !r.AuthenticatedData || len(r.Extra) != 2 || len(r.IsEdns0().Option) != 1 || r.IsEdns0().UDPSize() != ednsSize {
		t.Errorf("with EDNS: %v", r)
	}
}

func TestBusyUpstreamIsSilent(t *testing.T) {
	s := New(Options{})
	s.upstream = stub(func(context.Context, *dns.Msg) (*dns.Msg, error) { return nil, upstream.ErrBusy })
	addr := start(t, s, client())
	packed, _ := question("public.example.", dns.TypeA).Pack()
	if reply := raw(t, addr, packed, 50*time.Millisecond); reply != nil {
		t.Errorf("got %x", reply)
	}
	eventually(t, "the query is counted", func() bool { return s.Stats().Busy == 1 })
	if got := s.Stats(); got.Dropped > 0 || counted(s) != "shop busy none 1" {
		t.Errorf("it was not the pod that asked too much: %+v", got)
	}
}

// explained returns the codes that say why r is what it is (RFC 8914).
func explained(r *dns.Msg) (codes []uint16) {
	if opt := r.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				codes = append(codes, e.InfoCode)
			}
		}
	}
	return codes
}

func TestExtendedErrors(t *testing.T) {
	s := New(Options{})
	s.upstream = stub(func(context.Context, *dns.Msg) (*dns.Msg, error) { return nil, errors.New("nobody there") })
	s.Store(table())
	addr := start(t, s, client())
	chaos := question("version.bind.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	for what, tc := range map[string]struct {
		m    *dns.Msg
		code uint16
	}{
		"nobody answers":                     {question("public.example.", dns.TypeA), dns.ExtendedErrorCodeNoReachableAuthority},
		"nobody answers what is passed on":   {chaos, dns.ExtendedErrorCodeNoReachableAuthority},
		"the answer cannot even be written":  {question("bad.partner.test.", dns.TypeCNAME), dns.ExtendedErrorCodeInvalidData},
		"nobody knows where the CNAME leads": {question("out.shop.svc.cluster.local.", dns.TypeA), dns.ExtendedErrorCodeNoReachableAuthority},
	} {
		r := exchange(t, "udp", addr, tc.m.Copy().SetEdns0(1232, false))
		if r.Rcode != dns.RcodeServerFailure || !slices.Equal(explained(r), []uint16{tc.code}) {
			t.Errorf("%s: %v", what, r)
		}
		if r = exchange(t, "udp", addr, tc.m); r.Rcode != dns.RcodeServerFailure || r.IsEdns0() != nil {
			t.Errorf("%s, without EDNS: %v", what, r)
		}
	}
}

// A stale answer says that it is one.
func TestStaleAnswer(t *testing.T) {
	var down atomic.Bool
	ns := startNameserver(t, func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetRcode(m, dns.RcodeServerFailure)
		if !down.Load() {
			r.Rcode = dns.RcodeSuccess
			r.Answer = []dns.RR{&dns.A{Hdr: header(m.Question[0].Name, dns.TypeA, 1), A: net.IPv4(203, 0, 113, 5)}}
		}
		_ = w.WriteMsg(r)
	})
	addr := start(t, newServer(table()), client(ns))
	m := question("public.example.", dns.TypeA).SetEdns0(1232, false)
	if r := exchange(t, "udp", addr, m); len(r.Answer) != 1 || explained(r) != nil {
		t.Fatalf("%v", r)
	}
	down.Store(true)
	eventually(t, "a stale answer says so", func() bool {
		r := exchange(t, "udp", addr, m)
		if len(r.Answer) != 1 || r.Rcode != dns.RcodeSuccess {
			t.Fatalf("%v", r)
		}
		return slices.Equal(explained(r), []uint16{dns.ExtendedErrorCodeStaleAnswer})
	})
}

// The answer to a question that was under way when its name became an alias belongs to the old name: the
// alias leads to another one, which is asked for.
func TestNameBecomesAliasWhileItIsAsked(t *testing.T) {
	s := newServer(nil)
	owned := func(name string, addr string) *dns.Msg {
		r := new(dns.Msg).SetQuestion(name, dns.TypeA)
		r.Answer = addresses(name, 60, addrs(addr))
		return r
	}
	s.upstream = stub(func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
		return owned(m.Question[0].Name, "203.0.113.9"), nil
	})
	k := s.enter(client(), "udp")
	defer s.leave(k)
	s.Store(names.Build(&mesh.Plan{Names: []*mesh.Name{{Host: "old.example", CNAME: "target.example"}}}, names.Options{}))
	packed, _ := question("old.example.", dns.TypeA).Pack()
	late := func(context.Context, upstream.Servers, *dns.Msg) (*dns.Msg, error) {
		return owned("old.example.", "192.0.2.1"), nil
	}
	_, _, later := k.long(packed, nil, late)
	reply, _ := later(t.Context())
	var r dns.Msg
	if err := r.Unpack(reply); err != nil {
		t.Fatal(err)
	}
	if len(r.Answer) != 2 || r.Answer[1].Header().Name != "target.example." {
		t.Errorf("got %v", r.Answer)
	}
}
