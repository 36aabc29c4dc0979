package xds

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// localities puts an assignment in mesh words, sorted, since a control plane's order means nothing and
// changes between pushes. Endpoints that cannot be used are left out and listed in skipped.
func (c *cluster) localities(a *endpointv3.ClusterLoadAssignment) (out []mesh.Locality, skipped []string) {
	for _, l := range a.GetEndpoints() {
		if l.GetLedsClusterLocalityConfig() != nil {
			skipped = append(skipped, "endpoints by LEDS are not served")
		}
		where := l.GetLocality()
		m := mesh.Locality{
			Region: where.GetRegion(), Zone: where.GetZone(), SubZone: where.GetSubZone(),
			Weight: l.GetLoadBalancingWeight().GetValue(), Priority: l.GetPriority(),
		}
		if c.Discovery == mesh.LogicalDNS {
			m.Priority = 0 // as Envoy has it
		}
		for _, e := range l.GetLbEndpoints() {
			es, err := c.endpoints(e)
			if err != nil {
				skipped = append(skipped, err.Error())
			}
			m.Endpoints = append(m.Endpoints, es...)
		}
		if len(m.Endpoints) == 0 {
			continue
		}
		slices.SortFunc(m.Endpoints, func(a, b mesh.Endpoint) int {
			return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Weight, b.Weight))
		})
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b mesh.Locality) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Region, b.Region),
			cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.SubZone, b.SubZone))
	})
	return out, skipped
}

// endpoints is one endpoint of Envoy: its address, and the first of the other family if it has one.
// A client of either family then sees the endpoint once.
func (c *cluster) endpoints(e *endpointv3.LbEndpoint) ([]mesh.Endpoint, error) {
	main := e.GetEndpoint().GetAddress()
	first, err := c.endpoint(main, e)
	if err != nil {
		return nil, err
	}
	out := []mesh.Endpoint{first}
	ip, err := netip.ParseAddr(first.Address)
	if err != nil {
		return out, nil // a name: its lookup has both families
	}
	for _, more := range e.GetEndpoint().GetAdditionalAddresses() {
		next, err := c.endpoint(more.GetAddress(), e)
		if err != nil {
			return out, err
		}
		if other, err := netip.ParseAddr(next.Address); err == nil && other.Is4() != ip.Is4() {
			return append(out, next), nil
		}
	}
	return out, nil
}

func (c *cluster) endpoint(a *corev3.Address, e *endpointv3.LbEndpoint) (mesh.Endpoint, error) {
	sa := a.GetSocketAddress()
	out := mesh.Endpoint{
		Address: sa.GetAddress(), Port: uint16(sa.GetPortValue()),
		Weight: e.GetLoadBalancingWeight().GetValue(),
	}
	ip, ipErr := netip.ParseAddr(out.Address)
	switch {
	case sa == nil:
		return out, fmt.Errorf("%q is not an address and port", a.String())
	case sa.GetPortValue() == 0 || sa.GetPortValue() > math.MaxUint16:
		return out, fmt.Errorf("%q has no usable port number", sa.GetAddress())
	case sa.GetResolverName() != "":
		return out, fmt.Errorf("%q asks for the custom resolver %q", sa.GetAddress(), sa.GetResolverName())
	case out.Address == "" || ipErr != nil && c.DNS == nil:
		return out, fmt.Errorf("%q is not an IP address", sa.GetAddress())
	case ipErr == nil:
		out.Address = ip.Unmap().String()
	}
	switch e.GetHealthStatus() {
	case corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_DRAINING, corev3.HealthStatus_TIMEOUT:
		out.Unhealthy = true
	}
	out.RequiresTLS = c.tls.demanded(e.GetMetadata())
	return out, nil
}
