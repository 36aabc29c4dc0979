package serve

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/names"
)

// next is the next query that t shows, put in words without what differs from run to run.
func next(t *testing.T, tap *Tap) string {
	t.Helper()
	select {
	case e := <-tap.Entries():
		if e.Time.IsZero() || e.Took < 0 || !e.Client.IsValid() {
			t.Errorf("%+v", e)
		}
		server := "-"
		if e.Server.IsValid() {
			server = "server"
		}
		return fmt.Sprintf("%s %s %s %s %s %s/%s/%s", e.Pod, e.Network, e.Name, e.Type, e.Rcode, e.Source, e.Object, server)
	case <-time.After(patience):
		t.Fatal("nothing is shown")
		return ""
	}
}

// declared is a table whose rows say where they are from.
func declared() *names.Table {
	return names.Build(&mesh.Plan{Names: []*mesh.Name{
		{Host: "api.partner.test", Source: "file", Object: "ServiceEntry shop/api", Addr4: addrs("198.51.100.1")},
		{Host: "stock.partner.test", Source: "xds", Object: "stock", Addr4: addrs("198.51.100.2")},
		{Host: "out.shop.svc.cluster.local", Source: "file", Object: "Service shop/out", Kubernetes: true, CNAME: "public.example"},
	}}, names.Options{})
}

