package xds

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// assignment is a ClusterLoadAssignment in mesh words. It is shared and never edited.
type assignment struct {
	name string
	err  error
	// localities are sorted, and so are their endpoints: a control plane's order means nothing and
	// changes between pushes.
	localities       []mesh.Locality
	overprovisioning uint32 // percent; 0 for none given
	// marks is what each endpoint's metadata offers for the choice of a transport, in the order of
	// localities; nil if none has any.
	marks   [][]mark
	skipped []string // endpoints that cannot be used, and why
}

// mark is an endpoint's metadata under "envoy.transport_socket_match".
type mark map[string]*structpb.Value

// assignment decodes one that came by EDS, or finds it decoded.
func (p *pools) assignment(r *anypb.Any) (string, *assignment, error) {
	a := p.endpoints.get(r.GetTypeUrl(), r.GetValue(), func() *assignment {
		m := &endpointv3.ClusterLoadAssignment{}
		if err := unpack(r, m); err != nil {
			return &assignment{name: m.GetClusterName(), err: err}
		}
		return newAssignment(m, mesh.Static)
	})
	return a.name, a, a.err
}

// located is an endpoint on its way into an assignment.
type located struct {
	mesh.Endpoint
	mark mark
}

// newAssignment puts m in mesh words, for a cluster of the type.
func newAssignment(m *endpointv3.ClusterLoadAssignment, d mesh.DiscoveryType) *assignment {
	a := &assignment{name: m.GetClusterName(), overprovisioning: m.GetPolicy().GetOverprovisioningFactor().GetValue()}
	type place struct {
		mesh.Locality
		marks []mark
	}
	var places []place
	marked := false
	for _, l := range m.GetEndpoints() {
		if l.GetLedsClusterLocalityConfig() != nil {
			a.skipped = append(a.skipped, "endpoints by LEDS are not served")
		}
		where := l.GetLocality()
		p := place{Locality: mesh.Locality{
			Region: where.GetRegion(), Zone: where.GetZone(), SubZone: where.GetSubZone(),
			Weight: l.GetLoadBalancingWeight().GetValue(), Priority: l.GetPriority(),
		}}
		if d == mesh.LogicalDNS {
			p.Priority = 0 // as Envoy has it
		}
		for _, e := range a.locate(l, d) {
			p.Endpoints, p.marks = append(p.Endpoints, e.Endpoint), append(p.marks, e.mark)
			marked = marked || len(e.mark) > 0
		}
		if len(p.Endpoints) > 0 {
			places = append(places, p)
		}
	}
	slices.SortStableFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Region, b.Region),
			cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.SubZone, b.SubZone))
	})
	for _, p := range places {
		a.localities = append(a.localities, p.Locality)
		if marked {
			a.marks = append(a.marks, p.marks)
		}
	}
	return a
}

// locate returns a locality's endpoints, sorted, and notes those that cannot be used.
func (a *assignment) locate(l *endpointv3.LocalityLbEndpoints, d mesh.DiscoveryType) []located {
	var out []located
	for _, e := range l.GetLbEndpoints() {
		es, err := endpoints(e, d)
		if err != nil {
			a.skipped = append(a.skipped, err.Error())
		}
		m := mark(e.GetMetadata().GetFilterMetadata()["envoy.transport_socket_match"].GetFields())
		for _, e := range es {
			out = append(out, located{e, m})
		}
	}
	slices.SortStableFunc(out, func(a, b located) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Weight, b.Weight))
	})
	return out
}

// endpoints is one endpoint of Envoy: its address, and the first of the other family if it has one.
// A client of either family then sees the endpoint once.
func endpoints(e *endpointv3.LbEndpoint, d mesh.DiscoveryType) ([]mesh.Endpoint, error) {
	main := e.GetEndpoint().GetAddress()
	first, err := newEndpoint(main, e, d)
	if err != nil {
		return nil, err
	}
	out := []mesh.Endpoint{first}
	ip, err := netip.ParseAddr(first.Address)
	if err != nil {
		return out, nil // a name: its lookup has both families
	}
	for _, more := range e.GetEndpoint().GetAdditionalAddresses() {
		next, err := newEndpoint(more.GetAddress(), e, d)
		if err != nil {
			return out, err
		}
		if other, err := netip.ParseAddr(next.Address); err == nil && other.Is4() != ip.Is4() {
			return append(out, next), nil
		}
	}
	return out, nil
}

func newEndpoint(a *corev3.Address, e *endpointv3.LbEndpoint, d mesh.DiscoveryType) (mesh.Endpoint, error) {
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
	case out.Address == "" || ipErr != nil && d != mesh.StrictDNS && d != mesh.LogicalDNS:
		return out, fmt.Errorf("%q is not an IP address", sa.GetAddress())
	case ipErr == nil:
		out.Address = ip.Unmap().String()
	}
	switch e.GetHealthStatus() {
	case corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_DRAINING, corev3.HealthStatus_TIMEOUT:
		out.Unhealthy = true
	}
	return out, nil
}
