package xds

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	commondnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	caresv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/cares/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

//lint:file-ignore SA1019 control planes, istiod among them, still send the deprecated spellings

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

// assignment has one locality with the endpoints, each written address:port.
func assignment(name string, endpoints ...string) *endpointv3.ClusterLoadAssignment {
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

func TestDNSSettings(t *testing.T) {
	second := durationpb.New(time.Second)
	cares := func(fallback bool) *corev3.TypedExtensionConfig {
		return &corev3.TypedExtensionConfig{Name: "cares", TypedConfig: pack(t, &caresv3.CaresDnsResolverConfig{
			Resolvers:              []*corev3.Address{socket("192.0.2.53", 0), socket("2001:db8::53", 5353), socket("dns.example", 53)},
			UseResolversAsFallback: fallback,
			DnsResolverOptions:     &corev3.DnsResolverOptions{UseTcpForDnsLookups: true},
		})}
	}
	resolvers := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("[2001:db8::53]:5353")}
	extension := func(d *dnsv3.DnsCluster) func(*clusterv3.Cluster) {
		return func(c *clusterv3.Cluster) {
			c.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
				Name: "envoy.clusters.dns", TypedConfig: pack(t, d),
			}}
			c.DnsRefreshRate, c.RespectDnsTtl = durationpb.New(time.Hour), true // must be ignored
			c.DnsLookupFamily = clusterv3.Cluster_V6_ONLY
		}
	}
	for _, tc := range []struct {
		name   string
		change func(*clusterv3.Cluster)
		kind   mesh.DiscoveryType
		want   mesh.DNS
		note   string
	}{
		{"defaults", nil, mesh.StrictDNS, mesh.DNS{Family: mesh.Auto}, ""},
		{"legacy", func(c *clusterv3.Cluster) {
			c.DnsRefreshRate, c.DnsJitter, c.RespectDnsTtl = durationpb.New(time.Minute), durationpb.New(time.Millisecond), true
			c.DnsLookupFamily = clusterv3.Cluster_ALL
			c.DnsFailureRefreshRate = &clusterv3.Cluster_RefreshRate{BaseInterval: second, MaxInterval: durationpb.New(9 * time.Second)}
		}, mesh.StrictDNS, mesh.DNS{Family: mesh.AllFamilies, Schedule: mesh.Schedule{
			RefreshRate: time.Minute, Jitter: time.Millisecond, RespectTTL: true, FailureBase: time.Second, FailureMax: 9 * time.Second,
		}}, ""},
		{"logical", func(c *clusterv3.Cluster) {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_LOGICAL_DNS}
		}, mesh.LogicalDNS, mesh.DNS{Family: mesh.Auto}, ""},
		{"by extension name", func(c *clusterv3.Cluster) {
			c.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{Name: "envoy.cluster.logical_dns"}}
			c.DnsLookupFamily = clusterv3.Cluster_V4_PREFERRED
		}, mesh.LogicalDNS, mesh.DNS{Family: mesh.V4Preferred}, ""},
		{"extension", extension(&dnsv3.DnsCluster{
			DnsRefreshRate: second, DnsMinRefreshRate: durationpb.New(2 * time.Second),
			DnsLookupFamily: commondnsv3.DnsLookupFamily_V4_ONLY,
		}), mesh.StrictDNS, mesh.DNS{Family: mesh.V4Only, Schedule: mesh.Schedule{RefreshRate: time.Second, MinRefresh: 2 * time.Second}}, ""},
		{"extension, logical", extension(&dnsv3.DnsCluster{AllAddressesInSingleEndpoint: true}),
			mesh.LogicalDNS, mesh.DNS{Family: mesh.Auto}, ""},
		{"extension's own resolver", extension(&dnsv3.DnsCluster{TypedDnsResolverConfig: cares(false)}),
			mesh.StrictDNS, mesh.DNS{Family: mesh.Auto, Resolvers: resolvers, UseTCP: true}, `"dns.example" is not an IP address`},
		{"typed resolver", func(c *clusterv3.Cluster) {
			c.TypedDnsResolverConfig = cares(false)
			c.DnsResolvers = []*corev3.Address{socket("192.0.2.99", 53)}
		}, mesh.StrictDNS, mesh.DNS{Family: mesh.Auto, Resolvers: resolvers, UseTCP: true}, `"dns.example" is not an IP address`},
		{"typed resolver as fallback", func(c *clusterv3.Cluster) { c.TypedDnsResolverConfig = cares(true) },
			mesh.StrictDNS, mesh.DNS{Family: mesh.Auto, UseTCP: true}, ""},
		{"resolution config", func(c *clusterv3.Cluster) {
			c.DnsResolutionConfig = &corev3.DnsResolutionConfig{
				Resolvers: []*corev3.Address{socket("192.0.2.53", 53)}, DnsResolverOptions: &corev3.DnsResolverOptions{UseTcpForDnsLookups: true},
			}
		}, mesh.StrictDNS, mesh.DNS{Family: mesh.Auto, Resolvers: resolvers[:1], UseTCP: true}, ""},
		{"oldest resolvers", func(c *clusterv3.Cluster) {
			c.DnsResolvers = []*corev3.Address{socket("192.0.2.53", 53)}
		}, mesh.StrictDNS, mesh.DNS{Family: mesh.Auto, Resolvers: resolvers[:1]}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := decodeCluster(pack(t, dnsCluster(tc.change)))
			if err != nil {
				t.Fatal(err)
			}
			if c.Discovery != tc.kind || !reflect.DeepEqual(*c.DNS, tc.want) {
				t.Errorf("%s %+v\nwant %s %+v", c.Discovery, *c.DNS, tc.kind, tc.want)
			}
			if notes := strings.Join(c.notes, "; "); !strings.Contains(notes, tc.note) || tc.note == "" && notes != "" {
				t.Errorf("notes %q, want %q", notes, tc.note)
			}
		})
	}
}

