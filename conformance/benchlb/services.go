package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// What the services are made of: as many addresses as there are services in a range like a cluster's for
// services, and endpoints in one like a cluster's for pods.
var (
	firstVIP     = netip.MustParseAddr("10.96.0.1")
	firstBackend = netip.MustParseAddr("10.128.0.1")
	backendRange = netip.MustParsePrefix("10.128.0.0/14")
)

const (
	servicePort = 80
	backendPort = 8080
)

func after(first netip.Addr, n int) netip.Addr {
	b := first.As4()
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(b[:])+uint32(n))))
}

// vip is the i-th service's address.
func vip(i int) netip.AddrPort { return netip.AddrPortFrom(after(firstVIP, i), servicePort) }

// backend is the k-th endpoint of the i-th service of so many endpoints each.
func (o options) backend(i, k int) netip.AddrPort {
	return netip.AddrPortFrom(after(firstBackend, i*o.endpoints+k), backendPort)
}

// service is what a control plane says of the i-th service.
func (o options) service(i int, policy mesh.LbPolicy, endpoints int) (mesh.Host, mesh.Cluster) {
	name := fmt.Sprintf("s%d.bench.svc.cluster.local", i)
	c := mesh.Cluster{
		Name: fmt.Sprintf("outbound|%d||%s", servicePort, name), Discovery: mesh.Static,
		Balancing: mesh.Balancing{LbPolicy: policy}, Localities: []mesh.Locality{{}},
	}
	for k := range endpoints {
		at := o.backend(i, k)
		c.Localities[0].Endpoints = append(c.Localities[0].Endpoints, mesh.Endpoint{Address: at.Addr().String(), Port: at.Port()})
	}
	return mesh.Host{
		Name: name, Object: name, Addresses: []netip.Addr{vip(i).Addr()},
		Ports: []mesh.Port{{Number: servicePort, Protocol: mesh.TCP, Cluster: c.Name}, {Number: servicePort, Protocol: mesh.UDP, Cluster: c.Name}},
	}, c
}

// special are services beside the crowd, behind it: those whose cost is looked at one by one.
var special = []struct {
	name      string
	policy    mesh.LbPolicy
	endpoints int
}{
	{"VIP, RANDOM of 3", mesh.Random, 3},
	{"VIP, ROUND_ROBIN of 3", mesh.RoundRobin, 3},
	{"VIP, LEAST_REQUEST of 3", mesh.LeastRequest, 3},
	{"VIP, LEAST_REQUEST of 100", mesh.LeastRequest, 100},
	{"VIP, LEAST_REQUEST of 1,000", mesh.LeastRequest, 1000},
}

// input is everything a control plane says: the crowd and, if wanted, the special ones.
func (o options) input(withSpecial bool) mesh.Input {
	in := mesh.Input{Source: "xds"}
	add := func(h mesh.Host, c mesh.Cluster) { in.Hosts, in.Clusters = append(in.Hosts, h), append(in.Clusters, c) }
	for i := range o.services {
		add(o.service(i, mesh.LeastRequest, o.endpoints))
	}
	if withSpecial {
		for j, s := range special {
			// The endpoints of special services are those of the crowd: that a backend has several
			// services is nothing unusual.
			h, c := options{endpoints: 0}.service(o.services+j, s.policy, s.endpoints)
			add(h, c)
		}
	}
	return in
}
