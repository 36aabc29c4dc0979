package upstream

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

func zone(name string, addrs ...netip.AddrPort) Zone {
	z := Zone{Name: name}
	for _, a := range addrs {
		z.Servers = append(z.Servers, Server{Addr: a})
	}
	return z
}

// telling answers every question with one address.
func telling(t *testing.T, addr string) *testServer {
	return serve(t, func(_ string, q *dns.Msg) *dns.Msg { return reply(q, q.Question[0].Name+" 60 IN A "+addr) })
}

func TestZones(t *testing.T) {
	pods, outer, inner := telling(t, "192.0.2.1"), telling(t, "192.0.2.2"), telling(t, "192.0.2.3")
	c := New(Options{Zones: []Zone{zone("Corp.Example", outer.addr), zone("lab.corp.example.", inner.addr)}})
	for name, want := range map[string]string{
		"corp.example.":              "192.0.2.2",
		"DB.corp.EXAMPLE.":           "192.0.2.2",
		"x.y.corp.example.":          "192.0.2.2",
		"lab.corp.example.":          "192.0.2.3",
		"a.lab.corp.example.":        "192.0.2.3",
		"xlab.corp.example.":         "192.0.2.2",
		`x\.lab.corp.example.`:       "192.0.2.2",
		"example.":                   "192.0.2.1",
		"xcorp.example.":             "192.0.2.1",
		"corp.example.shop.svc.":     "192.0.2.1",
		`a.b.c.d.e.f\.corp.example.`: "192.0.2.1",
	} {
		m, err := c.Exchange(t.Context(), to(pods.addr), query(name, dns.TypeA))
		expectA(t, must(t, m, err), want)
		if m, err = c.Ask(t.Context(), to(pods.addr), query(name, dns.TypeA)); err != nil || addresses(m)[0] != want {
			t.Errorf("%s: Ask says %v, %v", name, m, err)
		}
	}
	// The proof that a zone is signed stands in the zone above it.
	for name, s := range map[string]*testServer{"corp.example.": pods, "lab.corp.example.": outer, "a.lab.corp.example.": inner} {
		before := s.udp.Load()
		if _, err := c.Exchange(t.Context(), to(pods.addr), query(name, dns.TypeDS)); err != nil || s.udp.Load() != before+1 {
			t.Errorf("DS of %s went elsewhere, %v", name, err)
		}
	}
}

func TestZoneOfEverything(t *testing.T) {
	all, cluster := telling(t, "192.0.2.2"), telling(t, "192.0.2.3")
	c := New(Options{Zones: []Zone{zone(".", all.addr), zone("cluster.local", cluster.addr)}})
	for name, want := range map[string]string{".": "192.0.2.2", "www.example.com.": "192.0.2.2", "api.shop.svc.cluster.local.": "192.0.2.3"} {
		m, err := c.Exchange(t.Context(), Servers{}, query(name, dns.TypeA)) // not even one of its own
		expectA(t, must(t, m, err), want)
	}
}

// What a zone's servers say is kept once for all pods, apart from what the same servers say to pods.
func TestZoneHasACacheOfItsOwn(t *testing.T) {
	s := telling(t, "192.0.2.2")
	c := New(Options{Zones: []Zone{zone("corp.example", s.addr)}})
	for _, scope := range []string{"pods-1", "pods-2", ""} {
		from := to(dead(t))
		from.Scope = scope
		from.Dial = dialFunc(func() error { t.Error("asked from the pod"); return errors.New("no") })
		m, err := c.Exchange(t.Context(), from, query("db.corp.example.", dns.TypeA))
		expectA(t, must(t, m, err), "192.0.2.2")
	}
	if s.udp.Load() != 1 {
		t.Errorf("asked %d times", s.udp.Load())
	}
	if n := c.Stats().Servers; len(n) != 1 || n[0].Addr != s.addr || n[0].RTT.Total() != 1 {
		t.Errorf("counted %+v", n)
	}
}

func TestZoneFailsOver(t *testing.T) {
	bad := serve(t, func(_ string, q *dns.Msg) *dns.Msg { return rcode(q, dns.RcodeRefused) })
	good, pods := telling(t, "192.0.2.2"), telling(t, "192.0.2.1")
	c := New(Options{Zones: []Zone{zone("corp.example", bad.addr, good.addr), zone("gone.example", bad.addr)}})
	m, err := c.Exchange(t.Context(), to(pods.addr), query("db.corp.example.", dns.TypeA))
	expectA(t, must(t, m, err), "192.0.2.2")
	m, err = c.Exchange(t.Context(), to(pods.addr), query("db.gone.example.", dns.TypeA))
	if must(t, m, err).Rcode != dns.RcodeRefused || pods.udp.Load() != 0 {
		t.Errorf("with the zone's servers failing the pod's were asked:\n%v", m)
	}
}

// Over TCP if that was asked for, and whole answers after short ones.
func TestZoneOverTCP(t *testing.T) {
	s := serve(t, func(network string, q *dns.Msg) *dns.Msg {
		m := reply(q, q.Question[0].Name+" 60 IN A 192.0.2.2")
		m.Truncated = network == "udp"
		return m
	})
	c := New(Options{Zones: []Zone{zone("corp.example", s.addr)}})
	m, err := c.Exchange(t.Context(), Servers{}, query("a.corp.example.", dns.TypeA))
	expectA(t, must(t, m, err), "192.0.2.2")
	m, err = c.Exchange(t.Context(), Servers{TCP: true}, query("b.corp.example.", dns.TypeA))
	expectA(t, must(t, m, err), "192.0.2.2")
	if s.udp.Load() != 1 || s.tcp.Load() != 2 {
		t.Errorf("%d times over UDP, %d over TCP", s.udp.Load(), s.tcp.Load())
	}
}

// An update is for the server it was sent to, whatever its zone.
func TestForwardKnowsNoZones(t *testing.T) {
	pods := serve(t, func(_ string, q *dns.Msg) *dns.Msg { return rcode(q, dns.RcodeNotAuth) })
	c := New(Options{Zones: []Zone{zone(".", dead(t))}})
	wire, err := c.Forward(t.Context(), to(pods.addr), "udp", pack(new(dns.Msg).SetUpdate("corp.example.")))
	if err != nil || parse(wire).Rcode != dns.RcodeNotAuth || pods.udp.Load() != 1 {
		t.Errorf("%v, %v", wire, err)
	}
}

func TestExactServersAreAskedThemselves(t *testing.T) {
	inZone, named := serve(t, answers(a1)), serve(t, answers(a1))
	c := New(Options{Zones: []Zone{zone("example.com", inZone.addr)}})
	s := to(named.addr)
	s.Exact = true
	if _, err := c.Ask(t.Context(), s, query("www.example.com.", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	if inZone.udp.Load() != 0 || named.udp.Load() != 1 {
		t.Errorf("the zone's server was asked %d times, the one named %d times", inZone.udp.Load(), named.udp.Load())
	}
	if name, servers, ok := c.Zone("a.example.com."); !ok || name != "example.com." || len(servers) != 1 {
		t.Errorf("zone %q %v %v", name, servers, ok)
	}
	if _, _, ok := c.Zone("example.net."); ok {
		t.Error("a name of no zone is in one")
	}
}
