package xds

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commondnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	caresv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/cares/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

//lint:file-ignore SA1019 control planes, istiod among them, still send the deprecated spellings

// dnsSettings are a DNS cluster's settings in either spelling.
type dnsSettings struct {
	logical                     bool
	family                      mesh.LookupFamily
	refresh, minRefresh, jitter *durationpb.Duration
	failureBase, failureMax     *durationpb.Duration
	respectTTL                  bool
	resolver                    *corev3.TypedExtensionConfig
	resolution                  *corev3.DnsResolutionConfig // the spelling before resolver
	resolvers                   []*corev3.Address           // the spelling before resolution
	useTCP                      bool                        // belongs to resolvers
}

// legacyDNS reads the fields of the cluster itself.
func legacyDNS(m *clusterv3.Cluster, logical bool) dnsSettings {
	return dnsSettings{
		logical:     logical,
		family:      legacyFamilies[m.GetDnsLookupFamily()],
		refresh:     m.GetDnsRefreshRate(),
		jitter:      m.GetDnsJitter(),
		failureBase: m.GetDnsFailureRefreshRate().GetBaseInterval(),
		failureMax:  m.GetDnsFailureRefreshRate().GetMaxInterval(),
		respectTTL:  m.GetRespectDnsTtl(),
		resolver:    m.GetTypedDnsResolverConfig(),
		resolution:  m.GetDnsResolutionConfig(),
		resolvers:   m.GetDnsResolvers(),
		useTCP:      m.GetUseTcpForDnsLookups(),
	}
}

// extensionDNS reads the settings of envoy.clusters.dns; of the cluster's own fields only those that
// name a resolver still count, and only if the extension names none.
func extensionDNS(d *dnsv3.DnsCluster, m *clusterv3.Cluster) dnsSettings {
	s := legacyDNS(m, d.GetAllAddressesInSingleEndpoint())
	if d.GetTypedDnsResolverConfig() != nil {
		s.resolver = d.GetTypedDnsResolverConfig()
	}
	s.family = extensionFamilies[d.GetDnsLookupFamily()]
	s.refresh, s.minRefresh, s.jitter = d.GetDnsRefreshRate(), d.GetDnsMinRefreshRate(), d.GetDnsJitter()
	s.failureBase = d.GetDnsFailureRefreshRate().GetBaseInterval()
	s.failureMax = d.GetDnsFailureRefreshRate().GetMaxInterval()
	s.respectTTL = d.GetRespectDnsTtl()
	return s
}

// The two enums have the same words and different numbers.
var (
	legacyFamilies = map[clusterv3.Cluster_DnsLookupFamily]mesh.LookupFamily{
		clusterv3.Cluster_AUTO:         mesh.Auto,
		clusterv3.Cluster_V4_ONLY:      mesh.V4Only,
		clusterv3.Cluster_V6_ONLY:      mesh.V6Only,
		clusterv3.Cluster_V4_PREFERRED: mesh.V4Preferred,
		clusterv3.Cluster_ALL:          mesh.AllFamilies,
	}
	extensionFamilies = map[commondnsv3.DnsLookupFamily]mesh.LookupFamily{
		commondnsv3.DnsLookupFamily_UNSPECIFIED:  mesh.Auto,
		commondnsv3.DnsLookupFamily_AUTO:         mesh.Auto,
		commondnsv3.DnsLookupFamily_V4_ONLY:      mesh.V4Only,
		commondnsv3.DnsLookupFamily_V6_ONLY:      mesh.V6Only,
		commondnsv3.DnsLookupFamily_V4_PREFERRED: mesh.V4Preferred,
		commondnsv3.DnsLookupFamily_ALL:          mesh.AllFamilies,
	}
)

