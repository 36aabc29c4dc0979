package serve

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/names"
)

// packetsPerSeed is how many packets FuzzKernel makes of one seed: -fuzztime 10000x are ten million.
const packetsPerSeed = 1000

// FuzzKernel sends the same packets both ways, as they should be and mutated: what the kernel answers, this
// server answers, too, with nothing else than the order of addresses, and the reply is a whole packet whose
// checksums are as right as the query's.
func FuzzKernel(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	k := newKernelHalf(f)
	s := New(Options{Learn: k.learn})
	f.Cleanup(func() {
		all, err := k.answers.Outcomes(k.cookie)
		f.Logf("in the kernel: %+v", all)
		fuzzing := flag.Lookup("test.fuzz").Value.String() != "" // then others do the work
		if err != nil || !fuzzing && (all.Declared == 0 || all.Learned == 0) {
			f.Errorf("not everything was tried: %+v, %v", all, err)
		}
	})
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 0))
		k.store(t, s, kernelTable(r))
		questions := randomQuestions(r)
		for _, i := range r.Perm(len(kernelClients))[:2] { // what the first has taught must not reach the second
			c := kernelClients[i]
			c.Asker = k.asker(&c)
			k.enrol(t, &c)
			socket := s.enter(&c, "udp")
			k.tally = tally{taught: map[taught]bool{}, v6: c.IPv6}
			err := k.ns.Do(func() error {
				for range packetsPerSeed / 2 {
					packet := randomPacket(r, questions)
					if err := k.compare(socket, packet); err != nil {
						return fmt.Errorf("packet %x of %s: %w", packet, c.Pod, err)
					}
				}
				return nil
			})
			s.leave(socket)
			if err != nil {
				t.Fatal(err)
			}
			if k.tally.missed > 2+k.tally.again/20 { // a few: it may forget
				t.Errorf("%s: of %d questions it had been taught to answer, the kernel has left %d to dnsd", c.Pod, k.tally.again, k.tally.missed)
			}
		}
	})
}

// tally is what the kernel has been taught for a client, how often that was asked again, and left to dnsd.
type tally struct {
	taught        map[taught]bool
	v6            bool // the client has it
	again, missed int
}

type taught struct {
	name  string
	qtype uint16
}

// note counts a packet in whose answer the kernel should know.
func (t *tally) note(query *datagram, left bool) {
	var q plainQuery
	v4 := query.from.Addr().Is4()
	to := query.to == netip.AddrPortFrom(podAddr[v4], ownPort[v4]) || query.to == netip.AddrPortFrom(toldServer[v4], dnsPort)
	if !query.ipSum || !query.udpSum || !to || !v4 && !t.v6 || !q.read("udp", query.payload) || q.options || !t.taught[taught{q.name(), q.qtype}] {
		return
	}
	t.again++
	if left {
		t.missed++
	}
}

// asker numbers a client as pods does.
func (k *kernelHalf) asker(c *Client) uint64 {
	return k.answers.Asker(append([]string{fmt.Sprint(c.IPv6), c.Namespace}, c.Search...)...)
}

// kernelClients are alike but for one thing each.
var kernelClients = []Client{
	{Client: names.Client{Namespace: "shop", IPv6: true, Search: []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}}, Pod: "shop/six"},
	{Client: names.Client{Namespace: "shop", Search: []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}}, Pod: "shop/four"},
	{Client: names.Client{Namespace: "shop", IPv6: true, Search: []string{"svc.cluster.local", "cluster.local"}}, Pod: "shop/short"},
	{Client: names.Client{Namespace: "bank", IPv6: true, Search: []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}}, Pod: "bank/six"},
	{Client: names.Client{Namespace: "bank", IPv6: true, Search: []string{"Corp.example.", "svc.cluster.local"}}, Pod: "bank/odd"},
}

