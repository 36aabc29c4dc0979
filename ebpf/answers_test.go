package ebpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// soaRecord is an authority for tests: owner and type on, with pointers where its names end.
func soaRecord() Authority {
	b := []byte{0, 0, 0, byte(dns.TypeSOA), 0, dns.ClassINET, 0, 0, 0, 5, 0, 0, 2, 'n', 's'}
	p1 := len(b)
	b = append(b, 0, 0, 1, 'm')
	p2 := len(b)
	b = append(b, 0, 0)
	for range 5 {
		b = binary.BigEndian.AppendUint32(b, 5)
	}
	binary.BigEndian.PutUint16(b[10:], uint16(len(b)-12))
	return Authority{Record: b, Pointers: [2]int{p1, p2}}
}

// asked is a pod whose queries the kernel answers; its nameservers are there and answer with their names.
type asked struct {
	*world
	*Answers
}

func newAsked(t testing.TB) *asked {
	t.Helper()
	return newAskedIn(t, newWorld(t))
}

func newAskedIn(t testing.TB, w *world) *asked {
	t.Helper()
	s, err := w.Answers(soaRecord())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := s.Detach(w.cookie)
		must(t, errors.Join(err, s.Close()))
	})
	w.Beat()
	serve(t, w.net, "ns4a", netip.AddrPortFrom(ns4a, 53))
	serve(t, w.net, "ns6", netip.AddrPortFrom(ns6, 53))
	must(t, w.PutPod(w.cookie, Pod{
		Ifindex: w.ifindex(t, "eth0"), Addr4: pod4, Addr6: pod6, DNS: true, LB: true, View: ViewOf("shop"), Asker: 7,
		Nameservers: []Nameserver{{ns4a, 64600}, {ns6, 64601}},
	}))
	must(t, w.pod.Do(func() error { return s.Attach(w.cookie, w.ifindex(t, "eth0"), false) }))
	return &asked{w, s}
}

func (a *asked) declare(t testing.TB, names ...Declared) int {
	t.Helper()
	n, err := a.Apply(slices.Values(names), false)
	must(t, err)
	return n
}

// ask sends a query of the pod to a nameserver and returns the reply, or the name of the server that got it.
func (a *asked) ask(t testing.TB, server netip.Addr, m *dns.Msg) (*dns.Msg, string) {
	t.Helper()
	domain := unix.AF_INET
	if server.Is6() {
		domain = unix.AF_INET6
	}
	s := a.socket(t, domain, unix.SOCK_DGRAM, 0)
	defer s.close()
	packet, err := m.Pack()
	must(t, err)
	to := netip.AddrPortFrom(server, 53)
	must(t, unix.Sendto(s.fd, packet, 0, s.sockaddr(to)))
	must(t, unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	buf := make([]byte, 4096)
	n, from, err := unix.Recvfrom(s.fd, buf, 0)
	must(t, err)
	if addrPort(from) != to {
		t.Errorf("the reply is from %s, not from %s", addrPort(from), to)
	}
	r := new(dns.Msg)
	if err := r.Unpack(buf[:n]); err != nil || !r.Response {
		return nil, string(buf[:n])
	}
	return r, ""
}

func question(name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg).SetQuestion(name, qtype)
	m.Id = 0x1234
	return m
}

var (
	shop     = Declared{Host: "web.shop.", View: ViewOf("shop"), A: []netip.Addr{vip4}, TTL: 30, Zone: "web.shop."}
	everyone = Declared{Host: "web.shop.", A: []netip.Addr{vip4b}, TTL: 30, Zone: "web.shop."}
	dual     = Declared{Host: "dual.svc.cluster.local.", A: []netip.Addr{vip4}, AAAA: []netip.Addr{vip6}, TTL: 30, Zone: "cluster.local."}
)