func addrs(texts ...string) (all []netip.Addr) {
	for _, s := range texts {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

func TestQueryLog(t *testing.T) {
	s := newServer(declared())
	addr := start(t, s, client(startNameserver(t, zone("public.example."))))
	tap := s.Tap("shop/pod", 1)
	other := s.Tap("shop/other", 1)
	defer s.Untap(other)
	for _, tc := range []struct {
		network string
		m       *dns.Msg
		want    string
	}{
		{"udp", question("API.partner.test.", dns.TypeA), "API.partner.test. A NOERROR file/ServiceEntry shop/api/-"},
		{"tcp", question("stock.partner.test.", dns.TypeAAAA), "stock.partner.test. AAAA NOERROR xds/stock/-"},
		{"udp", question("public.example.", dns.TypeA), "public.example. A NOERROR upstream//server"},
		{"udp", question("public.example.", dns.TypeA), "public.example. A NOERROR cache//-"},
		{"tcp", question("nothing.example.", dns.TypeA), "nothing.example. A NXDOMAIN upstream//server"},
		{"udp", question("out.shop.svc.cluster.local.", dns.TypeA), "out.shop.svc.cluster.local. A NOERROR cache/Service shop/out/-"},
		{"udp", question("localhost.", dns.TypeA), "localhost. A NOERROR special//-"},
		{"udp", new(dns.Msg).SetUpdate("public.example."), "public.example. SOA NOERROR passed//server"},
		{"udp", question(`a\032b\010c.example.`, dns.TypeTXT), `a\032b\010c.example. TXT NXDOMAIN upstream//server`},
	} {
		exchange(t, tc.network, addr, tc.m)
		if got, want := next(t, tap), "shop/pod "+tc.network+" "+tc.want; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	k := s.enter(client(), "udp")
	k.done(&verdict{source: passed, rcode: 12}, &arrival{at: time.Now(), from: netip.MustParseAddrPort("192.0.2.1:5353")})
	if got := next(t, tap); got != "shop/pod udp   RCODE12 passed//-" {
		t.Error(got)
	}
	s.leave(k)
	raw(t, addr, []byte("short"), time.Millisecond)
	if got := next(t, tap); got != "shop/pod udp   none malformed//-" {
		t.Error(got)
	}
	s.Untap(tap)
	exchange(t, "udp", addr, question("api.partner.test.", dns.TypeA))
	if len(tap.entries) > 0 || len(other.entries) > 0 {
		t.Error("what nobody watches is shown")
	}
}

// A tap that nobody reads loses queries and counts them; the answers come as ever.
func TestTapDoesNotHoldUpAnswers(t *testing.T) {
	s := newServer(table())
	tap := s.Tap("", 1)
	defer s.Untap(tap)
	k := s.enter(client(), "udp")
	packed, _ := question("api.partner.test.", dns.TypeA).Pack()
	const more = 100
	for range tapSize + more {
		query := k.arrived(packed, k.client.Nameserver)
		reply, v, _ := k.begin(packed, nil)
		if reply == nil {
			t.Fatal("no reply")
		}
		k.done(&v, &query)
	}
	if tap.Lost() != more {
		t.Errorf("%d are lost, want %d", tap.Lost(), more)
	}
}

func TestSampledLog(t *testing.T) {
	s := newServer(table())
	c := client()
	c.LogEvery = 4
	addr := start(t, s, c)
	eventually(t, "the standing log has some of the queries", func() bool {
		exchange(t, "udp", addr, question("api.partner.test.", dns.TypeA))
		return len(s.Log().entries) > 10
	})
	if all := s.Stats().UDP; all <= 12 { // by chance once in 10^6 runs
		t.Errorf("of %d queries more than 10 were logged", all)
	}
	quiet := client()
	quiet.Pod = "shop/quiet"
	exchange(t, "udp", start(t, s, quiet), question("few.partner.test.", dns.TypeA))
	for len(s.Log().entries) > 0 {
		if e := <-s.Log().Entries(); e.Pod != "shop/pod" {
			t.Errorf("%+v", e)
		}
	}
}

// counted are the Answers of s, without those of namespaces that are not asked for.
func counted(s *Server, namespaces ...string) string {
	var all []string
	for _, n := range s.Stats().Answers {
		if len(namespaces) == 0 || slices.Contains(namespaces, n.Namespace) {
			all = append(all, n.Namespace+" "+n.Source+" "+n.Rcode+" "+strconv.FormatUint(n.Queries, 10))
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func TestAnswersAreCounted(t *testing.T) {
	s := newServer(declared())
	ns := startNameserver(t, zone("public.example."))
	elsewhere := client(ns)
	elsewhere.Namespace, elsewhere.Pod = "bank", "bank/pod"
	t.Run("serve", func(t *testing.T) {
		addr, other := start(t, s, client(ns)), start(t, s, elsewhere)
		exchange(t, "udp", addr, question("api.partner.test.", dns.TypeA))
		exchange(t, "udp", addr, question("public.example.", dns.TypeA))
		exchange(t, "tcp", other, question("stock.partner.test.", dns.TypeA))
		exchange(t, "udp", other, question("nothing.example.", dns.TypeA))
		eventually(t, "all is counted", func() bool {
			return counted(s) == "bank upstream NXDOMAIN 1, bank xds NOERROR 1, shop file NOERROR 1, shop upstream NOERROR 1"
		})
	})
	// What was counted for a pod outlives it.
	if got := s.Stats(); got.UDP != 3 || got.TCP != 1 || got.Waited.Total() != 2 || got.Waited.Sum <= 0 ||
		counted(s, "bank") != "bank upstream NXDOMAIN 1, bank xds NOERROR 1" {
		t.Errorf("%+v", got)
	}
	// Namespaces that come and go do not add up.
	packed, _ := question("api.partner.test.", dns.TypeA).Pack()
	for i := range maxPast {
		c := client()
		c.Namespace = "n" + strconv.Itoa(i)
		c.Pod = c.Namespace + "/pod"
		k := s.enter(c, "udp")
		_, v, _ := k.begin(packed, nil)
		k.done(&v, &arrival{})
		s.leave(k)
	}
	if got := counted(s, OtherNamespaces); got != "(others) file NOERROR 2" {
		t.Error(got)
	}
}

// BenchmarkQueryLog is what it costs to count a query and to show it, beside answering it: to nobody, and
// to somebody who takes one in a hundred or all.
func BenchmarkQueryLog(b *testing.B) {
	packed, _ := question("api.partner.test.", dns.TypeA).Pack()
	for _, bm := range []struct {
		name  string
		every int
	}{{"off", 0}, {"hundredth", 100}, {"all", 1}} {
		b.Run(bm.name, func(b *testing.B) {
			s, c := rememberingServer(b)
			k := s.enter(c, "udp")
			buf := make([]byte, replySize)
			_, v, _ := k.begin(packed, buf)
			if bm.every > 0 {
				tap := s.Tap("", bm.every)
				defer s.Untap(tap)
				stop := make(chan struct{})
				defer close(stop)
				go func() {
					for {
						select {
						case <-tap.Entries():
						case <-stop:
							return
						}
					}
				}()
			}
			b.ReportAllocs()
			for b.Loop() {
				query := k.arrived(packed, c.Nameserver)
				k.done(&v, &query)
			}
		})
	}
}
