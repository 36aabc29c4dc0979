package mesh

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// TestInvariants compiles inputs no person would write, and checks what must hold of every plan.
func TestInvariants(t *testing.T) {
	for seed := range uint64(2000) {
		g := generator{rand.New(rand.NewPCG(seed, 3))}
		vips := newVIPs(t)
		var given map[string]netip.Addr
		for range 3 { // the same node hears one thing after another
			in := []Input{g.input("file"), g.input("xds"), {Source: "resolve", Resolutions: []Resolution{g.resolution(), g.resolution()}}}
			plan := Compile(in, vips)
			if again := Compile(in, vips); !reflect.DeepEqual(plan, again) {
				t.Fatalf("seed %d: compiling again gives another plan:\n%s\nwas\n%s", seed, show(again, vips), show(plan, vips))
			}
			checkPlan(t, plan, vips)
			given = checkGiven(t, plan, vips, given)
			if t.Failed() {
				t.Fatalf("seed %d:\n%s", seed, show(plan, vips))
			}
		}
	}
}

func checkPlan(t *testing.T, p *Plan, vips *VIPs) {
	type key struct {
		Address  netip.Addr
		Port     uint16
		Protocol Protocol
		View     string
	}
	unused, fronts := make(map[string]bool), make(map[key]bool)
	for _, a := range p.Assignments {
		if unused[a.Name] {
			t.Errorf("assignment %s is there twice", a.Name)
		}
		unused[a.Name] = true
	}
	served := make(map[string]bool)
	for _, f := range p.Frontends {
		k := key{f.Address, f.Port, f.Protocol, f.View}
		if fronts[k] {
			t.Errorf("frontend %v is there twice", k)
		}
		fronts[k], served[f.Assignment] = true, true
		if !unused[f.Assignment] {
			t.Errorf("frontend %v has no assignment %q", k, f.Assignment)
		}
		if (f.Port == 0) != (f.Protocol == AnyProtocol) {
			t.Errorf("frontend %v is for any port or any protocol, but not both", k)
		}
	}
	for name := range unused {
		if !served[name] {
			t.Errorf("assignment %s serves nobody", name)
		}
	}
	c := Compiler{vips: vips}
	names := make(map[string]bool)
	for _, n := range p.Names {
		if names[n.Host+at(n.View)] {
			t.Errorf("name %s%s is there twice", n.Host, at(n.View))
		}
		names[n.Host+at(n.View)] = true
		for _, addr := range slices.Concat(n.Addr4, n.Addr6) {
			if c.virtual(addr) && n.Virtual && (!fronts[key{Address: addr, View: n.View}] || !fronts[key{Address: addr}]) {
				t.Errorf("%s%s is answered with %s, whose undeclared ports lead to nowhere", n.Host, at(n.View), addr)
			}
		}
	}
	for k := range fronts {
		if c.virtual(k.Address) && !fronts[key{Address: k.Address}] {
			t.Errorf("%s leads to nowhere for those who may not see its host", k.Address)
		}
	}
}

// checkGiven says which host is answered with which address of ours: each with one, one each, and
// none that another host had a moment ago.
func checkGiven(t *testing.T, p *Plan, vips *VIPs, before map[string]netip.Addr) map[string]netip.Addr {
	given, hosts := make(map[string]netip.Addr), make(map[netip.Addr]string)
	for host, addr := range before {
		hosts[addr] = host
	}
	for _, n := range p.Names {
		for _, addr := range n.Addr4 {
			if vips.holder(addr) == "" {
				continue // announced by a source
			}
			if host, ok := hosts[addr]; ok && host != n.Host {
				t.Errorf("%s is answered with %s, which is %s's", n.Host, addr, host)
			}
			if other, ok := given[n.Host]; ok && other != addr {
				t.Errorf("%s is answered with both %s and %s", n.Host, addr, other)
			}
			given[n.Host], hosts[addr] = addr, n.Host
		}
	}
	return given
}

