package serve

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// TestKernelCases asks the question of each case of the kernel, before dnsd has met it and afterwards. What
// the kernel answers is what the case expects, and it says nothing to a question that upstream has a part
// in. It prints how many it answered, and why it left the others.
func TestKernelCases(t *testing.T) {
	k := newKernelHalf(t)
	eachFile(t, func(t *testing.T, path string, cases []dnsCase) {
		fates := map[string]int{}
		for i := range cases {
			tc := &cases[i]
			t.Run(tc.ID, func(t *testing.T) { fates[tc.kernel(t, k)]++ })
		}
		fmt.Printf("%s in the kernel: of %d questions %v\n", path, len(cases), fates)
		if fates["declared"] == 0 {
			t.Error("the kernel has answered nothing")
		}
	})
}

// kernel asks the kernel twice and returns how that came out.
func (tc *dnsCase) kernel(t *testing.T, k *kernelHalf) string {
	servers := []*nameserver{startNameserver(t, tc.handler)}
	c := tc.client(servers...)
	k.askers++
	c.Asker = k.askers
	s := newServer(nil)
	s.teach = k.learn
	k.enrol(t, c)
	k.store(t, s, tc.table())
	m := tc.question()
	if tc.Query.Proto == "tcp" {
		return "over TCP"
	}
	payload, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	before, err := k.answers.Outcomes(k.cookie)
	if err != nil {
		t.Fatal(err)
	}
	first := tc.try(t, k, payload)
	exchange(t, "udp", start(t, s, c), m)
	second := tc.try(t, k, payload)
	after, err := k.answers.Outcomes(k.cookie)
	switch {
	case err != nil:
		t.Fatal(err)
	case first && !second:
		t.Error("what the kernel answered at first it did not answer again")
	case after.Unusual > before.Unusual:
		return "unusual"
	case first:
		return "declared"
	case second:
		return "learned"
	case len(servers[0].asked()) > 0:
		return "upstream's"
	}
	return "unknown"
}

// try has the kernel look at a query, and reports whether it answered, as the case expects.
func (tc *dnsCase) try(t *testing.T, k *kernelHalf, payload []byte) bool {
	t.Helper()
	d := datagram{from: netip.AddrPortFrom(podAddr[true], 40000), to: netip.AddrPortFrom(podAddr[true], ownPort[true]), payload: payload}
	packet := d.pack()
	var turned []byte
	err := k.ns.Do(func() (err error) {
		turned, err = k.answers.Try(k.cookie, packet, make([]byte, 2048))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if turned == nil {
		return false
	}
	if err := turnedRound(packet, turned, &datagram{from: d.from, to: d.to, ipSum: true, udpSum: true}); err != nil {
		t.Error(err)
	}
	reply, _ := unpack(turned)
	r := new(dns.Msg)
	if err := r.Unpack(reply.payload); err != nil {
		t.Fatal(err)
	}
	if differences := append(tc.want().compare(r, []int{0, 0}), sane(tc.question(), r)...); len(differences) > 0 {
		t.Error(strings.Join(differences, "\n"))
	}
	return true
}