// Without a listener the question meets its answer on the way to the nameserver, and nobody notices.
func TestKernelAnswers(t *testing.T) {
	a := newAsked(t)
	if n := a.declare(t, shop, everyone, dual); n != 3 {
		t.Errorf("wrote %d rows", n)
	}
	if n := a.declare(t, shop, everyone, dual); n != 0 {
		t.Errorf("wrote %d rows again", n)
	}
	if n, err := a.Apply(slices.Values([]Declared{shop}), true); n != 0 || err != nil {
		t.Errorf("of a part of them wrote %d rows, %v", n, err)
	}
	for _, server := range []netip.Addr{ns4a, ns6} {
		for name, where := range map[string]struct{ listen bool }{"outside": {false}, "inside": {true}} {
			t.Run(fmt.Sprintf("%s/%s", name, server), func(t *testing.T) {
				if where.listen {
					a.Beat()
					defer a.listen(t, 0, pod4, 64600)()
					defer a.listen(t, 1, pod6, 64601)()
				}
				a.checkAnswers(t, server)
			})
		}
	}
	if got, err := a.Outcomes(a.cookie); err != nil || got.Declared == 0 || got.Unknown == 0 || got.Unusual == 0 {
		t.Errorf("counted %+v, %v", got, err)
	}
}

func (a *asked) checkAnswers(t *testing.T, server netip.Addr) {
	t.Helper()
	for _, tc := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"web.shop.", dns.TypeA, vip4.String()},
		{"wEb.SHop.", dns.TypeA, vip4.String()},
		{"web.shop.", dns.TypeAAAA, ""},
		{"dual.svc.cluster.local.", dns.TypeA, vip4.String()},
		{"dual.svc.cluster.local.", dns.TypeAAAA, vip6.String()},
	} {
		for _, edns := range []bool{false, true} {
			m := question(tc.name, tc.qtype)
			if edns {
				m.SetEdns0(4096, true)
			}
			r, other := a.ask(t, server, m)
			if r == nil {
				t.Errorf("%s %d went to %q", tc.name, tc.qtype, other)
				continue
			}
			checkReply(t, m, r, tc.want)
		}
	}
	for name, m := range map[string]*dns.Msg{
		"unknown": question("other.shop.", dns.TypeA),
		"type":    question("web.shop.", dns.TypeMX),
		"opcode":  {MsgHdr: dns.MsgHdr{Opcode: dns.OpcodeNotify}, Question: question("web.shop.", dns.TypeA).Question},
		"class":   {Question: []dns.Question{{Name: "web.shop.", Qtype: dns.TypeA, Qclass: dns.ClassCHAOS}}},
	} {
		if r, other := a.ask(t, server, m); r != nil {
			t.Errorf("%s was answered in the kernel:\n%s (%s)", name, r, other)
		}
	}
}

// checkReply holds a reply to the question and the one address wanted, none for no data.
func checkReply(t *testing.T, m, r *dns.Msg, want string) {
	t.Helper()
	if r.Id != m.Id || r.Question[0] != m.Question[0] || !r.Authoritative || !r.RecursionAvailable || !r.RecursionDesired || r.Rcode != dns.RcodeSuccess {
		t.Errorf("asked %v, replied\n%s", m.Question[0], r)
	}
	if opt := r.IsEdns0(); (opt != nil) != (m.IsEdns0() != nil) || (opt != nil && (!opt.Do() || opt.UDPSize() != 1232)) {
		t.Errorf("OPT is wrong:\n%s", r)
	}
	if want == "" {
		if len(r.Answer) != 0 || len(r.Ns) != 1 || r.Ns[0].(*dns.SOA).Ns != "ns."+r.Ns[0].Header().Name {
			t.Errorf("want no data, got\n%s", r)
		}
		return
	}
	got := ""
	for _, rr := range r.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			got += rr.A.String()
		case *dns.AAAA:
			got += rr.AAAA.String()
		}
		if rr.Header().Ttl != 30 || rr.Header().Name != m.Question[0].Name {
			t.Errorf("record %s", rr)
		}
	}
	if got != want || len(r.Ns) != 0 {
		t.Errorf("want %s, got\n%s", want, r)
	}
}

