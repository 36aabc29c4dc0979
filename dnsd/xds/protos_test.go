package xds

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

func socket(address string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: address, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func endpoint(address string, port uint32) *endpointv3.LbEndpoint {
	return &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
		Endpoint: &endpointv3.Endpoint{Address: socket(address, port)},
	}}
}

// loadAssignment has one locality with the endpoints, each written address:port.
func loadAssignment(name string, endpoints ...string) *endpointv3.ClusterLoadAssignment {
	l := &endpointv3.LocalityLbEndpoints{}
	for _, e := range endpoints {
		ap := netip.MustParseAddrPort(e)
		l.LbEndpoints = append(l.LbEndpoints, endpoint(ap.Addr().String(), uint32(ap.Port())))
	}
	return &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{l}}
}

func named(name string, port uint32) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{Endpoints: []*endpointv3.LocalityLbEndpoints{
		{LbEndpoints: []*endpointv3.LbEndpoint{endpoint(name, port)}},
	}}
}

func edsCluster(name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}}
}

func dnsCluster(change func(*clusterv3.Cluster)) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name: "c", LoadAssignment: named("host.example", 80),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS},
	}
	if change != nil {
		change(c)
	}
	return c
}

func tcpListener(t *testing.T, name, address string, port uint32, cluster string) *anypb.Any {
	t.Helper()
	return pack(t, listenerTo(t, name, address, port, &tcpv3.TcpProxy{ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: cluster}}))
}

func listenerTo(t *testing.T, name, address string, port uint32, tcp *tcpv3.TcpProxy) *listenerv3.Listener {
	t.Helper()
	return &listenerv3.Listener{Name: name, Address: socket(address, port), FilterChains: []*listenerv3.FilterChain{chain(t, tcp)}}
}

func chain(t *testing.T, tcp *tcpv3.TcpProxy) *listenerv3.FilterChain {
	t.Helper()
	return &listenerv3.FilterChain{Filters: []*listenerv3.Filter{
		{Name: "istio.stats", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: &anypb.Any{TypeUrl: "type.googleapis.com/stats.PluginConfig"}}},
		{Name: "tcp", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(t, tcp)}},
	}}
}

// endpointsOf lists a cluster's endpoints as address:port joined by spaces.
func endpointsOf(in mesh.Input, cluster string) string {
	var all []string
	for _, c := range in.Clusters {
		if c.Name != cluster {
			continue
		}
		for _, l := range c.Localities {
			for _, e := range l.Endpoints {
				all = append(all, netip.AddrPortFrom(netip.MustParseAddr(e.Address), e.Port).String())
			}
		}
	}
	return strings.Join(all, " ")
}

// show is an input as text, for comparing and for errors.
func show(in mesh.Input) string {
	text, err := json.MarshalIndent(in, "", " ")
	if err != nil {
		panic(err)
	}
	return string(text)
}

// tell gives s a response of the state-of-the-world protocol.
func tell(t *testing.T, p *pools, s *state, typeURL string, resources ...*anypb.Any) {
	t.Helper()
	u := &update{typeURL: typeURL, whole: typeURL != endpointType}
	for _, r := range resources {
		u.resources = append(u.resources, resource{body: r})
	}
	if err := s.apply(p, u); err != nil {
		t.Fatal(err)
	}
}

func listenerMessage(t *testing.T, name, address string, port uint32, cluster string) *listenerv3.Listener {
	t.Helper()
	return listenerTo(t, name, address, port, &tcpv3.TcpProxy{ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: cluster}})
}

// lostReason is what an input says about a control plane that cannot be reached; empty if it can be.
func lostReason(in mesh.Input) string {
	for _, p := range in.Problems {
		if strings.HasPrefix(p.Object, "control plane ") {
			return p.Reason
		}
	}
	return ""
}
