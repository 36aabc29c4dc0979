package objects

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// service is a Service, and the slices that belong to it.
type service struct {
	unit
	serviceSpec
	slices []*endpointSlice
}

// serviceSpec is what counts of a Service.
type serviceSpec struct {
	imported   bool // of the set of clusters
	exportTo   []string
	external   *string // of type ExternalName: the name
	headless   bool
	clusterIPs []string
	ports      []servicePort
	publishAll bool          // endpoints that are not ready, too
	affinity   time.Duration // how long a pod that comes back reaches the endpoint it had; 0: it need not
	local      bool          // only endpoints of this node
	nearby     string        // trafficDistribution
}

// servicePort is a port of a service, as it is written.
type servicePort struct {
	name     string
	number   int32
	protocol corev1.Protocol
	target   uint32 // 0 where it is a name, or not said
}

// NewService takes what counts of a Service.
func NewService(m Meta, o *corev1.Service) Object { return newService(m, &o.Spec) }

func newService(m Meta, spec *corev1.ServiceSpec) *service {
	svc := &service{serviceSpec: serviceSpec{
		headless:   spec.ClusterIP == corev1.ClusterIPNone || slices.Contains(spec.ClusterIPs, corev1.ClusterIPNone),
		clusterIPs: spec.ClusterIPs, publishAll: spec.PublishNotReadyAddresses, affinity: affinity(spec),
		nearby: value(spec.TrafficDistribution), local: value(spec.InternalTrafficPolicy) == corev1.ServiceInternalTrafficPolicyLocal,
	}}
	if len(svc.clusterIPs) == 0 && spec.ClusterIP != "" {
		svc.clusterIPs = []string{spec.ClusterIP}
	}
	if to := m.Annotations["networking.istio.io/exportTo"]; to != "" {
		for ns := range strings.SplitSeq(to, ",") {
			svc.exportTo = append(svc.exportTo, strings.TrimSpace(ns))
		}
	}
	if spec.Type == corev1.ServiceTypeExternalName {
		name := strings.ToLower(strings.TrimSuffix(spec.ExternalName, "."))
		svc.external = &name
	}
	for _, p := range spec.Ports {
		svc.ports = append(svc.ports, servicePort{p.Name, p.Port, p.Protocol, uint32(p.TargetPort.IntValue())})
	}
	m.Kind, m.Labels, m.Annotations = KindService, nil, nil
	svc.unit = unit{Meta: &m, translate: svc.translate, stale: true}
	return svc
}

func (s *service) put(set *Set) (news bool) {
	of := owner{s.id(), s.imported}
	if old := set.services[of]; old != nil && reflect.DeepEqual(old.Meta, s.Meta) && reflect.DeepEqual(old.serviceSpec, s.serviceSpec) {
		return false
	}
	s.slices = set.owned[of]
	set.services[of], set.units = s, nil
	return true
}

func affinity(spec *corev1.ServiceSpec) time.Duration {
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := corev1.DefaultClientIPServiceAffinitySeconds
	if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}

// translate makes a host of the service, and a cluster of each port.
func (s *service) translate(b *builder) {
	h := mesh.Host{
		Name:   strings.ToLower(s.Name + "." + s.Namespace + ".svc." + b.options.ClusterDomain),
		Object: s.String(), Namespace: s.Namespace, Kubernetes: !s.imported, Imported: s.imported, ExportTo: s.exportTo,
	}
	if s.imported {
		h.Name = strings.ToLower(s.Name + "." + s.Namespace + ".svc." + clusterSet)
	}
	switch {
	case s.external != nil && *s.external == "":
		b.note("is of type ExternalName and has no externalName")
		return
	case s.external != nil:
		h.ExternalName = *s.external
	case s.headless:
		s.addHeadless(b, &h)
	default:
		s.addClusterIPs(b, &h)
		for i := range s.ports {
			p := &s.ports[i]
			if port, ok := b.servicePort(p, h.Ports); ok {
				port.Cluster = b.addCluster(h.Name, port, s.cluster(p, b))
				h.Ports = append(h.Ports, port)
			}
		}
	}
	b.hosts = append(b.hosts, h)
}

// addClusterIPs takes the service's own addresses. A manifest that was never in a cluster has none and
// gets a virtual one. Endpoints have names beside it if they are called something.
func (s *service) addClusterIPs(b *builder, h *mesh.Host) {
	for _, ip := range s.clusterIPs {
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			b.note("cluster IP %q is not an address", ip)
			continue
		}
		h.Addresses = append(h.Addresses, addr.Unmap())
	}
	h.Allocate = len(s.clusterIPs) == 0 && len(s.ports) > 0
	for _, e := range s.backends(func(*endpointSlice) uint16 { return 1 }) {
		if e.ready && e.hostname != "" {
			h.Records = append(h.Records, mesh.Record{Label: strings.ToLower(e.hostname), Addresses: []netip.Addr{e.addr}})
		}
	}
}