// What dnsd has said is repeated while its table is the same, with the addresses in turn.
func TestKernelLearns(t *testing.T) {
	a := newAsked(t)
	a.Forget(1)
	records := []byte{0xc0, 12, 0, byte(dns.TypeCNAME), 0, 1, 0, 0, 0, 30, 0, 2, 0xc0, 16} // x.full -> full
	fixed := len(records)
	for i := range 3 {
		records = append(records, 0xc0, 16, 0, byte(dns.TypeA), 0, 1, 0, 0, 0, 30, 0, 4, 10, 0, 0, byte(i))
	}
	learn := func(generation uint64) {
		must(t, a.Learn(Question{Host: "abc.full.", Type: dns.TypeA, View: ViewOf("shop"), Asker: 7}, generation,
			Reply{Records: records, Answers: 4, Fixed: fixed, Step: 16, Count: 3}))
	}
	ask := func() *dns.Msg { r, _ := a.ask(t, ns4a, question("abc.full.", dns.TypeA)); return r }
	learn(1)
	first := map[string]bool{}
	for range 200 {
		r := ask()
		if r == nil || len(r.Answer) != 4 || r.Answer[0].(*dns.CNAME).Target != "full." {
			t.Fatalf("replied %v", r)
		}
		seen := map[string]bool{}
		for _, rr := range r.Answer[1:] {
			seen[rr.(*dns.A).A.String()] = true
		}
		if len(seen) != 3 {
			t.Fatalf("addresses are lost: %s", r)
		}
		first[r.Answer[1].(*dns.A).A.String()] = true
	}
	if len(first) != 3 {
		t.Errorf("first were only %v", first)
	}
	a.Forget(2)
	if r := ask(); r != nil {
		t.Errorf("an old table's reply was repeated: %s", r)
	}
	learn(1) // by a reader that was late
	if r := ask(); r != nil {
		t.Errorf("an old table's reply was learned: %s", r)
	}
	learn(2)
	if ask() == nil {
		t.Error("nothing was learned")
	}
}

// Programs are exchanged by the next dnsd, go by Detach, and do not keep a namespace alive.
func TestKernelAnswersOfPodsThatGo(t *testing.T) {
	a := newAsked(t)
	a.declare(t, shop)
	next, err := a.Datapath.Answers(soaRecord())
	must(t, err)
	defer func() { must(t, next.Close()) }()
	if n, err := next.Apply(slices.Values([]Declared{shop}), true); n != 0 || err != nil {
		t.Errorf("wrote %d rows that were there, %v", n, err)
	}
	must(t, a.pod.Do(func() error { return next.Attach(a.cookie, a.ifindex(t, "eth0"), false) }))
	if r, other := a.ask(t, ns4a, question("web.shop.", dns.TypeA)); r == nil {
		t.Errorf("after the exchange it went to %s", other)
	}
	if pods, err := next.Attached(); err != nil || !slices.Equal(pods, []uint64{a.cookie}) {
		t.Errorf("attached %v, %v", pods, err)
	}
	if n, err := next.Detach(a.cookie); err != nil || n.Declared != 1 {
		t.Errorf("had counted %+v, %v", n, err)
	}
	if n, err := next.Detach(a.cookie); err != nil || n != (Outcomes{}) {
		t.Errorf("counted again %+v, %v", n, err)
	}
	if r, _ := a.ask(t, ns4a, question("web.shop.", dns.TypeA)); r != nil {
		t.Errorf("after Detach still answered:\n%s", r)
	}
}

// Where nobody keeps the answers up to date any more, or not in the maps that are in use, none are given.
func TestKernelStopsAnswering(t *testing.T) {
	for name, stop := range map[string]func(t *testing.T, a *asked){
		"switched off": func(t *testing.T, a *asked) {
			must(t, a.StopAnswering())
			if got, err := a.Outcomes(a.cookie); err != nil || got != (Outcomes{}) {
				t.Errorf("still counted %+v, %v", got, err)
			}
		},
		"another schema": func(t *testing.T, a *asked) {
			must(t, os.Rename(filepath.Join(a.options.PinPath, schemaPin), filepath.Join(a.options.PinPath, mapsDir, "schema-0")))
			d, err := Upgrade(a.options)
			must(t, err)
			must(t, d.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAsked(t)
			a.declare(t, shop)
			if r, other := a.ask(t, ns4a, question("web.shop.", dns.TypeA)); r == nil {
				t.Fatalf("at first it went to %s", other)
			}
			stop(t, a)
			if r, _ := a.ask(t, ns4a, question("web.shop.", dns.TypeA)); r != nil {
				t.Errorf("still answered:\n%s", r)
			}
			if pods, err := a.Attached(); err != nil || len(pods) != 0 {
				t.Errorf("still attached to %v, %v", pods, err)
			}
		})
	}
}

