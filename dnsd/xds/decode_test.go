package xds

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

func TestEndpoints(t *testing.T) {
	dual := endpoint("192.0.2.1", 80)
	dual.GetEndpoint().AdditionalAddresses = []*endpointv3.Endpoint_AdditionalAddress{
		{Address: socket("192.0.2.2", 80)}, {Address: socket("2001:db8::1", 80)}, {Address: socket("2001:db8::2", 80)},
	}
	draining := endpoint("192.0.2.3", 80)
	draining.HealthStatus = corev3.HealthStatus_DRAINING
	degraded := endpoint("::ffff:192.0.2.4", 80)
	degraded.HealthStatus = corev3.HealthStatus_DEGRADED
	pipe := endpoint("", 0)
	pipe.GetEndpoint().Address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/run/x"}}}

	custom := endpoint("192.0.2.6", 80)
	custom.GetEndpoint().GetAddress().GetSocketAddress().ResolverName = "consul"

	a := newAssignment(&endpointv3.ClusterLoadAssignment{Endpoints: []*endpointv3.LocalityLbEndpoints{
		{LbEndpoints: []*endpointv3.LbEndpoint{pipe, custom, degraded, draining, dual, endpoint("name.example", 80), endpoint("192.0.2.5", 0)}},
	}}, mesh.Static)
	out := (&cluster{Cluster: mesh.Cluster{Discovery: mesh.Static}}).resolved(a, false)
	want := []mesh.Endpoint{
		{Address: "192.0.2.1", Port: 80}, {Address: "192.0.2.3", Port: 80, Unhealthy: true},
		{Address: "192.0.2.4", Port: 80}, {Address: "2001:db8::1", Port: 80},
	}
	if !reflect.DeepEqual(out.Localities[0].Endpoints, want) {
		t.Errorf("endpoints %+v\nwant %+v", out.Localities[0].Endpoints, want)
	}
	if len(out.notes) != 1 || !strings.HasPrefix(out.notes[0], "4 endpoints left out, first: ") {
		t.Errorf("notes %q", out.notes)
	}
}

func TestTLS(t *testing.T) {
	tls := &corev3.TransportSocket{Name: "envoy.transport_sockets.tls"}
	raw := &corev3.TransportSocket{Name: "envoy.transport_sockets.raw_buffer"}
	mode := func(v string) *structpb.Struct {
		s, err := structpb.NewStruct(map[string]any{"tlsMode": v})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	matches := []*clusterv3.Cluster_TransportSocketMatch{
		{Name: "tlsMode-istio", Match: mode("istio"), TransportSocket: tls},
		{Name: "tlsMode-disabled", Match: &structpb.Struct{}, TransportSocket: raw},
	}
	for _, tc := range []struct {
		name    string
		socket  *corev3.TransportSocket
		matches []*clusterv3.Cluster_TransportSocketMatch
		modes   []string // of the endpoints, in order of address
		want    []bool
		cluster bool
	}{
		{"plain", nil, nil, []string{"istio"}, []bool{false}, false},
		{"raw buffer", raw, nil, []string{""}, []bool{false}, false},
		{"all of it", tls, nil, []string{""}, []bool{true}, true},
		{"one of two", nil, matches, []string{"istio", ""}, []bool{true, false}, false},
		{"both", nil, matches, []string{"istio", "istio"}, []bool{true, true}, true},
		{"match without the last resort", tls, matches[:1], []string{"istio", ""}, []bool{true, true}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := &endpointv3.LocalityLbEndpoints{}
			for i, m := range tc.modes {
				e := endpoint(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String(), 80)
				e.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.transport_socket_match": mode(m)}}
				l.LbEndpoints = append(l.LbEndpoints, e)
			}
			c := decodeCluster(pack(t, &clusterv3.Cluster{
				Name: "c", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
				TransportSocket: tc.socket, TransportSocketMatches: tc.matches,
				LoadAssignment: &endpointv3.ClusterLoadAssignment{Endpoints: []*endpointv3.LocalityLbEndpoints{l}},
			}))
			if c.err != nil {
				t.Fatal(c.err)
			}
			out := c.resolved(c.inline, false)
			for i, e := range out.Localities[0].Endpoints {
				if e.RequiresTLS != tc.want[i] {
					t.Errorf("endpoint %d requires TLS: %v", i, e.RequiresTLS)
				}
			}
			if out.RequiresTLS != tc.cluster {
				t.Errorf("the cluster requires TLS: %v", out.RequiresTLS)
			}
		})
	}
}

