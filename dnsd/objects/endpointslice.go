package objects

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"unique"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// endpointSlice is an EndpointSlice.
type endpointSlice struct {
	*Meta
	sliceSpec
}

// sliceSpec is what counts of an EndpointSlice.
type sliceSpec struct {
	of        owner // without a name it belongs to none
	wrongType string
	ports     []slicePort
	endpoints []endpoint
}

// slicePort is a port of a slice; number 0 means every port.
type slicePort struct {
	name     string
	protocol mesh.Protocol
	number   uint16
}

// endpoint is one address of a slice.
type endpoint struct {
	addr     netip.Addr
	zone     string
	node     string
	hostname string
	hints    *hints
	isReady  bool
	grace    bool // not ready because it terminates, but still serving
}

// NewEndpointSlice takes what counts of an EndpointSlice.
func NewEndpointSlice(m Meta, o *discoveryv1.EndpointSlice) Object {
	es := &endpointSlice{sliceSpec: sliceSpec{of: ownerOf(&m)}}
	if o.AddressType != discoveryv1.AddressTypeIPv4 && o.AddressType != discoveryv1.AddressTypeIPv6 {
		es.wrongType = string(o.AddressType) + "?"
	}
	for _, p := range o.Ports {
		port := slicePort{name: value(p.Name), protocol: mesh.TCP}
		if p.Protocol != nil {
			port.protocol = transport(*p.Protocol)
		}
		if p.Port != nil {
			port.number = uint16(*p.Port)
		}
		es.ports = append(es.ports, port)
	}
	es.endpoints = make([]endpoint, 0, len(o.Endpoints))
	for i := range o.Endpoints {
		if e, ok := newEndpoint(&o.Endpoints[i]); ok {
			e.hostname = importedName(e.hostname, &m)
			es.endpoints = append(es.endpoints, e)
		}
	}
	m.Kind, m.Labels, m.Annotations = KindEndpointSlice, nil, nil
	es.Meta = &m
	return es
}

func (es *endpointSlice) put(s *Set) (news bool) {
	if old := s.slices[es.id()]; old != nil && reflect.DeepEqual(old, es) {
		return false
	}
	s.disown(s.slices[es.id()])
	s.slices[es.id()] = es
	s.own(es.of, append(slices.Clone(s.owned[es.of]), es))
	return true
}

// newEndpoint is false for one without an address. More than one address means any of them: the API says to
// take the first.
func newEndpoint(e *discoveryv1.Endpoint) (endpoint, bool) {
	if len(e.Addresses) == 0 {
		return endpoint{}, false
	}
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil {
		return endpoint{}, false
	}
	return endpoint{
		addr: addr, zone: shared(value(e.Zone)), node: shared(value(e.NodeName)), hints: newHints(e.Hints), hostname: strings.Clone(value(e.Hostname)),
		isReady: value(e.Conditions.Ready) || e.Conditions.Ready == nil,
		grace:   value(e.Conditions.Serving) && value(e.Conditions.Terminating),
	}, true
}

// shared is s, of which all that have it have one copy.
func shared(s string) string { return unique.Make(s).Value() }

func newHints(o *discoveryv1.EndpointHints) *hints {
	if o == nil {
		return nil
	}
	h := &hints{}
	for _, z := range o.ForZones {
		h.zones = append(h.zones, shared(z.Name))
	}
	for _, n := range o.ForNodes {
		h.nodes = append(h.nodes, shared(n.Name))
	}
	return h
}

// value is what p points to, the zero value where it is nil.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// disown takes a slice away from its service; nil has none.
func (s *Set) disown(es *endpointSlice) {
	if es != nil {
		s.own(es.of, slices.DeleteFunc(slices.Clone(s.owned[es.of]), func(other *endpointSlice) bool { return other == es }))
	}
}

// own says which slices belong to a service.
func (s *Set) own(of owner, all []*endpointSlice) {
	slices.SortFunc(all, func(a, b *endpointSlice) int { return strings.Compare(a.Name, b.Name) })
	if s.owned[of] = all; len(all) == 0 {
		delete(s.owned, of)
	}
	if svc := s.services[of]; svc != nil {
		svc.slices, svc.stale = all, true
	}
}

// port finds the number behind a service's port. The slice's port of the same name has it, which is how
// a named targetPort is resolved; without a number there, every port is meant.
func (es *endpointSlice) port(p *servicePort) uint16 {
	for _, q := range es.ports {
		if q.name == p.name && q.protocol == transport(p.protocol) {
			if q.number != 0 {
				return q.number
			}
			return portOf(p.target, uint32(p.number))
		}
	}
	return 0
}

// stray says why a slice is of no use.
func (s *Set) stray(es *endpointSlice) []mesh.Problem {
	var c content
	switch {
	case es.of.name == "":
		c.problem(&s.options, es.Meta, "has no label %s, so it belongs to no Service", discoveryv1.LabelServiceName)
	case s.services[es.of] == nil:
		c.problem(&s.options, es.Meta, "belongs to Service %s/%s, which is not here", es.of.namespace, es.of.name)
	case es.wrongType != "":
		c.problem(&s.options, es.Meta, "addressType %q is not served; IPv4 and IPv6 are", strings.TrimSuffix(es.wrongType, "?"))
	}
	return c.problems
}