// discoverDNS makes a DNS-type cluster of s, as strict about it as Envoy is.
func (c *cluster) discoverDNS(s dnsSettings, m *clusterv3.Cluster) error {
	if m.GetLoadAssignment() == nil {
		return errors.New("resolves names but has no load_assignment to name them")
	}
	c.Discovery = mesh.StrictDNS
	if s.logical {
		c.Discovery = mesh.LogicalDNS
		// Exactly one endpoint is allowed. Istiod sends more at times; mesh.Compile serves the first of
		// them and reports it, which is of more use than no cluster.
	}
	if s.family == "" {
		return errors.New("has an unknown dns_lookup_family")
	}
	schedule, err := s.schedule()
	if err != nil {
		return err
	}
	c.DNS = &mesh.DNS{Family: s.family, Schedule: schedule}
	c.chooseResolvers(s)
	return nil
}

func (s dnsSettings) schedule() (mesh.Schedule, error) {
	for _, d := range []struct {
		name  string
		value *durationpb.Duration
		least time.Duration
	}{
		{"dns_refresh_rate", s.refresh, time.Millisecond},
		{"dns_min_refresh_rate", s.minRefresh, time.Second},
		{"dns_jitter", s.jitter, 0},
		{"dns_failure_refresh_rate.base_interval", s.failureBase, time.Millisecond},
		{"dns_failure_refresh_rate.max_interval", s.failureMax, time.Millisecond},
	} {
		if d.value == nil {
			continue
		}
		if err := d.value.CheckValid(); err != nil {
			return mesh.Schedule{}, fmt.Errorf("%s: %w", d.name, err)
		}
		if d.value.AsDuration() < d.least {
			return mesh.Schedule{}, fmt.Errorf("%s is %v, must be at least %v", d.name, d.value.AsDuration(), d.least)
		}
	}
	if s.failureMax != nil && s.failureMax.AsDuration() < s.failureBase.AsDuration() {
		return mesh.Schedule{}, errors.New("dns_failure_refresh_rate: max_interval is below base_interval")
	}
	return mesh.Schedule{
		RefreshRate: s.refresh.AsDuration(), RespectTTL: s.respectTTL,
		MinRefresh: s.minRefresh.AsDuration(), Jitter: s.jitter.AsDuration(),
		FailureBase: s.failureBase.AsDuration(), FailureMax: s.failureMax.AsDuration(),
	}, nil
}

// chooseResolvers takes the newest of the three spellings that is there. A resolver extension other
// than c-ares asks the system, which for us is the node's choice.
func (c *cluster) chooseResolvers(s dnsSettings) {
	addresses, useTCP := s.resolvers, s.useTCP
	cares := &caresv3.CaresDnsResolverConfig{}
	switch {
	case s.resolver.GetTypedConfig().MessageIs(cares):
		if err := unpack(s.resolver.GetTypedConfig(), cares); err != nil {
			c.notes = append(c.notes, fmt.Sprintf("typed_dns_resolver_config %v; the node's resolvers are asked", err))
			return
		}
		addresses, useTCP = cares.GetResolvers(), cares.GetDnsResolverOptions().GetUseTcpForDnsLookups()
		if cares.GetUseResolversAsFallback() {
			addresses = nil // asked only where the node has no resolvers at all
		}
	case s.resolver != nil:
		addresses, useTCP = nil, false
	case s.resolution != nil:
		addresses = s.resolution.GetResolvers()
		useTCP = s.resolution.GetDnsResolverOptions().GetUseTcpForDnsLookups()
	}
	c.DNS.UseTCP = useTCP
	for _, a := range addresses {
		sa := a.GetSocketAddress()
		ip, err := netip.ParseAddr(sa.GetAddress())
		if err != nil {
			c.notes = append(c.notes, fmt.Sprintf("resolver %q is not an IP address; it is not asked", sa.GetAddress()))
			continue
		}
		port := uint16(sa.GetPortValue())
		if port == 0 {
			port = 53
		}
		c.DNS.Resolvers = append(c.DNS.Resolvers, netip.AddrPortFrom(ip.Unmap(), port))
	}
}
