package xds

import (
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	commondnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// The two spellings number the lookup families differently: 1 is V4_ONLY in one and AUTO in the other.
func TestFamiliesByNumber(t *testing.T) {
	legacy := []mesh.LookupFamily{mesh.Auto, mesh.V4Only, mesh.V6Only, mesh.V4Preferred, mesh.AllFamilies}
	for number, want := range legacy {
		c := decodeCluster(pack(t, dnsCluster(func(c *clusterv3.Cluster) { c.DnsLookupFamily = clusterv3.Cluster_DnsLookupFamily(number) })))
		if c.err != nil || c.DNS.Family != want {
			t.Errorf("%d in the cluster is %v (%v), want %s", number, c.DNS, c.err, want)
		}
	}
	for number, want := range append([]mesh.LookupFamily{mesh.Auto}, legacy...) {
		c := decodeCluster(pack(t, dnsCluster(func(c *clusterv3.Cluster) {
			c.DnsLookupFamily = clusterv3.Cluster_V6_ONLY // must be ignored
			c.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
				Name:        "envoy.clusters.dns",
				TypedConfig: pack(t, &dnsv3.DnsCluster{DnsLookupFamily: commondnsv3.DnsLookupFamily(number)}),
			}}
		})))
		if c.err != nil || c.DNS.Family != want {
			t.Errorf("%d in envoy.clusters.dns is %v (%v), want %s", number, c.DNS, c.err, want)
		}
	}
}
