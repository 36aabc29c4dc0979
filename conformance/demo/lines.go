package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/world"
)

// lines are what the demo claims, in the order in which it is shown.
var lines = []line{
	{"news.google.com gets a VIP; connections spread over its three addresses by least request", spread},
	{"two databases on port 3306 and two services on port 9000: each name reaches its own server", ownServer},
	{"address.internal answers 198.51.100.1, auto.internal an address of the VIP range", addresses},
	{"a name nobody knows goes to the pod's own nameserver and back: UDP, TCP, IPv4, IPv6", forwarded},
	{"a name with ndots:5 and three search domains takes 2 queries instead of 8", fewerQueries},
	{"the upstream record changes: new connections follow within the TTL, none fails meanwhile", follow},
	{"kill -9 dnsd: at most the query in flight is lost, connections go on; a new dnsd takes over", kill},
	{"DEL leaves nothing: no namespace, veth, kernel row, file or socket", leaveNothing},
}

// address asks for one address of a name, once.
func address(p *world.Pod, name, qtype string) (netip.Addr, app.Reply, error) {
	r, err := p.Dig(app.Question{Name: name, Type: qtype})
	if err != nil {
		return netip.Addr{}, r, err
	}
	data := strings.Fields(r.Short())
	if len(data) == 0 {
		return netip.Addr{}, r, fmt.Errorf("%s %s: %w (%s)", name, qtype, errNone, r.Rcode)
	}
	addr, err := netip.ParseAddr(data[len(data)-1])
	return addr, r, err
}

// reach connects until a server with the given address answers: endpoints that are looked up may be a
// moment later than the name.
func reach(p *world.Pod, t app.Target, server string) (v app.Visits, err error) {
	err = world.Until(5*time.Second, func() error {
		if v, err = p.Connect(t); err != nil {
			return err
		}
		if v.Failed() > 0 || v.Servers[server] == 0 {
			return fmt.Errorf("%s port %d: want %s, got\n%s", t.Host, t.Port, server, v)
		}
		return nil
	})
	return v, err
}

func spread(s *story) error {
	vip, r, err := address(s.web, "news.google.com", "A")
	if err != nil {
		return err
	}
	s.say("news.google.com is %s, answered in %s", vip, brief(r.Took))
	t := app.Target{Network: "tcp", Host: "news.google.com", Port: 80}
	if _, err := reach(s.web, t, "203.0.113.11:80"); err != nil {
		return err
	}
	t.Count, t.Hold = 30, "spread"
	v, err := s.web.Connect(t)
	if err != nil {
		return err
	}
	defer func() { _, _ = s.web.Release("spread") }()
	s.say("30 connections, all kept open: %s (%s each)", counts(v.Servers), brief(v.Took/30))
	s.say("the application sees %s", counts(v.Peers))
	for _, n := range v.Servers {
		if n < 7 || n > 13 {
			return fmt.Errorf("not spread by least request: %s", counts(v.Servers))
		}
	}
	return want(len(v.Servers) == 3 && v.Failed() == 0 && netip.MustParsePrefix("240.240.0.0/15").Contains(vip),
		"want a VIP and three servers, got %s and\n%s", vip, v)
}

func ownServer(s *story) error {
	for _, c := range []struct {
		name   string
		port   uint16
		server string
	}{
		{"mysql-instance1.us-east-1.rds.amazonaws.com", 3306, "203.0.113.21:3306"},
		{"mysql-instance2.us-east-1.rds.amazonaws.com", 3306, "203.0.113.22:3306"},
		{"tcp-echo.external-1.svc.cluster.local", 9000, "203.0.113.31:9000"},
		{"tcp-echo.external-2.svc.cluster.local", 9000, "203.0.113.32:9000"},
	} {
		v, err := reach(s.shop, app.Target{Network: "tcp", Host: c.name, Port: c.port, Count: 3}, c.server)
		if err != nil {
			return err
		}
		s.say("%s -> %s -> %s", c.name, counts(v.Peers), counts(v.Servers))
		if len(v.Servers) != 1 {
			return fmt.Errorf("%s reached also others", c.name)
		}
	}
	return nil
}