func TestClustersThatCannotBe(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		change     func(*clusterv3.Cluster)
	}{
		{"no name", "no name", func(c *clusterv3.Cluster) { c.Name = "" }},
		{"no load assignment", "load_assignment", func(c *clusterv3.Cluster) { c.LoadAssignment = nil }},
		{"negative jitter", "dns_jitter is -1s", func(c *clusterv3.Cluster) { c.DnsJitter = durationpb.New(-time.Second) }},
		{"no refresh", "dns_refresh_rate is 0s", func(c *clusterv3.Cluster) { c.DnsRefreshRate = durationpb.New(0) }},
		{"duration out of range", "dns_refresh_rate", func(c *clusterv3.Cluster) { c.DnsRefreshRate = &durationpb.Duration{Seconds: 1 << 60} }},
		{"unknown family", "dns_lookup_family", func(c *clusterv3.Cluster) { c.DnsLookupFamily = 99 }},
		{"failure max below base", "below base_interval", func(c *clusterv3.Cluster) {
			c.DnsFailureRefreshRate = &clusterv3.Cluster_RefreshRate{
				BaseInterval: durationpb.New(2 * time.Second), MaxInterval: durationpb.New(time.Second),
			}
		}},
		{"unknown type", "type 77", func(c *clusterv3.Cluster) {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: 77}
		}},
		{"type not served", "dynamic_forward_proxy", func(c *clusterv3.Cluster) {
			c.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{Name: "envoy.clusters.dynamic_forward_proxy"}}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := decodeCluster(pack(t, dnsCluster(tc.change))); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
	if _, err := decodeCluster(pack(t, &listenerv3.Listener{Name: "l"})); err == nil {
		t.Error("a listener passed as a cluster")
	}
}

// Istiod sends such a cluster; mesh.Compile serves its first endpoint and reports it.
func TestLogicalDNSWithTwoEndpointsStays(t *testing.T) {
	c, err := decodeCluster(pack(t, dnsCluster(func(c *clusterv3.Cluster) {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_LOGICAL_DNS}
		c.LoadAssignment.Endpoints[0].LbEndpoints = append(c.LoadAssignment.Endpoints[0].LbEndpoints, endpoint("other.example", 80))
	})))
	if err != nil {
		t.Fatal(err)
	}
	if out, _ := c.resolved(nil); len(out.Localities[0].Endpoints) != 2 {
		t.Errorf("localities %+v", out.Localities)
	}
}

