package ebpf

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// lesson is a reply of one address for what abc.full. is asked for by this client.
func lesson(view, asker uint64) (Question, Reply) {
	records := []byte{0xc0, 12, 0, byte(dns.TypeA), 0, 1, 0, 0, 0, 30, 0, 4, 10, 0, 0, 1}
	return Question{Host: "abc.full.", Type: dns.TypeA, View: view, Asker: asker},
		Reply{Records: records, Answers: 1, Step: 16, Count: 1}
}

// What was learned for one client is not given to another, though one of view and asker be the same: who could
// make a client like somebody else's would give it answers.
func TestLearnedForOthers(t *testing.T) {
	a := newAsked(t)
	a.Forget(1)
	for _, tc := range []struct {
		name        string
		view, asker uint64
		given       bool
	}{
		{"another view", ViewOf("evil"), 7, false},
		{"another asker", ViewOf("shop"), 8, false},
		{"its own", ViewOf("shop"), 7, true},
	} {
		q, r := lesson(tc.view, tc.asker)
		must(t, a.Learn(q, 1, r))
		if from, err := a.Knows(q); from != Lesson || err != nil {
			t.Errorf("%s: known as %v, %v", tc.name, from, err)
		}
		if r, _ := a.ask(t, ns4a, question("abc.full.", dns.TypeA)); (r != nil) != tc.given {
			t.Errorf("%s: given %v", tc.name, r)
		}
	}
}

// Askers are the same for the same parts, for as long as there are the maps, and for none that look alike.
func TestAsker(t *testing.T) {
	a := newAsked(t)
	one := a.Asker("4", "a", "b")
	next, err := a.Datapath.Answers(soaRecord())
	must(t, err)
	defer func() { must(t, next.Close()) }()
	if one == 0 || next.Asker("4", "a", "b") != one {
		t.Errorf("the next dnsd numbers it %x, this one %x", next.Asker("4", "a", "b"), one)
	}
	for _, parts := range [][]string{{"4", "ab"}, {"4", "a\x00b"}, {"4", "a", "b", ""}, {"4a", "b"}} {
		if a.Asker(parts...) == one {
			t.Errorf("%q are numbered alike", parts)
		}
	}
	if other := newAsked(t); other.Asker("4", "a", "b") == one {
		t.Error("another node numbers it alike")
	}
}

// A reply that is as long as any may be is given with its addresses in turn, of either family.
func TestLongLesson(t *testing.T) {
	a := newAsked(t)
	a.Forget(1)
	for qtype, size := range map[uint16]int{dns.TypeA: 4, dns.TypeAAAA: 16} {
		const count = 8
		var records []byte // fill: TXT records, which nobody asked for, so that the last address ends at the end
		step := 12 + size
		fill := len(nodensReply{}.Records) - count*step
		records = append(records, 0xc0, 12, 0, byte(dns.TypeTXT), 0, 1, 0, 0, 0, 30, 0, byte(fill-12), byte(fill-13))
		records = append(records, make([]byte, fill-13)...)
		for i := range count {
			records = append(records, 0xc0, 12, 0, byte(qtype), 0, 1, 0, 0, 0, 30, 0, byte(size), byte(i))
			records = append(records, make([]byte, size-1)...)
		}
		must(t, a.Learn(Question{Host: "abc.full.", Type: qtype, View: ViewOf("shop"), Asker: 7}, 1,
			Reply{Records: records, Answers: count + 1, Fixed: fill, Step: step, Count: count}))
		for range 50 {
			r, _ := a.ask(t, ns4a, question("abc.full.", qtype))
			if r == nil {
				t.Fatalf("type %d was left to others", qtype)
			}
			seen := map[string]bool{}
			for _, rr := range r.Answer[1:] {
				seen[rr.String()] = true
			}
			if len(seen) != count {
				t.Fatalf("addresses are lost: %s", r)
			}
		}
	}
}

// Where no listener is any more, and a program of the pod has taken its port, that program is left alone.
func TestAnswersNotForOthers(t *testing.T) {
	a := newAsked(t)
	a.declare(t, shop)
	at := netip.AddrPortFrom(pod4, 64600)
	asks := func(want string) {
		t.Helper()
		s := a.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
		defer s.close()
		packet, err := question("web.shop.", dns.TypeA).Pack()
		must(t, err)
		must(t, s.sendBytes(packet, at))
		got, _, err := s.receive()
		must(t, err)
		if got != want && (want != "" || new(dns.Msg).Unpack([]byte(got)) != nil) {
			t.Errorf("replied %q, want %q", got, want)
		}
	}
	asks("") // nobody's: of a listener that has died under a client
	udp, tcp := serve(t, a.pod, "program", at)
	asks("program")
	must(t, errors.Join(udp.Close(), tcp.Close()))
	next := a.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0) // of a dnsd that has just come
	must(t, unix.SetsockoptInt(next.fd, unix.SOL_SOCKET, unix.SO_MARK, int(Mark)))
	must(t, unix.Bind(next.fd, next.sockaddr(at)))
	asks("")
	next.close()
	stop := a.listen(t, 0, pod4, 64600)
	asks("")
	stop()
}

// Who answers in dnsd's place for long is seen, and after a day it ends.
func TestAnswersAlone(t *testing.T) {
	a := newAsked(t)
	a.declare(t, shop)
	for _, tc := range []struct {
		silent          time.Duration
		answered, alone bool
	}{{0, true, false}, {time.Minute, true, true}, {23 * time.Hour, true, true}, {25 * time.Hour, false, false}} {
		before, old := a.counter(t, "dns_answered_alone"), a.counter(t, "dns_answer_too_old")
		a.heartbeat.rows[0] = uint64(monotonic() - tc.silent)
		r, _ := a.ask(t, ns4a, question("web.shop.", dns.TypeA))
		alone, left := a.counter(t, "dns_answered_alone") > before, a.counter(t, "dns_answer_too_old") > old
		if (r != nil) != tc.answered || alone != tc.alone || left == tc.answered {
			t.Errorf("after %v: %v; counted as alone %t, as too old %t", tc.silent, r, alone, left)
		}
	}
}

// What somebody has taken off is found missing, and put back.
func TestCheck(t *testing.T) {
	if !haveTCX() {
		t.Skip("Linux before 6.6: no tcx, and filters cannot be seen from here")
	}
	a := newAsked(t)
	index := a.ifindex(t, "eth0")
	put := func() { must(t, a.pod.Do(func() error { return a.Attach(a.cookie, index, false) })) }
	for _, where := range []string{"lo", "pod"} {
		must(t, a.Check(a.cookie, index, false))
		l := a.pinnedLink(t, where)
		must(t, l.Detach())
		must(t, l.Close())
		if a.Check(a.cookie, index, false) == nil {
			t.Errorf("%s is not missed", where)
		}
		if err := a.Check(a.cookie, index, true); (err == nil) != (where == "lo") {
			t.Errorf("of a light pod %s is missed: %v", where, err)
		}
		put()
	}
}

func (a *asked) pinnedLink(t *testing.T, where string) link.Link {
	t.Helper()
	l, err := link.LoadPinnedLink(a.pinOf(a.cookie, where), nil)
	must(t, err)
	return l
}