// Where the kernel has no tcx, it is the same but for the filters, which stay and leave all alone.
func TestKernelAnswersByFilters(t *testing.T) {
	o := options(t)
	o.noTCX = true
	a := newAskedIn(t, newWorldWith(t, o))
	a.declare(t, shop, everyone, dual)
	eth0 := a.ifindex(t, "eth0")
	for _, server := range []netip.Addr{ns4a, ns6} {
		a.checkAnswers(t, server)
	}
	a.Beat()
	stop4, stop6 := a.listen(t, 0, pod4, 64600), a.listen(t, 1, pod6, 64601)
	for _, server := range []netip.Addr{ns4a, ns6} {
		a.checkAnswers(t, server)
	}
	stop4()
	stop6()
	must(t, a.Check(a.cookie, eth0, false))
	for name, stop := range map[string]func(){
		"detached": func() { _, err := a.Detach(a.cookie); must(t, err) },
		"stopped":  func() { must(t, a.StopAnswering()) },
	} {
		stop()
		if r, _ := a.ask(t, ns4a, question("web.shop.", dns.TypeA)); r != nil {
			t.Errorf("%s, it still answers:\n%s", name, r)
		}
		if err := a.Check(a.cookie, eth0, false); err == nil {
			t.Errorf("%s, and said to be there", name)
		}
		s, err := a.Datapath.Answers(soaRecord())
		must(t, err)
		must(t, a.pod.Do(func() error { return s.Attach(a.cookie, eth0, false) }))
		if r, other := a.ask(t, ns4a, question("web.shop.", dns.TypeA)); r == nil {
			t.Errorf("%s and put on again, it went to %s", name, other)
		}
		must(t, s.Close())
	}
	must(t, os.Rename(filepath.Join(o.PinPath, schemaPin), filepath.Join(o.PinPath, mapsDir, "schema-0")))
	d, err := Upgrade(o)
	must(t, err)
	must(t, d.Close())
	if r, _ := a.ask(t, ns4a, question("web.shop.", dns.TypeA)); r != nil {
		t.Error("with other maps, it still answers")
	}
}

// BenchmarkAnswers100k is what 100,000 names take: to be written, to be compared when one of them changes,
// and to be found there by the next dnsd; and a map's memory for each.
func BenchmarkAnswers100k(b *testing.B) {
	const n = 100_000
	o := options(b)
	d := ensure(b, o)
	s, err := d.Answers(soaRecord())
	must(b, err)
	b.Cleanup(func() { must(b, s.Close()) })
	names := make([]Declared, n)
	for i := range names {
		host := fmt.Sprintf("svc-%05d.ns%d.svc.cluster.local.", i, i%100)
		names[i] = Declared{Host: host, A: []netip.Addr{vip4}, TTL: 30, Zone: "cluster.local."}
	}
	all := slices.Values(names)
	for i := range b.N {
		start := time.Now()
		_, err := s.Apply(all, false)
		must(b, err)
		written := time.Since(start)
		names[i%n].TTL++
		start = time.Now()
		if changed, err := s.Apply(all, false); changed != 1 || err != nil {
			b.Fatalf("wrote %d, %v", changed, err)
		}
		b.ReportMetric(time.Since(start).Seconds()*1000, "ms/change")
		start = time.Now()
		must(b, s.readBack())
		b.ReportMetric(time.Since(start).Seconds()*1000, "ms/readback")
		if i == 0 {
			b.ReportMetric(written.Seconds()*1000, "ms/load")
		}
	}
	info, err := d.maps.Names.Info()
	must(b, err)
	memory, _ := info.Memlock()
	b.ReportMetric(float64(memory)/n, "B/name")
}
