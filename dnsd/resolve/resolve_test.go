package resolve

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/nodens-dns/nodens/dnsd/mesh"
)

const (
	db  = "db.example. A"
	one = "db.example. 30 IN A 192.0.2.1"
	two = "db.example. 30 IN A 192.0.2.2"
)

func TestFirstAnswerAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set(db, one)
		run(t, w, func(r *Resolver) {
			r.Watch([]mesh.Watch{watch(v4("db.example"))})
			w.expect(t, v4("db.example"), false, "192.0.2.1")
			if took := time.Since(w.began); took != 0 {
				t.Errorf("it took %v", took)
			}
			if in := w.emitted[0]; in.Source != "resolve" || in.Pending {
				t.Errorf("emitted %+v", in)
			}
			if s := w.servers[0]; !reflect.DeepEqual(s.Addrs, nodeServers) || s.TCP {
				t.Errorf("asked %+v", s)
			}
		})
	})
}

// What each outcome of a lookup does to what is known: only another answer is news. To STRICT_DNS clusters
// the order in which addresses come is none; a LOGICAL_DNS one uses the first.
func TestOutcomes(t *testing.T) {
	const (
		one, two = "192.0.2.1", "192.0.2.2"
		reversed = two + " " + one
		both     = one + " " + two
	)
	referral := &dns.Msg{Ns: []dns.RR{&dns.NS{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeNS}}}}
	for _, ordered := range []bool{false, true} {
		first, emits := both, 0
		if ordered {
			first, emits = reversed, 1
		}
		t.Run(fmt.Sprintf("ordered %v", ordered), func(t *testing.T) {
			testOutcomes(t, ordered, []outcomeStep{
				{"answers", a(one, two), 1, false, both},
				{"the same", a(one, two), 0, false, both},
				{"twice in one answer", a(one, two, one), 0, false, both},
				{"another first", a(two, one), emits, false, first},
				{"one less", a(two), 1, false, two},
				{"SERVFAIL", dns.RcodeServerFailure, 0, false, two},
				{"REFUSED", dns.RcodeRefused, 0, false, two},
				{"FORMERR", dns.RcodeFormatError, 0, false, two},
				{"NOTIMP", dns.RcodeNotImplemented, 0, false, two},
				{"timeout", errors.New("no answer in time"), 0, false, two},
				{"referral", referral, 0, false, two},
				{"truncated", &dns.Msg{MsgHdr: dns.MsgHdr{Truncated: true}}, 0, false, two},
				{"NODATA", "", 1, true, two},
				{"NXDOMAIN", nil, 0, true, two},
				{"SERVFAIL after NXDOMAIN", dns.RcodeServerFailure, 0, true, two},
				{"back", a(two), 1, false, two},
			})
		})
	}
}

type outcomeStep struct {
	what      string
	answer    any
	emits     int
	negative  bool
	addresses string
}

func testOutcomes(t *testing.T, ordered bool, steps []outcomeStep) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		l := v4("db.example")
		run(t, w, func(r *Resolver) {
			for i, step := range steps {
				w.set(db, step.answer)
				before := w.emissions()
				if i == 0 {
					r.Watch([]mesh.Watch{{Lookup: l, Schedules: []mesh.Schedule{{}}, Ordered: ordered}})
				}
				time.Sleep(5100 * time.Millisecond)
				w.expect(t, l, step.negative, strings.Fields(step.addresses)...)
				if n := w.emissions() - before; n != step.emits {
					t.Errorf("%s: %d emissions, want %d", step.what, n, step.emits)
				}
			}
		})
	})
}

