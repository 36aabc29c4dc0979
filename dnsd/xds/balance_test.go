package xds

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	lbv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	robinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	wrrv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

func TestPolicies(t *testing.T) {
	choices := func(ms ...proto.Message) *clusterv3.LoadBalancingPolicy {
		p := &clusterv3.LoadBalancingPolicy{}
		for _, m := range ms {
			p.Policies = append(p.Policies, &clusterv3.LoadBalancingPolicy_Policy{
				TypedExtensionConfig: &corev3.TypedExtensionConfig{Name: "any", TypedConfig: pack(t, m)},
			})
		}
		return p
	}
	by := func(p clusterv3.Cluster_LbPolicy) func(*clusterv3.Cluster) {
		return func(c *clusterv3.Cluster) { c.LbPolicy = p }
	}
	newer := func(ms ...proto.Message) func(*clusterv3.Cluster) {
		return func(c *clusterv3.Cluster) {
			c.LbPolicy = clusterv3.Cluster_MAGLEV // must be ignored
			c.LoadBalancingPolicy = choices(ms...)
		}
	}
	u64 := wrapperspb.UInt64
	unknown := &structpb.Struct{}
	local := &lbv3.LocalityLbConfig_LocalityWeightedLbConfig{}
	locality := &lbv3.LocalityLbConfig{LocalityConfigSpecifier: &lbv3.LocalityLbConfig_LocalityWeightedLbConfig_{LocalityWeightedLbConfig: local}}
	source := &lbv3.ConsistentHashingLbConfig{HashPolicy: []*routev3.RouteAction_HashPolicy{{
		PolicySpecifier: &routev3.RouteAction_HashPolicy_ConnectionProperties_{
			ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true},
		},
	}}}
	for _, tc := range []struct {
		name   string
		change func(*clusterv3.Cluster)
		want   mesh.Balancing
		note   string
	}{
		{"round robin is zero", by(0), mesh.Balancing{LbPolicy: mesh.RoundRobin}, ""},
		{"least request", by(clusterv3.Cluster_LEAST_REQUEST), mesh.Balancing{LbPolicy: mesh.LeastRequest}, ""},
		{"random", by(clusterv3.Cluster_RANDOM), mesh.Balancing{LbPolicy: mesh.Random}, ""},
		{"ring hash", by(clusterv3.Cluster_RING_HASH), mesh.Balancing{LbPolicy: mesh.RingHash}, ""},
		{"ring hash of a size", func(c *clusterv3.Cluster) {
			c.LbPolicy = clusterv3.Cluster_RING_HASH
			c.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: &clusterv3.Cluster_RingHashLbConfig{MinimumRingSize: u64(2048)}}
		}, mesh.Balancing{LbPolicy: mesh.RingHash, HashTable: 2048}, ""},
		{"maglev of a size", func(c *clusterv3.Cluster) {
			c.LbPolicy = clusterv3.Cluster_MAGLEV
			c.LbConfig = &clusterv3.Cluster_MaglevLbConfig_{MaglevLbConfig: &clusterv3.Cluster_MaglevLbConfig{TableSize: u64(65537)}}
		}, mesh.Balancing{LbPolicy: mesh.Maglev, HashTable: 65537}, ""},
		{"unknown", by(99), mesh.Balancing{LbPolicy: mesh.LeastRequest}, "policy 99"},
		{"subsets", func(c *clusterv3.Cluster) { c.LbSubsetConfig = &clusterv3.Cluster_LbSubsetConfig{} },
			mesh.Balancing{LbPolicy: mesh.RoundRobin}, "lb_subset_config"},
		{"the newer field wins", newer(&randomv3.Random{LocalityLbConfig: locality}), mesh.Balancing{LbPolicy: mesh.Random, LocalityWeighted: true}, ""},
		{"first one known", newer(unknown, &leastv3.LeastRequest{}), mesh.Balancing{LbPolicy: mesh.LeastRequest}, ""},
		{"none known", newer(unknown), mesh.Balancing{LbPolicy: mesh.LeastRequest}, "policy google.protobuf.Struct"},
		{"none at all", newer(), mesh.Balancing{LbPolicy: mesh.LeastRequest}, "without a policy"},
		{"ring hash extension", newer(&ringv3.RingHash{MinimumRingSize: u64(64), ConsistentHashingLbConfig: source, LocalityWeightedLbConfig: local}),
			mesh.Balancing{LbPolicy: mesh.RingHash, HashTable: 64, HashSource: true, LocalityWeighted: true}, ""},
		{"maglev extension", newer(&maglevv3.Maglev{TableSize: u64(251)}), mesh.Balancing{LbPolicy: mesh.Maglev, HashTable: 251}, ""},
		{"localities first", newer(&wrrv3.WrrLocality{EndpointPickingPolicy: choices(&robinv3.RoundRobin{})}),
			mesh.Balancing{LbPolicy: mesh.RoundRobin, LocalityWeighted: true}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := decodeCluster(pack(t, dnsCluster(tc.change)))
			if c.err != nil {
				t.Fatal(c.err)
			}
			if !reflect.DeepEqual(c.Balancing, tc.want) {
				t.Errorf("%+v\nwant %+v", c.Balancing, tc.want)
			}
			if notes := strings.Join(c.notes, "; "); !strings.Contains(notes, tc.note) || tc.note == "" && notes != "" {
				t.Errorf("notes %q, want %q", notes, tc.note)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	limit := func(p corev3.RoutingPriority, n *wrapperspb.UInt32Value) *clusterv3.CircuitBreakers_Thresholds {
		return &clusterv3.CircuitBreakers_Thresholds{Priority: p, MaxConnections: n}
	}
	u32 := wrapperspb.UInt32
	for _, tc := range []struct {
		name string
		in   []*clusterv3.CircuitBreakers_Thresholds
		want uint32
	}{
		{"none", nil, 0},
		{"Istio's none", []*clusterv3.CircuitBreakers_Thresholds{limit(0, u32(math.MaxUint32))}, 0},
		{"unset", []*clusterv3.CircuitBreakers_Thresholds{limit(0, nil)}, 0},
		{"ordinary connections", []*clusterv3.CircuitBreakers_Thresholds{limit(corev3.RoutingPriority_HIGH, u32(1)), limit(0, u32(100))}, 100},
	} {
		if got := maxConnections(&clusterv3.CircuitBreakers{Thresholds: tc.in}); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
	for percent, want := range map[float64]uint32{0: 0, 39.6: 40, 100: 100, 250: 100, -1: 0} {
		c := decodeCluster(pack(t, dnsCluster(func(c *clusterv3.Cluster) {
			c.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: percent}}
		})))
		if c.PanicThreshold == nil || *c.PanicThreshold != want {
			t.Errorf("a panic threshold of %v became %v", percent, c.PanicThreshold)
		}
	}
}

