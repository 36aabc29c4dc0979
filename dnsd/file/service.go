package file

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// addServices joins services and their slices, and makes a host of each service.
func (b *builder) addServices() {
	byName := map[string]*service{}
	for _, s := range b.services {
		byName[s.Metadata.Namespace+"/"+s.Metadata.Name] = s
	}
	for _, es := range b.slices {
		name := es.Metadata.Labels[discoveryv1.LabelServiceName]
		owner := byName[es.Metadata.Namespace+"/"+name]
		switch {
		case name == "":
			b.note(es.object, "has no label %s, so it belongs to no Service", discoveryv1.LabelServiceName)
		case owner == nil:
			b.note(es.object, "belongs to Service %s/%s, which is not in the folder", es.Metadata.Namespace, name)
		case es.AddressType != discoveryv1.AddressTypeIPv4 && es.AddressType != discoveryv1.AddressTypeIPv6:
			b.note(es.object, "addressType %q is not served; IPv4 and IPv6 are", es.AddressType)
		default:
			owner.slices = append(owner.slices, es)
		}
	}
	for _, s := range b.services {
		b.addService(s)
	}
}

func (b *builder) addService(s *service) {
	h := &mesh.Host{
		Name:   strings.ToLower(s.Metadata.Name + "." + s.Metadata.Namespace + ".svc." + b.domain),
		Object: s.object.String(), Namespace: s.Metadata.Namespace, Kubernetes: true,
	}
	if to := s.Metadata.Annotations["networking.istio.io/exportTo"]; to != "" {
		for ns := range strings.SplitSeq(to, ",") {
			h.ExportTo = append(h.ExportTo, strings.TrimSpace(ns))
		}
	}
	if s.Service.Spec.Type == corev1.ServiceTypeExternalName {
		h.ExternalName = strings.ToLower(strings.TrimSuffix(s.Service.Spec.ExternalName, "."))
		if h.ExternalName == "" {
			b.note(s.object, "is of type ExternalName and has no externalName")
			return
		}
		b.hosts = append(b.hosts, h)
		return
	}
	b.hosts = append(b.hosts, h)
	if s.Service.Spec.ClusterIP == corev1.ClusterIPNone || slices.Contains(s.Service.Spec.ClusterIPs, corev1.ClusterIPNone) {
		b.addHeadless(s, h)
		return
	}
	b.addClusterIPs(s, h)
	for i := range s.Service.Spec.Ports {
		p := &s.Service.Spec.Ports[i]
		if port, ok := b.servicePort(s, p); ok {
			port.Cluster = b.addCluster(s.object, h.Name, port, s.cluster(p))
			h.Ports = append(h.Ports, port)
		}
	}
	b.noteUnapplied(s)
}

// addClusterIPs takes the service's own addresses. A manifest that was never in a cluster has none and
// gets a virtual one.
func (b *builder) addClusterIPs(s *service, h *mesh.Host) {
	ips := s.Service.Spec.ClusterIPs
	if len(ips) == 0 && s.Service.Spec.ClusterIP != "" {
		ips = []string{s.Service.Spec.ClusterIP}
	}
	for _, ip := range ips {
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			b.note(s.object, "cluster IP %q is not an address", ip)
			continue
		}
		h.Addresses = append(h.Addresses, addr.Unmap())
	}
	h.Allocate = len(ips) == 0 && len(s.Service.Spec.Ports) > 0
}

// noteUnapplied says which settings of a service make no difference here.
func (b *builder) noteUnapplied(s *service) {
	var unapplied []string
	if p := s.Service.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		unapplied = append(unapplied, "internalTrafficPolicy")
	}
	if s.Service.Spec.TrafficDistribution != nil {
		unapplied = append(unapplied, "trafficDistribution")
	}
	if len(unapplied) > 0 {
		b.note(s.object, "not applied: %s", strings.Join(unapplied, ", "))
	}
}

// servicePort is p in mesh words, still without a cluster.
func (b *builder) servicePort(s *service, p *corev1.ServicePort) (mesh.Port, bool) {
	port := mesh.Port{Name: p.Name, Number: uint16(p.Port), Protocol: transport(p.Protocol)}
	if p.Port < 1 || p.Port > 65535 || port.Protocol == 0 {
		b.note(s.object, "port %d/%s is not a TCP or UDP port", p.Port, p.Protocol)
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

// backend is an endpoint of a slice as one port of a service sees it.
type backend struct {
	addr         netip.Addr
	port         uint16
	zone         string
	hostname     string
	ready, grace bool // grace: not ready because it terminates, but still serving
}

// cluster has an endpoint for each backend of p. As with kube-proxy, terminating ones serve on while
// there is no other.
func (s *service) cluster(p *corev1.ServicePort) mesh.Cluster {
	c := mesh.Cluster{Discovery: mesh.Static, Balancing: newBalancing()}
	c.Affinity = s.affinity()
	backends := s.backends(func(es *endpointSlice) uint16 { return es.port(p) })
	anyReady := slices.ContainsFunc(backends, func(e backend) bool { return e.ready })
	for _, e := range backends {
		usable := e.ready || !anyReady && e.grace
		addEndpoint(&c, "", e.zone, "", mesh.Endpoint{Address: e.addr.String(), Port: e.port, Unhealthy: !usable})
	}
	return c
}

// affinity is how long a pod that comes back reaches the endpoint it had; 0: it need not.
func (s *service) affinity() time.Duration {
	if s.Service.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := corev1.DefaultClientIPServiceAffinitySeconds
	if c := s.Service.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
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
		if n == 0 {
			continue
		}
		for _, e := range es.Endpoints {
			if len(e.Addresses) == 0 {
				continue
			}
			// More than one address means any of them: the API says to take the first.
			addr, err := netip.ParseAddr(e.Addresses[0])
			if err != nil || seen[key{addr, n}] {
				continue
			}
			seen[key{addr, n}] = true
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready || s.Service.Spec.PublishNotReadyAddresses
			serving := e.Conditions.Serving != nil && *e.Conditions.Serving
			terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
			out = append(out, backend{
				addr: addr, port: n, zone: value(e.Zone), hostname: value(e.Hostname),
				ready: ready, grace: serving && terminating,
			})
		}
	}
	return out
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// port finds the number behind a service's port. The slice's port of the same name has it, which is how
// a named targetPort is resolved; without a number there, every port is meant.
func (es *endpointSlice) port(p *corev1.ServicePort) uint16 {
	for _, q := range es.Ports {
		protocol := corev1.ProtocolTCP
		if q.Protocol != nil {
			protocol = *q.Protocol
		}
		if value(q.Name) != p.Name || transport(protocol) != transport(p.Protocol) {
			continue
		}
		if q.Port != nil {
			return uint16(*q.Port)
		}
		return portOf(uint32(p.TargetPort.IntValue()), uint32(p.Port))
	}
	return 0
}

// addHeadless lists the ready endpoints as the host's addresses, and each under its own name.
func (b *builder) addHeadless(s *service, h *mesh.Host) {
	h.Headless = true
	for i := range s.Service.Spec.Ports {
		if port, ok := b.servicePort(s, &s.Service.Spec.Ports[i]); ok {
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
	for i := range s.Service.Spec.Ports {
		p := &s.Service.Spec.Ports[i]
		if transport(p.Protocol) == 0 {
			continue
		}
		for _, e := range s.backends(func(es *endpointSlice) uint16 { return es.port(p) }) {
			out[e.addr] = append(out[e.addr], mesh.Port{Name: p.Name, Number: e.port, Protocol: transport(p.Protocol)})
		}
	}
	return out
}