func TestFamilies(t *testing.T) {
	const (
		a, aaaa = "db.example. 30 IN A 192.0.2.1", "db.example. 30 IN AAAA 2001:db8::1"
		a2      = "db.example. 30 IN A 192.0.2.2"
		four    = "192.0.2.1"
		six     = "2001:db8::1"
	)
	bad := dns.RcodeServerFailure
	for _, test := range []struct {
		family    mesh.LookupFamily
		a, aaaa   any
		asked     string // which types, in any order
		negative  bool
		failed    bool
		addresses []string
	}{
		{mesh.V4Only, a, aaaa, "A", false, false, []string{four}},
		{mesh.V4Only, "", aaaa, "A", true, false, nil},
		{mesh.V6Only, a, aaaa, "AAAA", false, false, []string{six}},
		{mesh.V6Only, a, bad, "AAAA", false, true, nil},
		{mesh.Auto, a, aaaa, "AAAA", false, false, []string{six}},
		{mesh.Auto, a, "", "AAAA A", false, false, []string{four}},
		{mesh.Auto, "", "", "AAAA A", true, false, nil},
		{mesh.Auto, bad, "", "AAAA A", false, true, nil},
		{mesh.Auto, "", bad, "AAAA A", false, true, nil},
		{mesh.Auto, a, bad, "AAAA A", false, true, []string{four}},
		{"", a, aaaa, "AAAA", false, false, []string{six}},
		{mesh.V4Preferred, a, aaaa, "A", false, false, []string{four}},
		{mesh.V4Preferred, "", aaaa, "A AAAA", false, false, []string{six}},
		{mesh.V4Preferred, bad, "", "A AAAA", false, true, nil},
		{mesh.V4Preferred, nil, nil, "A AAAA", true, false, nil},
		{mesh.AllFamilies, a + ";" + a2, aaaa, "A AAAA", false, false, []string{four, "192.0.2.2", six}},
		{mesh.AllFamilies, "", aaaa, "A AAAA", false, false, []string{six}},
		{mesh.AllFamilies, bad, aaaa, "A AAAA", false, true, []string{six}},
		{mesh.AllFamilies, bad, "", "A AAAA", false, true, nil},
		{mesh.AllFamilies, "", "", "A AAAA", true, false, nil},
		{mesh.AllFamilies, bad, bad, "A AAAA", false, true, nil},
	} {
		t.Run(fmt.Sprintf("%s/%v/%v", test.family, test.a, test.aaaa), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.set("db.example. A", test.a)
				w.set("db.example. AAAA", test.aaaa)
				l := mesh.Lookup{Name: "db.example", Family: test.family}
				run(t, w, func(r *Resolver) {
					r.Watch([]mesh.Watch{watch(l)})
					w.expect(t, l, test.negative, test.addresses...)
					if res, _ := w.known(l); (res.Error != "") != test.failed {
						t.Errorf("error %q", res.Error)
					}
					for _, qtype := range []string{"A", "AAAA"} {
						want := 0
						if slices.Contains(strings.Fields(test.asked), qtype) {
							want = 1
						}
						if n := w.count("db.example. " + qtype); n != want {
							t.Errorf("%s asked %d times, want %d", qtype, n, want)
						}
					}
				})
			})
		})
	}
}