// kernelTable has a name of each kind, with other addresses each time.
func kernelTable(r *rand.Rand) *names.Table {
	some := func(n int) (all []netip.Addr) {
		for range r.IntN(n + 1) {
			all = append(all, netip.AddrFrom4([4]byte{10, 244, byte(r.Uint32()), byte(r.Uint32())}))
		}
		return all
	}
	six := func(n int) (all []netip.Addr) {
		for range r.IntN(n + 1) {
			all = append(all, netip.AddrFrom16([16]byte{0xfd, 14: byte(r.Uint32()), 15: byte(r.Uint32())}))
		}
		return all
	}
	port := []mesh.Port{{Name: "http", Number: 80, Protocol: mesh.TCP}}
	var zones []mesh.Zone
	if r.IntN(2) == 0 {
		zones = []mesh.Zone{{Name: "cluster.local", Namespaces: []string{"shop"}}}
	}
	spread := r.IntN(2) == 0
	return names.Build(&mesh.Plan{Zones: zones, Names: []*mesh.Name{
		{Host: "api.partner.test", Virtual: true, Addr4: some(1), Addr6: six(1), Ports: port},
		{Host: "few.partner.test", Addr4: some(6), Addr6: six(6)},
		{Host: "many.partner.test", Addr4: some(40), Addr6: six(40)},
		{Host: "own.partner.test", Addr4: some(2), TTL: 1 + r.Uint32N(3600)},
		{Host: "own.partner.test", View: "bank", Virtual: true, Addr4: some(2), Addr6: six(2)},
		{Host: strings.Repeat("long-label.", 10) + "test", Addr4: some(3), Addr6: six(3)},
		{Host: "data.partner.test", Addr4: some(2), TTL: 7, Data: &mesh.Data{Texts: []string{"text"}, Mail: []mesh.Mail{{Target: "api.partner.test", Preference: 1}}}},
		{Host: "*.wild.test", Virtual: true, Addr4: some(2), Addr6: six(2)},
		{Host: "cart.shop.svc.cluster.local", Kubernetes: true, Addr4: some(5), Addr6: six(1), Ports: port},
		{Host: "db.shop.svc.cluster.local", Kubernetes: true, Headless: true, Addr4: some(3), Ports: port, Records: []mesh.Record{
			{Label: "db-0", Addresses: some(2), Ports: port}, {Label: "db-1", Addresses: six(2), Ports: port}}},
		{Host: "unready.shop.svc.cluster.local", Kubernetes: true, Headless: true, Ports: port},
		{Host: "alias.shop.svc.cluster.local", Kubernetes: true, CNAME: "cart.shop.svc.cluster.local"},
		{Host: "out.shop.svc.cluster.local", Kubernetes: true, CNAME: "public.example"},
	}}, names.Options{VIPs: ranges, Endpoint: func(*names.Row, netip.Addr) bool { return spread }})
}

var (
	kernelNames = []string{
		"api.partner.test.", "few.partner.test.", "many.partner.test.", "own.partner.test.", "data.partner.test.", "partner.test.", "a.b.wild.test.",
		strings.Repeat("long-label.", 10) + "test.", "cart.shop.svc.cluster.local.", "db.shop.svc.cluster.local.",
		"db-0.db.shop.svc.cluster.local.", "db-1.db.shop.svc.cluster.local.", "unready.shop.svc.cluster.local.",
		"alias.shop.svc.cluster.local.", "out.shop.svc.cluster.local.", "_http._tcp.cart.shop.svc.cluster.local.",
		"cart.", "cart.shop.", "db-0.db.", "localhost.", "x.localhost.", "secret.onion.", "1.0.240.240.in-addr.arpa.",
		"10-244-1-9.shop.pod.cluster.local.", "10-244-1-9.cart.shop.svc.cluster.local.", "public.example.", "no.such.name.shop.svc.cluster.local.", "svc.cluster.local.", ".",
	}
	kernelSuffixes = []string{"", "", "", "", "shop.svc.cluster.local.", "svc.cluster.local.", "cluster.local.", "corp.example."}
	kernelTypes    = []uint16{dns.TypeA, dns.TypeA, dns.TypeA, dns.TypeAAAA, dns.TypeAAAA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeMX, dns.TypeTXT, dns.TypeSRV, dns.TypePTR, dns.TypeANY, dns.TypeCNAME}
)

// randomQuestions are so few that most are asked often enough to be known.
func randomQuestions(r *rand.Rand) (all []dns.Question) {
	for range 25 {
		name := kernelNames[r.IntN(len(kernelNames))]
		if name != "." {
			name += kernelSuffixes[r.IntN(len(kernelSuffixes))]
		}
		all = append(all, dns.Question{Name: name, Qtype: kernelTypes[r.IntN(len(kernelTypes))], Qclass: dns.ClassINET})
	}
	return all
}

// randomPacket is a query of the pod, or what has become of one.
func randomPacket(r *rand.Rand, questions []dns.Question) []byte {
	v4, inside := r.IntN(2) == 0, r.IntN(2) == 0
	d := datagram{from: netip.AddrPortFrom(podAddr[v4], uint16(1024+r.IntN(60000))), to: netip.AddrPortFrom(toldServer[v4], dnsPort)}
	if inside {
		d.to = netip.AddrPortFrom(podAddr[v4], ownPort[v4])
	}
	d.payload = randomQuery(r, questions[r.IntN(len(questions))])
	least := etherSize + ipSize(v4) + udpSize
	switch r.IntN(14) {
	case 0, 1, 2: // what is asked
		flip(r, d.payload)
	case 3:
		d.payload = resize(r, d.payload)
	case 4: // how it is sent
		packet := d.pack()
		flip(r, packet)
		return packet
	case 5:
		packet := d.pack()
		return append(packet[:least:least], resize(r, packet[least:])...)
	}
	return d.pack()
}

