package xds

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	commondnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	caresv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/cares/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

//lint:file-ignore SA1019 control planes, istiod among them, still send the deprecated spellings

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
			c := decodeCluster(pack(t, dnsCluster(tc.change)))
			if c.err != nil {
				t.Fatal(c.err)
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
			if c := decodeCluster(pack(t, dnsCluster(tc.change))); c.err == nil || !strings.Contains(c.err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", c.err, tc.want)
			}
		})
	}
	if c := decodeCluster(pack(t, &listenerv3.Listener{Name: "l"})); c.err == nil {
		t.Error("a listener passed as a cluster")
	}
}

// Istiod sends such a cluster; mesh.Compile serves its first endpoint and reports it.
func TestLogicalDNSWithTwoEndpointsStays(t *testing.T) {
	c := decodeCluster(pack(t, dnsCluster(func(c *clusterv3.Cluster) {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_LOGICAL_DNS}
		c.LoadAssignment.Endpoints[0].LbEndpoints = append(c.LoadAssignment.Endpoints[0].LbEndpoints, endpoint("other.example", 80))
	})))
	if out := c.resolved(c.inline, false); len(out.Localities[0].Endpoints) != 2 {
		t.Errorf("localities %+v", out.Localities)
	}
}