func addresses(s *story) error {
	given, _, err := address(s.web, "address.internal", "A")
	if err != nil {
		return err
	}
	auto, _, err := address(s.web, "auto.internal", "A")
	if err != nil {
		return err
	}
	auto6, _, err := address(s.web, "auto.internal", "AAAA")
	if err != nil {
		return err
	}
	s.say("address.internal %s; auto.internal %s and %s", given, auto, auto6)
	for network, server := range map[string]string{"tcp4": "203.0.113.41:80", "tcp6": "[2001:db8::41]:80"} {
		v, err := reach(s.web, app.Target{Network: network, Host: "auto.internal", Port: 80, HTTP: true}, server)
		if err != nil {
			return err
		}
		s.say("a page of http://auto.internal/ over %s comes from %s", network, counts(v.Servers))
	}
	ours := netip.MustParsePrefix("240.241.0.0/16").Contains(auto) && netip.MustParsePrefix("2001:2::/48").Contains(auto6)
	return want(given.String() == "198.51.100.1" && ours, "want 198.51.100.1 and two VIPs")
}

func forwarded(s *story) error {
	for _, ns := range world.Nameservers[:2] {
		for _, tcp := range []bool{false, true} {
			transport := map[bool]string{false: "udp", true: "tcp"}[tcp]
			name := fmt.Sprintf("%s-%d.example.net", transport, ns.BitLen())
			if err := s.w.Zone.Set(name, "A", 60, "203.0.113.7"); err != nil {
				return err
			}
			r, err := s.web.Dig(app.Question{Name: name, Server: ns.String(), TCP: tcp, Connected: true})
			if err != nil {
				return err
			}
			asked := slices.IndexFunc(s.w.Zone.Queries(), func(q world.Asked) bool {
				return q.Name == name && q.Server == ns && slices.ContainsFunc(s.web.Addresses, func(p netip.Prefix) bool { return p.Addr() == q.From })
			})
			s.say("%s, %s: %s in %s; the application sees %s, the nameserver sees the pod", ns, transport, strings.TrimSpace(r.Short()), brief(r.Took), r.Peer)
			if asked < 0 || r.Short() != "203.0.113.7\n" || r.Peer != netip.AddrPortFrom(ns, 53).String() {
				return fmt.Errorf("%s over %s: got\n%s", ns, transport, r)
			}
		}
	}
	return nil
}

func fewerQueries(s *story) error {
	plain, err := s.w.NewPod(world.PodSpec{Name: "plain", Plain: true})
	if err != nil {
		return err
	}
	defer func() { _ = plain.Delete() }()
	without, err := plain.Lookup("news.google.com")
	if err != nil {
		return err
	}
	with, err := s.web.Lookup("news.google.com")
	if err != nil {
		return err
	}
	s.say("without nodens: %d queries, %s; with: %d queries, %s", without.Queries, brief(without.Took), with.Queries, brief(with.Took))
	return want(without.Queries == 8 && with.Queries == 2, "want 8 and 2")
}