func randomQuery(r *rand.Rand, q dns.Question) []byte {
	if r.IntN(2) == 0 {
		b := []byte(q.Name)
		for i := range b {
			if r.IntN(2) == 0 {
				b[i] = bytes.ToUpper(b[i : i+1])[0]
			}
		}
		q.Name = string(b)
	}
	m := &dns.Msg{Question: []dns.Question{q}}
	m.Id = uint16(r.Uint32())
	m.RecursionDesired, m.AuthenticatedData, m.CheckingDisabled = r.IntN(4) > 0, r.IntN(4) == 0, r.IntN(4) == 0
	if r.IntN(2) == 0 {
		m.SetEdns0(uint16(r.IntN(5000)), r.IntN(2) == 0)
		if r.IntN(8) == 0 {
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
		}
	}
	packed, err := m.Pack()
	if err != nil {
		panic(err) // all of those names can be packed
	}
	return packed
}

func flip(r *rand.Rand, b []byte) {
	for range 1 + r.IntN(4) {
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
	}
}

func resize(r *rand.Rand, b []byte) []byte {
	if r.IntN(2) == 0 {
		return b[:r.IntN(len(b))]
	}
	return append(b, make([]byte, 1+r.IntN(40))...)
}

// compare has a packet answered both ways.
func (k *kernelHalf) compare(s *socket, packet []byte) error {
	var buf [2048]byte
	var space [replySize]byte
	turned, err := k.answers.Try(k.cookie, packet, buf[:])
	if err != nil {
		return err
	}
	query, err := unpack(packet)
	if err == nil {
		k.tally.note(&query, turned == nil)
	}
	if turned == nil {
		if err == nil && query.ipSum && query.udpSum {
			s.begin(query.payload, space[:]) // which teaches
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("the kernel answers what nobody gets: %w", err)
	}
	if err := turnedRound(packet, turned, &query); err != nil {
		return err
	}
	reply, _ := unpack(turned)
	want, _, later := s.begin(query.payload, space[:])
	if later != nil || want == nil {
		return fmt.Errorf("the kernel answers what dnsd does not: %x", reply.payload)
	}
	return sameAnswer(reply.payload, want)
}

// turnedRound holds the packet of a reply to that of its query.
func turnedRound(packet, turned []byte, query *datagram) error {
	v4 := query.from.Addr().Is4()
	reply, err := unpack(turned)
	switch {
	case err != nil:
		return fmt.Errorf("malformed reply %x: %w", turned, err)
	case reply.from != query.to || reply.to != query.from:
		return fmt.Errorf("a reply from %s to %s", reply.from, reply.to)
	case reply.ipSum != query.ipSum || reply.udpSum != query.udpSum:
		return fmt.Errorf("checksums (right %t, %t) became (%t, %t): %x", query.ipSum, query.udpSum, reply.ipSum, reply.udpSum, turned)
	case !bytes.Equal(headers(packet, v4), headers(turned, v4)):
		return fmt.Errorf("something else in the headers changed: %x", turned)
	}
	macs := slices.Concat(packet[6:12], packet[:6])
	inside := query.to == netip.AddrPortFrom(podAddr[v4], ownPort[v4])
	if inside {
		macs = packet[:12]
	} else if query.to != netip.AddrPortFrom(toldServer[v4], dnsPort) {
		return errors.New("it was sent to somebody else")
	}
	if !bytes.Equal(turned[:12], macs) {
		return fmt.Errorf("wrong hardware addresses: %x", turned[:12])
	}
	return nil
}

// sameAnswer reports a difference between two replies other than the order of addresses.
func sameAnswer(got, want []byte) error {
	var g, w dns.Msg
	if err := g.Unpack(got); err != nil {
		return fmt.Errorf("malformed answer %x: %w", got, err)
	}
	if bytes.Equal(got, want) {
		return nil
	}
	if err := w.Unpack(want); err != nil {
		return fmt.Errorf("dnsd's answer %x: %w", want, err)
	}
	if len(got) != len(want) || !bytes.Equal(got[:headerSize], want[:headerSize]) || sorted(&g) != sorted(&w) {
		return fmt.Errorf("the kernel says\n%v, dnsd\n%v", &g, &w)
	}
	return nil
}

// sorted is m as text with its addresses in order.
func sorted(m *dns.Msg) string {
	slices.SortStableFunc(m.Answer, func(a, b dns.RR) int {
		if a.Header().Rrtype == dns.TypeCNAME || b.Header().Rrtype == dns.TypeCNAME {
			return 0 // they come first, in their order
		}
		return strings.Compare(a.String(), b.String())
	})
	return m.String()
}