func TestListeners(t *testing.T) {
	to := func(cluster string) *tcpv3.TcpProxy {
		return &tcpv3.TcpProxy{ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: cluster}}
	}
	weighted := func(weights ...uint32) *tcpv3.TcpProxy {
		w := &tcpv3.TcpProxy_WeightedCluster{}
		for i, n := range weights {
			w.Clusters = append(w.Clusters, &tcpv3.TcpProxy_WeightedCluster_ClusterWeight{Name: string(rune('a' + i)), Weight: n})
		}
		return &tcpv3.TcpProxy{ClusterSpecifier: &tcpv3.TcpProxy_WeightedClusters{WeightedClusters: w}}
	}
	sni := &listenerv3.FilterChainMatch{ServerNames: []string{"x.example"}}
	one := []mesh.WeightedCluster{{Name: "a", Weight: 1}}
	for _, tc := range []struct {
		name     string
		listener func(l *listenerv3.Listener)
		addrs    []string
		clusters []mesh.WeightedCluster
		err      string
	}{
		{"plain", func(*listenerv3.Listener) {}, []string{"192.0.2.1"}, one, ""},
		{"all addresses", func(l *listenerv3.Listener) { l.Address = socket("0.0.0.0", 80) }, nil, nil, ""},
		{"loopback", func(l *listenerv3.Listener) { l.Address = socket("127.0.0.1", 80) }, nil, nil, ""},
		{"virtual", func(l *listenerv3.Listener) { l.Name = "virtualOutbound" }, nil, nil, ""},
		{"inbound", func(l *listenerv3.Listener) { l.TrafficDirection = corev3.TrafficDirection_INBOUND }, nil, nil, ""},
		{"UDP", func(l *listenerv3.Listener) { l.Address.GetSocketAddress().Protocol = corev3.SocketAddress_UDP }, nil, nil, ""},
		{"more addresses", func(l *listenerv3.Listener) {
			l.AdditionalAddresses = []*listenerv3.AdditionalAddress{{Address: socket("2001:db8::1", 80)}}
		}, []string{"192.0.2.1", "2001:db8::1"}, one, ""},
		{"matched chain only", func(l *listenerv3.Listener) { l.FilterChains[0].FilterChainMatch = sni }, nil, nil, ""},
		{"default chain", func(l *listenerv3.Listener) {
			l.FilterChains[0].FilterChainMatch = sni
			l.DefaultFilterChain = chain(t, to("d"))
		}, []string{"192.0.2.1"}, []mesh.WeightedCluster{{Name: "d", Weight: 1}}, ""},
		{"weights", func(l *listenerv3.Listener) { l.FilterChains[0] = chain(t, weighted(80, 0, 20)) },
			[]string{"192.0.2.1"}, []mesh.WeightedCluster{{Name: "a", Weight: 80}, {Name: "c", Weight: 20}}, ""},
		{"no weight", func(l *listenerv3.Listener) { l.FilterChains[0] = chain(t, weighted(0)) }, nil, nil, "names no cluster"},
		{"tunnel", func(l *listenerv3.Listener) {
			l.FilterChains[0] = chain(t, &tcpv3.TcpProxy{TunnelingConfig: &tcpv3.TcpProxy_TunnelingConfig{Hostname: "x:443"}})
		}, nil, nil, "tunnels"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := listenerTo(t, "l", "192.0.2.1", 80, to("a"))
			tc.listener(l)
			got := decodeListener(pack(t, l))
			if (got.err == nil) != (tc.err == "") || got.err != nil && !strings.Contains(got.err.Error(), tc.err) {
				t.Fatalf("error %v, want %q", got.err, tc.err)
			}
			var want []mesh.Listener
			for _, a := range tc.addrs {
				want = append(want, mesh.Listener{Name: "l", Address: netip.MustParseAddr(a), Port: 80, Protocol: mesh.TCP, Clusters: tc.clusters})
			}
			if !reflect.DeepEqual(got.binds, want) {
				t.Errorf("%+v\nwant %+v", got.binds, want)
			}
		})
	}
}

func TestBrokenNameTable(t *testing.T) {
	for _, value := range [][]byte{{0x0a}, {0x0a, 0x05, 0x0a}, {0x0a, 0x02, 0x12, 0x7f}, {0xff}, {0x08}} {
		if _, err := (&pools{}).nameTable(&anypb.Any{TypeUrl: nameTableType, Value: value}); err == nil {
			t.Errorf("%x: no error", value)
		}
	}
	// A field from the future is passed over.
	if names, err := (&pools{}).nameTable(&anypb.Any{TypeUrl: nameTableType, Value: []byte{0x50, 0x01, 0x0a, 0x03, 0x0a, 0x01, 'A'}}); err != nil || len(names) != 1 || names[0].host != "a" {
		t.Errorf("names %+v, error %v", names, err)
	}
}

// Cluster names and metadata disagree at times; a host may have no metadata at all.
func TestPortsOfHosts(t *testing.T) {
	for name, want := range map[string]string{
		"outbound|80||A.example.":     "a.example:80",
		"outbound|80|v1|a.example":    "",
		"inbound|80||":                "",
		"outbound|0||a.example":       "",
		"outbound|65536||a.example":   "",
		"outbound_.80_._.a.example":   "",
		"BlackHoleCluster":            "",
		"outbound|80||a.example|more": "",
	} {
		c := decodeCluster(pack(t, edsCluster(name)))
		if c.err != nil {
			t.Fatal(c.err)
		}
		got := ""
		if len(c.serves) > 0 {
			got = c.serves[0].host + ":80"
		}
		if got != want {
			t.Errorf("%s serves %q, want %q", name, got, want)
		}
	}
}