func TestOutlierDetection(t *testing.T) {
	u32, second := wrapperspb.UInt32, time.Second
	for _, tc := range []struct {
		name string
		in   *clusterv3.OutlierDetection
		want *mesh.Outlier
	}{
		{"not asked for", nil, nil},
		{"defaults", &clusterv3.OutlierDetection{}, &mesh.Outlier{Consecutive: 5}},
		{"as istiod sends it", &clusterv3.OutlierDetection{
			Consecutive_5Xx: u32(3), EnforcingConsecutive_5Xx: u32(100), EnforcingSuccessRate: u32(0),
			BaseEjectionTime: durationpb.New(30 * second), MaxEjectionTime: durationpb.New(60 * second), MaxEjectionPercent: u32(50),
		}, &mesh.Outlier{Consecutive: 3, BaseEjection: 30 * second, MaxEjection: 60 * second, MaxPercent: 50}},
		{"gateway failures are enforced, others not", &clusterv3.OutlierDetection{
			Consecutive_5Xx: u32(0), EnforcingConsecutive_5Xx: u32(0), ConsecutiveGatewayFailure: u32(7), EnforcingConsecutiveGatewayFailure: u32(100),
		}, &mesh.Outlier{Consecutive: 7}},
		{"the lower of two", &clusterv3.OutlierDetection{
			Consecutive_5Xx: u32(9), ConsecutiveGatewayFailure: u32(4), EnforcingConsecutiveGatewayFailure: u32(100),
		}, &mesh.Outlier{Consecutive: 4}},
		{"split by origin", &clusterv3.OutlierDetection{
			SplitExternalLocalOriginErrors: true, Consecutive_5Xx: u32(1), ConsecutiveLocalOriginFailure: u32(8),
		}, &mesh.Outlier{Consecutive: 8}},
		{"counted only", &clusterv3.OutlierDetection{EnforcingConsecutive_5Xx: u32(0)}, &mesh.Outlier{Consecutive: never}},
		{"no share at all", &clusterv3.OutlierDetection{MaxEjectionPercent: u32(0)}, &mesh.Outlier{Consecutive: never}},
	} {
		if got := outlier(tc.in); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

// The hash is a matter of what leads to a cluster, the overprovisioning of where its endpoints are.
func TestBalancingFromElsewhere(t *testing.T) {
	p := &pools{}
	s := &state{}
	hashing := listenerTo(t, "hashing", "192.0.2.1", 80, &tcpv3.TcpProxy{
		ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: "a"},
		HashPolicy:       []*typev3.HashPolicy{{PolicySpecifier: &typev3.HashPolicy_SourceIp_{SourceIp: &typev3.HashPolicy_SourceIp{}}}},
	})
	endpoints := loadAssignment("a", "198.51.100.1:80")
	endpoints.Policy = &endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: wrapperspb.UInt32(200)}
	tell(t, p, s, clusterType, pack(t, edsCluster("a")), pack(t, edsCluster("b")))
	tell(t, p, s, endpointType, pack(t, endpoints), pack(t, loadAssignment("b", "198.51.100.2:80")))
	tell(t, p, s, listenerType, pack(t, hashing), tcpListener(t, "plain", "192.0.2.2", 80, "b"))
	in := agree([]*view{newView("ns1", s, nil)}, &memo{})
	if len(in.Clusters) != 2 {
		t.Fatal(show(in))
	}
	if a := in.Clusters[0]; !a.HashSource || a.Overprovisioning != 200 {
		t.Errorf("cluster a: %+v", a.Balancing)
	}
	if b := in.Clusters[1]; b.HashSource || b.Overprovisioning != 0 {
		t.Errorf("cluster b: %+v", b.Balancing)
	}
}
