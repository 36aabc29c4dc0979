package serve

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// Only what somebody in front of us could have answered instead is taught: plain questions over UDP whose
// answer is the table's.
func TestTeach(t *testing.T) {
	var learned []string
	s := New(Options{Learn: func(l Learned) {
		learned = append(learned, fmt.Sprintf("%s %d: %d of %d, %d bytes", l.Name, l.Qtype, l.Count, l.Answers, len(l.Records)))
	}})
	s.upstream = stub(func(_ context.Context, m *dns.Msg) (*dns.Msg, error) { return new(dns.Msg).SetReply(m), nil })
	s.Store(table())
	c := client()
	c.Asker = 7
	cookie := question("api.partner.test.", dns.TypeA).SetEdns0(1232, false)
	cookie.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
	for _, tc := range []struct {
		network string
		m       *dns.Msg
		want    []string
	}{
		{"udp", question("API.partner.test.", dns.TypeA), []string{"api.partner.test. 1: 1 of 1, 16 bytes"}},
		{"udp", question("few.partner.test.shop.svc.cluster.local.", dns.TypeA).SetEdns0(1232, true),
			[]string{"few.partner.test.shop.svc.cluster.local. 1: 4 of 5, 94 bytes"}},
		{"tcp", question("api.partner.test.", dns.TypeA), nil},
		{"udp", cookie, nil},
		{"udp", question("many.partner.test.", dns.TypeA), nil}, // truncated
		{"udp", question("public.example.", dns.TypeA), nil},
	} {
		learned = nil
		packet, err := tc.m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		s.enter(c, tc.network).begin(packet, make([]byte, replySize))
		if !slices.Equal(learned, tc.want) {
			t.Errorf("%s %v: taught %q, want %q", tc.network, tc.m.Question[0], learned, tc.want)
		}
	}
}

// A pod has only so many answers learned, whatever it asks, and others as many as before.
func TestLessons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		learned := 0
		s := New(Options{Learn: func(Learned) { learned++ }})
		s.Store(table())
		asks := func(pod string, n int) int {
			c := client()
			c.Asker, c.Pod = 7, pod
			k := s.enter(c, "udp")
			learned = 0
			packet, err := question("api.partner.test.", dns.TypeA).Pack()
			if err != nil {
				t.Fatal(err)
			}
			for range n {
				k.begin(packet, make([]byte, replySize))
			}
			return learned
		}
		for _, tc := range []struct {
			pod       string
			after     time.Duration
			asked, is int
		}{
			{"wild", 0, 1000, lessonsAtOnce}, {"wild", 0, 1000, 0}, {"tame", 0, 100, 100},
			{"wild", time.Second, 1000, int(time.Second / lessonEvery)}, {"wild", time.Hour, 1000, lessonsAtOnce},
		} {
			time.Sleep(tc.after) // the bubble's clock
			if got := asks(tc.pod, tc.asked); got != tc.is {
				t.Errorf("%s asks %d times after %v: %d are learned, want %d", tc.pod, tc.asked, tc.after, got, tc.is)
			}
		}
	})
}