func TestPolicies(t *testing.T) {
	extensions := func(urls ...string) *clusterv3.LoadBalancingPolicy {
		p := &clusterv3.LoadBalancingPolicy{}
		for _, u := range urls {
			p.Policies = append(p.Policies, &clusterv3.LoadBalancingPolicy_Policy{TypedExtensionConfig: &corev3.TypedExtensionConfig{
				Name: u, TypedConfig: &anypb.Any{TypeUrl: "type.googleapis.com/envoy.extensions.load_balancing_policies." + u},
			}})
		}
		return p
	}
	for _, tc := range []struct {
		name   string
		policy clusterv3.Cluster_LbPolicy
		newer  *clusterv3.LoadBalancingPolicy
		want   mesh.LbPolicy
		noted  bool
	}{
		{"round robin is zero", 0, nil, mesh.RoundRobin, false},
		{"least request", clusterv3.Cluster_LEAST_REQUEST, nil, mesh.LeastRequest, false},
		{"random", clusterv3.Cluster_RANDOM, nil, mesh.Random, false},
		{"maglev", clusterv3.Cluster_MAGLEV, nil, mesh.LeastRequest, true},
		{"unknown", 99, nil, mesh.LeastRequest, true},
		{"newer field wins", clusterv3.Cluster_MAGLEV, extensions("random.v3.Random"), mesh.Random, false},
		{"first one known", 0, extensions("custom.v3.Custom", "least_request.v3.LeastRequest"), mesh.LeastRequest, false},
		{"none known", 0, extensions("custom.v3.Custom"), mesh.LeastRequest, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := decodeCluster(pack(t, dnsCluster(func(c *clusterv3.Cluster) { c.LbPolicy, c.LoadBalancingPolicy = tc.policy, tc.newer })))
			if err != nil {
				t.Fatal(err)
			}
			if c.LbPolicy != tc.want || len(c.notes) > 0 != tc.noted {
				t.Errorf("%s, notes %q", c.LbPolicy, c.notes)
			}
		})
	}
}

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

	c := &cluster{inline: &endpointv3.ClusterLoadAssignment{Endpoints: []*endpointv3.LocalityLbEndpoints{
		{LbEndpoints: []*endpointv3.LbEndpoint{pipe, degraded, draining, dual, endpoint("name.example", 80), endpoint("192.0.2.5", 0)}},
	}}}
	c.Discovery = mesh.Static
	out, notes := c.resolved(nil)
	want := []mesh.Endpoint{
		{Address: "192.0.2.1", Port: 80}, {Address: "192.0.2.3", Port: 80, Unhealthy: true},
		{Address: "192.0.2.4", Port: 80}, {Address: "2001:db8::1", Port: 80},
	}
	if !reflect.DeepEqual(out.Localities[0].Endpoints, want) {
		t.Errorf("endpoints %+v\nwant %+v", out.Localities[0].Endpoints, want)
	}
	if len(notes) != 1 || !strings.HasPrefix(notes[0], "3 endpoints left out, first: ") {
		t.Errorf("notes %q", notes)
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
			c, err := decodeCluster(pack(t, &clusterv3.Cluster{
				Name: "c", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
				TransportSocket: tc.socket, TransportSocketMatches: tc.matches,
				LoadAssignment: &endpointv3.ClusterLoadAssignment{Endpoints: []*endpointv3.LocalityLbEndpoints{l}},
			}))
			if err != nil {
				t.Fatal(err)
			}
			out, _ := c.resolved(nil)
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
			_, got, err := decodeListener(pack(t, l))
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("error %v, want %q", err, tc.err)
			}
			var want []mesh.Listener
			for _, a := range tc.addrs {
				want = append(want, mesh.Listener{Name: "l", Address: netip.MustParseAddr(a), Port: 80, Protocol: mesh.TCP, Clusters: tc.clusters})
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%+v\nwant %+v", got, want)
			}
		})
	}
}

func TestBrokenNameTable(t *testing.T) {
	for _, value := range [][]byte{{0x0a}, {0x0a, 0x05, 0x0a}, {0x0a, 0x02, 0x12, 0x7f}, {0xff}, {0x08}} {
		if _, err := decodeNames(&anypb.Any{TypeUrl: nameTableType, Value: value}); err == nil {
			t.Errorf("%x: no error", value)
		}
	}
	// A field from the future is passed over.
	if names, err := decodeNames(&anypb.Any{TypeUrl: nameTableType, Value: []byte{0x50, 0x01, 0x0a, 0x03, 0x0a, 0x01, 'A'}}); err != nil || len(names) != 1 || names[0].host != "a" {
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
		c, err := decodeCluster(pack(t, edsCluster(name)))
		if err != nil {
			t.Fatal(err)
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