type generator struct{ *rand.Rand }

func (g generator) often() bool { return g.IntN(4) > 0 }
func (g generator) rarely() bool {
	return g.IntN(6) == 0
}

func pick[T any](g generator, list ...T) T { return list[g.IntN(len(list))] }

func (g generator) name() string {
	return pick(g, "a.test", "b.test", "A.Test.", "c.test", "*.w.test", "bad..test")
}

func (g generator) addr() netip.Addr {
	// 240.241.224.245 is what a.test is given if nobody announces it.
	return ip(pick(g, "192.0.2.1", "192.0.2.2", "240.240.0.1", "240.241.224.245", "10.0.0.1", "2001:db8::1", "2001:2::5", "0.0.0.0"))
}

func (g generator) cluster() string { return pick(g, "x", "y", "z", "gone", "") }

func (g generator) port() uint16 { return pick[uint16](g, 0, 80, 81) }

func (g generator) input(source string) Input {
	in := Input{Source: source, Pending: g.rarely()}
	for i := range g.IntN(6) {
		h := Host{
			Name: g.name(), Object: fmt.Sprintf("object %d", i), Namespace: pick(g, "", "ns1"),
			Allocate: g.often(), Headless: g.rarely(), Kubernetes: g.rarely(),
		}
		if i%2 == 1 {
			h.Kubernetes, h.Imported = h.Imported, h.Kubernetes
		}
		if g.rarely() {
			h.ExternalName = g.name()
		}
		for range g.IntN(3) {
			h.ExportTo = append(h.ExportTo, pick(g, "*", ".", "~", "ns1", "ns2"))
		}
		if !g.often() {
			h.Addresses = append(h.Addresses, g.addr(), g.addr())
		}
		for range g.IntN(3) {
			h.Ports = append(h.Ports, Port{Number: g.port(), Protocol: pick(g, TCP, TCP, UDP, AnyProtocol), Cluster: g.cluster()})
		}
		if g.rarely() {
			h.Records = append(h.Records, Record{Label: pick(g, "web-0", "no good"), Addresses: []netip.Addr{g.addr()}})
		}
		in.Hosts = append(in.Hosts, h)
	}
	for i := range g.IntN(3) {
		l := Listener{Name: fmt.Sprintf("l%d", i), View: pick(g, "", "", "ns1", "ns3"), Address: g.addr(), Port: g.port(), Protocol: TCP}
		for range g.IntN(4) {
			l.Clusters = append(l.Clusters, WeightedCluster{g.cluster(), g.Uint32N(4)})
		}
		in.Listeners = append(in.Listeners, l)
	}
	for range g.IntN(5) {
		c := Cluster{
			Name: pick(g, "x", "y", "z"), Discovery: pick(g, Static, StrictDNS, LogicalDNS, OriginalDst, "OTHER"),
			Balancing: Balancing{LbPolicy: pick(g, RoundRobin, Random, "OTHER"), LocalityWeighted: g.often()}, RequiresTLS: g.rarely(),
		}
		for range g.IntN(4) {
			loc := Locality{Region: pick(g, "", "r"), Weight: g.Uint32N(3), Priority: g.Uint32N(3)}
			for range g.IntN(4) {
				loc.Endpoints = append(loc.Endpoints, Endpoint{
					Address: pick(g, g.name(), g.addr().String(), "a.test"), Port: g.port(), Weight: g.Uint32N(3),
					Unhealthy: g.rarely(), RequiresTLS: g.rarely(),
				})
			}
			c.Localities = append(c.Localities, loc)
		}
		in.Clusters = append(in.Clusters, c)
	}
	return in
}

func (g generator) resolution() Resolution {
	return Resolution{
		Lookup:    Lookup{Name: pick(g, "a.test", "b.test"), Family: Auto},
		Addresses: []netip.Addr{g.addr(), g.addr()}, Negative: g.rarely(),
	}
}