// servicePort is p in mesh words, still without a cluster, unless it is none that can be added to ports.
func (b *builder) servicePort(p *servicePort, ports []mesh.Port) (mesh.Port, bool) {
	port := mesh.Port{Name: p.name, Number: uint16(p.number), Protocol: transport(p.protocol)}
	if p.number < 1 || p.number > 65535 || port.Protocol == 0 {
		b.note("port %d/%s is not a TCP or UDP port", p.number, p.protocol)
		return port, false
	}
	if slices.ContainsFunc(ports, func(q mesh.Port) bool { return q.Number == port.Number && q.Protocol == port.Protocol }) {
		b.note("port %d is there twice; the first is used", p.number)
		return port, false
	}
	return port, true
}

// transport is 0 for a protocol that is not served.
func transport(p corev1.Protocol) mesh.Protocol {
	switch p {
	case "", corev1.ProtocolTCP:
		return mesh.TCP
	case corev1.ProtocolUDP:
		return mesh.UDP
	}
	return 0
}

// cluster has an endpoint for each backend of p that pods of this node may use. As with kube-proxy,
// terminating ones serve on while there is no other.
func (s *service) cluster(p *servicePort, b *builder) mesh.Cluster {
	c := mesh.Cluster{Discovery: mesh.Static, Balancing: newBalancing()}
	c.Affinity = s.affinity
	backends := s.backends(func(es *endpointSlice) uint16 { return es.port(p) })
	if s.local {
		backends = slices.DeleteFunc(backends, func(e backend) bool { return e.node == "" || e.node != b.set.place.Node })
	} else {
		backends = s.near(backends, b.set.place, !b.options.Live)
	}
	anyReady := slices.ContainsFunc(backends, func(e backend) bool { return e.ready })
	for _, e := range backends {
		usable := e.ready || !anyReady && e.grace
		addEndpoint(&c, "", e.zone, "", mesh.Endpoint{Address: e.addr.String(), Port: e.port, Unhealthy: !usable})
	}
	return c
}

// backend is an endpoint of a slice as one port of a service sees it.
type backend struct {
	*endpoint
	port  uint16
	ready bool
}

// backends lists the endpoints of all slices once. port is the port number in a slice, 0 if the slice
// does not have it.
func (s *service) backends(port func(*endpointSlice) uint16) []backend {
	type key struct {
		addr netip.Addr
		port uint16
	}
	var out []backend
	seen := map[key]bool{} // a pod is in two slices while it moves between them
	for _, es := range s.slices {
		n := port(es)
		if n == 0 || es.wrongType != "" {
			continue
		}
		for i := range es.endpoints {
			e := &es.endpoints[i]
			if !seen[key{e.addr, n}] {
				seen[key{e.addr, n}] = true
				out = append(out, backend{e, n, e.isReady || s.publishAll})
			}
		}
	}
	return out
}

// addHeadless lists the ready endpoints as the host's addresses, and each under its own name.
func (s *service) addHeadless(b *builder, h *mesh.Host) {
	h.Headless = true
	for i := range s.ports {
		if port, ok := b.servicePort(&s.ports[i], h.Ports); ok {
			h.Ports = append(h.Ports, port)
		}
	}
	ports := s.endpointPorts()
	for _, e := range s.backends(func(*endpointSlice) uint16 { return 1 }) {
		if !e.ready {
			continue
		}
		h.Addresses = append(h.Addresses, e.addr)
		label := strings.ToLower(e.hostname)
		if label == "" {
			// An SRV answer needs a name for each endpoint; this is the one CoreDNS makes.
			label = strings.NewReplacer(".", "-", ":", "-").Replace(e.addr.String())
		}
		h.Records = append(h.Records, mesh.Record{
			Label: label, Addresses: []netip.Addr{e.addr}, Ports: ports[e.addr],
		})
	}
}

// endpointPorts are the service's ports under the numbers they have at each endpoint.
func (s *service) endpointPorts() map[netip.Addr][]mesh.Port {
	out := map[netip.Addr][]mesh.Port{}
	for i := range s.ports {
		p := &s.ports[i]
		if transport(p.protocol) == 0 {
			continue
		}
		for _, e := range s.backends(func(es *endpointSlice) uint16 { return es.port(p) }) {
			out[e.addr] = append(out[e.addr], mesh.Port{Name: p.name, Number: e.port, Protocol: transport(p.protocol)})
		}
	}
	return out
}