// What one family failing does to what both had: nothing is lost, and what is new is taken.
func TestOneFamilyFails(t *testing.T) {
	const (
		a4, b4 = "db.example. 30 IN A 192.0.2.1", "db.example. 30 IN A 192.0.2.2"
		a6, b6 = "db.example. 30 IN AAAA 2001:db8::1", "db.example. 30 IN AAAA 2001:db8::2"
	)
	bad := dns.RcodeServerFailure
	type step struct {
		a, aaaa   any
		negative  bool
		addresses []string
	}
	for family, steps := range map[mesh.LookupFamily][]step{
		mesh.AllFamilies: {
			{a4, a6, false, []string{"192.0.2.1", "2001:db8::1"}},
			{b4, bad, false, []string{"192.0.2.2", "2001:db8::1"}},
			{bad, b6, false, []string{"192.0.2.2", "2001:db8::2"}},
			{"", bad, false, []string{"2001:db8::2"}},
			{bad, "", false, []string{"2001:db8::2"}}, // nothing would be left, and A may be there
			{a4, "", false, []string{"192.0.2.1"}},
			{bad, nil, false, []string{"192.0.2.1"}},
			{"", "", true, []string{"192.0.2.1"}},
			{bad, "", true, []string{"192.0.2.1"}},
			{bad, a6, false, []string{"2001:db8::1"}},
		},
		mesh.Auto: {
			{a4, a6, false, []string{"2001:db8::1"}},
			{a4, bad, false, []string{"2001:db8::1"}}, // no switch of family for a lost packet
			{a4, "", false, []string{"192.0.2.1"}},
			{b4, bad, false, []string{"192.0.2.2"}},
			{bad, bad, false, []string{"192.0.2.2"}},
			{"", bad, false, []string{"192.0.2.2"}},
			{"", "", true, []string{"192.0.2.2"}},
		},
		mesh.V4Preferred: {
			{a4, a6, false, []string{"192.0.2.1"}},
			{bad, a6, false, []string{"192.0.2.1"}},
			{"", a6, false, []string{"2001:db8::1"}},
			{bad, b6, false, []string{"2001:db8::2"}},
		},
	} {
		t.Run(string(family), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				l := mesh.Lookup{Name: "db.example", Family: family}
				run(t, w, func(r *Resolver) {
					for i, s := range steps {
						w.set("db.example. A", s.a)
						w.set("db.example. AAAA", s.aaaa)
						if i == 0 {
							r.Watch([]mesh.Watch{watch(l)})
						}
						synctest.Wait()
						time.Sleep(5100 * time.Millisecond)
						t.Logf("step %d: %v %v", i, s.a, s.aaaa)
						w.expect(t, l, s.negative, s.addresses...)
					}
				})
			})
		})
	}
}

func TestCNAME(t *testing.T) {
	for name, test := range map[string]struct {
		answers   map[string]any
		addresses []string
		err       string
		ttl       time.Duration
	}{
		"in one answer, any order": {map[string]any{
			db: "web.example. 9 IN A 192.0.2.1; DB.example. 60 IN CNAME Alias.example.; alias.example. 7 IN CNAME web.example.; evil.example. 1 IN A 203.0.113.66",
		}, []string{"192.0.2.1"}, "", 7 * time.Second},
		"continued by asking": {map[string]any{
			db:                 "db.example. 4 IN CNAME alias.example.",
			"alias.example. A": "alias.example. 60 IN CNAME web.example.",
			"web.example. A":   "web.example. 60 IN A 192.0.2.1",
		}, []string{"192.0.2.1"}, "", 4 * time.Second},
		"to nothing": {map[string]any{
			db: "db.example. 4 IN CNAME alias.example.",
		}, nil, "", 0},
		"in a circle": {map[string]any{
			db: "db.example. 4 IN CNAME alias.example.; alias.example. 4 IN CNAME db.example.",
		}, nil, "circle", 0},
		"without end": {func() map[string]any {
			m := map[string]any{db: "db.example. 4 IN CNAME a0.example."}
			for i := range 100 {
				m[fmt.Sprintf("a%d.example. A", i)] = fmt.Sprintf("a%d.example. 4 IN CNAME a%d.example.", i, i+1)
			}
			return m
		}(), nil, "more than 8 queries", 0},
		"failing later": {map[string]any{
			db:                 "db.example. 4 IN CNAME alias.example.",
			"alias.example. A": dns.RcodeServerFailure,
		}, nil, "SERVFAIL", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.answers = test.answers
				l := v4("db.example")
				run(t, w, func(r *Resolver) {
					r.Watch([]mesh.Watch{watch(l)})
					w.expect(t, l, test.addresses == nil && test.err == "", test.addresses...)
					res, _ := w.known(l)
					if test.err == "" && res.Error != "" || !strings.Contains(res.Error, test.err) {
						t.Errorf("error %q, want %q", res.Error, test.err)
					}
					if got := r.Status()[0].TTL; got != test.ttl {
						t.Errorf("TTL %v, want %v", got, test.ttl)
					}
				})
			})
		})
	}
}