func follow(s *story) error {
	load := app.Load{Name: "follow", Target: &app.Target{Network: "tcp", Host: "news.google.com", Port: 80}, Pause: time.Millisecond}
	if err := s.web.LoadStart(load); err != nil {
		return err
	}
	if err := s.w.Zone.Set("news.google.com", "A", newsTTL, "203.0.113.14", "203.0.113.15"); err != nil {
		return err
	}
	start := time.Now()
	err := world.Until((newsTTL+2)*time.Second, func() error {
		v, err := s.web.Connect(app.Target{Network: "tcp", Host: "news.google.com", Port: 80, Count: 6})
		if err != nil {
			return err
		}
		return want(v.Servers["203.0.113.14:80"]+v.Servers["203.0.113.15:80"] == 6, "connections still go to\n%s", v)
	})
	took := time.Since(start)
	seen, stopErr := s.web.LoadStop("follow")
	if err := firstOf(err, stopErr); err != nil {
		return err
	}
	s.say("TTL %d s; followed after %s; %d connections meanwhile, %d failed", newsTTL, brief(took), seen.Done, seen.Failed)
	s.say("%s", counts(seen.Outcomes))
	return want(seen.Failed == 0, "connections failed: %s", counts(seen.Errors))
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func kill(s *story) error {
	news := app.Target{Network: "tcp", Host: "news.google.com", Port: 80, Count: 6, Hold: "open"}
	if _, err := s.web.Connect(news); err != nil {
		return err
	}
	defer func() { _, _ = s.web.Release("open") }()
	vip, _, err := address(s.web, "news.google.com", "A")
	if err != nil {
		return err
	}
	queries := app.Load{Name: "queries", Question: &app.Question{Name: "www.example.net", Timeout: time.Second}, Pause: time.Millisecond}
	connects := app.Load{Name: "connects", Target: &app.Target{Network: "tcp", Host: vip.String(), Port: 80}, Pause: time.Millisecond}
	return all(
		func() error { return s.web.LoadStart(queries) },
		func() error { return s.web.LoadStart(connects) },
		func() error { return s.enough("queries") },
		func() error { return s.w.SignalDnsd(syscall.SIGKILL) },
		s.withoutDnsd,
		func() error { return s.enough("queries") },
		s.again,
		func() error { return s.sameVIP(vip) },
		s.talkOpen,
		s.tally,
	)
}

// enough waits until a load has done a hundred more.
func (s *story) enough(load string) error {
	before, err := s.web.LoadLook(load)
	if err != nil {
		return err
	}
	return world.Until(10*time.Second, func() error {
		now, err := s.web.LoadLook(load)
		if err != nil {
			return err
		}
		return want(now.Done >= before.Done+100, "load %s did only %d", load, now.Done-before.Done)
	})
}

// withoutDnsd is what must hold while there is none.
func (s *story) withoutDnsd() error {
	s.w.Zone.Forget()
	r, err := s.shop.Dig(app.Question{Name: "www.example.net"})
	if err != nil {
		return fmt.Errorf("the next query: %w", err)
	}
	s.say("dnsd killed: the next query is answered by %s in %s", r.Peer, brief(r.Took))
	asked := len(s.w.Zone.Queries())
	if err := s.talkOpen(); err != nil {
		return err
	}
	return want(asked > 0 && r.Short() == "203.0.113.7\n", "the pod's own nameserver was not asked: %s", r)
}

// talkOpen uses the connections that were open before.
func (s *story) talkOpen() error {
	v, err := s.web.Talk("open")
	if err != nil {
		return err
	}
	return want(v.Failed() == 0, "open connections broke:\n%s", v)
}

func (s *story) again() error {
	start := time.Now()
	if err := s.w.StartDnsd(true); err != nil {
		return err
	}
	s.say("dnsd started again: ready in %s", brief(time.Since(start)))
	return nil
}

func (s *story) sameVIP(vip netip.Addr) error {
	return world.Until(5*time.Second, func() error {
		now, r, err := address(s.web, "news.google.com", "A")
		if err != nil {
			return err
		}
		return want(now == vip, "news.google.com was %s, is %s\n%s", vip, now, r)
	})
}

func (s *story) tally() error {
	queries, err := s.web.LoadStop("queries")
	if err != nil {
		return err
	}
	connects, err := s.web.LoadStop("connects")
	if err != nil {
		return err
	}
	s.say("%d queries, %d lost; %d new connections to the VIP, %d failed; 6 open ones still talk; the VIP is the same", queries.Done, queries.Failed, connects.Done, connects.Failed)
	return want(queries.Failed <= 1 && connects.Failed == 0, "lost queries: %s; failed connections: %s", counts(queries.Errors), counts(connects.Errors))
}

func leaveNothing(s *story) error {
	for _, p := range []*world.Pod{s.web, s.shop} {
		start := time.Now()
		if err := p.Delete(); err != nil {
			return err
		}
		if err := world.Until(5*time.Second, p.Gone); err != nil {
			return err
		}
		s.say("pod %s deleted, its namespace destroyed by the kernel after %s", p.Name, brief(time.Since(start)))
	}
	left, err := s.w.Leftovers()
	if err != nil {
		return err
	}
	return want(len(left) == 0, "left: %s", strings.Join(left, ", "))
}
