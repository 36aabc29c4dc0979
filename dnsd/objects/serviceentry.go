package objects

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// istioDNS is how istiod has the names of a ServiceEntry looked up. Only the family differs: istiod
// knows which its node has, a manifest does not, so both are asked. A client then gets endpoints of its
// own family; on a node with one family the other costs a query in each interval.
var istioDNS = mesh.DNS{
	Family:   mesh.AllFamilies,
	Schedule: mesh.Schedule{RefreshRate: time.Minute, RespectTTL: true, Jitter: 100 * time.Millisecond},
}

// optOut is the label by which an entry wants no virtual address.
const optOut = "networking.istio.io/enable-autoallocate-ip"

// serviceEntry is a ServiceEntry.
type serviceEntry struct {
	unit
	spec   *networking.ServiceEntry
	status *networking.ServiceEntryStatus
	out    bool     // it wants no virtual address
	names  []string // its hosts
}

// NewServiceEntry keeps spec and status, which may be nil. One that cannot be served is an error.
func NewServiceEntry(m Meta, spec *networking.ServiceEntry, status *networking.ServiceEntryStatus) (Object, error) {
	e := &serviceEntry{spec: spec, status: status, out: strings.EqualFold(m.Labels[optOut], "false")}
	var err error
	if e.names, err = hostsOf(spec); err != nil {
		return nil, err
	}
	if err := checkEntry(spec); err != nil {
		return nil, err
	}
	m.Kind, m.Labels, m.Annotations = KindServiceEntry, nil, nil
	e.unit = unit{Meta: &m, translate: e.translate, stale: true}
	return e, nil
}

func (e *serviceEntry) put(s *Set) (news bool) {
	if old := s.entries[e.id()]; old != nil && old.Place == e.Place && old.out == e.out && proto.Equal(old.spec, e.spec) && proto.Equal(old.status, e.status) {
		return false
	}
	s.entries[e.id()], s.units = e, nil
	return true
}

// translate makes a host of each of the entry's hosts and a cluster of each of its ports.
func (e *serviceEntry) translate(b *builder) {
	addresses, ports := e.addresses(b), e.ports(b)
	for _, name := range e.names {
		h := mesh.Host{
			Name: name, Object: e.String(), Namespace: e.Namespace,
			ExportTo: slices.Clone(e.spec.ExportTo), Addresses: addresses,
		}
		if len(addresses) == 0 {
			h.Addresses = e.statusAddresses(b, name)
		}
		h.Allocate = len(h.Addresses) == 0 && e.spec.Resolution != networking.ServiceEntry_NONE && len(ports) > 0 &&
			!strings.HasPrefix(name, "*.") && !e.out
		for _, p := range ports {
			h.Ports = append(h.Ports, e.port(b, name, p))
		}
		b.hosts = append(b.hosts, h)
	}
}

// hostsOf are an entry's host names in lower case.
func hostsOf(spec *networking.ServiceEntry) ([]string, error) {
	if len(spec.Hosts) == 0 {
		return nil, errors.New("spec.hosts is empty")
	}
	var out []string
	for _, h := range spec.Hosts {
		name := strings.ToLower(strings.TrimSuffix(h, "."))
		if strings.Contains(strings.TrimPrefix(name, "*."), "*") {
			return nil, fmt.Errorf(`host %q: a wildcard is "*." and a domain`, h)
		}
		if slices.Contains(out, name) {
			return nil, fmt.Errorf("host %q is there twice", h)
		}
		out = append(out, name)
	}
	return out, nil
}

// checkEntry refuses what Istio's own validation refuses and what could only be served wrongly.
func checkEntry(spec *networking.ServiceEntry) error {
	endpoints := len(spec.Endpoints)
	wildcard := slices.ContainsFunc(spec.Hosts, func(h string) bool { return strings.HasPrefix(h, "*.") })
	switch r := spec.Resolution; {
	case spec.WorkloadSelector != nil && endpoints > 0:
		return errors.New("workloadSelector and endpoints exclude each other; leave one out")
	case spec.WorkloadSelector != nil && len(spec.WorkloadSelector.Labels) == 0:
		return errors.New("workloadSelector selects nothing; name labels")
	case spec.WorkloadSelector != nil && r == networking.ServiceEntry_NONE:
		return errors.New("resolution NONE goes to the address the client chose, so what workloadSelector selects would never be used; use STATIC or DNS")
	case r == networking.ServiceEntry_DYNAMIC_DNS:
		return errors.New("resolution DYNAMIC_DNS needs a proxy that reads the host name; use DNS")
	case r == networking.ServiceEntry_NONE && endpoints > 0:
		return errors.New("resolution NONE goes to the address the client chose, so endpoints would never be used; use STATIC or DNS")
	case r == networking.ServiceEntry_DNS_ROUND_ROBIN && endpoints > 1:
		return fmt.Errorf("resolution DNS_ROUND_ROBIN takes one endpoint, %d are given; use DNS", endpoints)
	case (r == networking.ServiceEntry_DNS || r == networking.ServiceEntry_DNS_ROUND_ROBIN) && wildcard && endpoints == 0:
		return errors.New("a wildcard host cannot be looked up; list endpoints")
	}
	return nil
}

// addresses are the addresses the entry gives its hosts. A range has no single owner, so only one
// of a single address is usable.
func (e *serviceEntry) addresses(b *builder) []netip.Addr {
	var out []netip.Addr
	for _, s := range e.spec.Addresses {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			p, perr := netip.ParsePrefix(s)
			if perr != nil {
				b.note("address %q is neither an address nor a range", s)
				continue
			}
			if !p.IsSingleIP() {
				b.note("address %s is a range, which is not served; list its addresses", s)
				continue
			}
			ip = p.Addr()
		}
		out = append(out, ip.Unmap())
	}
	return out
}

// statusAddresses are what Istio's allocator wrote for one of the hosts.
func (e *serviceEntry) statusAddresses(b *builder, host string) []netip.Addr {
	var out []netip.Addr
	for _, a := range e.status.GetAddresses() {
		if !strings.EqualFold(strings.TrimSuffix(a.GetHost(), "."), host) {
			continue
		}
		ip, err := netip.ParseAddr(a.GetValue())
		if err != nil {
			b.note("status address %q of %s is not an address", a.GetValue(), host)
			continue
		}
		out = append(out, ip.Unmap())
	}
	return out
}

// ports are the ports that can be served.
func (e *serviceEntry) ports(b *builder) []*networking.ServicePort {
	if len(e.spec.Ports) == 0 {
		b.note("spec.ports is empty: its names are answered only with addresses it gives")
	}
	var out []*networking.ServicePort
	for _, p := range e.spec.Ports {
		switch {
		case p.GetNumber() == 0 || p.GetNumber() > 65535 || p.GetTargetPort() > 65535:
			b.note("port %q is left out: number %d, targetPort %d, a port is 1 to 65535", p.GetName(), p.GetNumber(), p.GetTargetPort())
		case protocolOf(p.GetProtocol()) == 0:
			b.note("port %d is left out: protocol %q is not known", p.GetNumber(), p.GetProtocol())
		case slices.ContainsFunc(out, func(q *networking.ServicePort) bool {
			return q.GetNumber() == p.GetNumber() && protocolOf(q.GetProtocol()) == protocolOf(p.GetProtocol())
		}):
			b.note("port %d is there twice; the first is used", p.GetNumber())
		default:
			out = append(out, p)
		}
	}
	return out
}

// protocolOf is the transport below one of Istio's protocols, 0 for an unknown one.
func protocolOf(name string) mesh.Protocol {
	switch strings.ToUpper(name) {
	case "", "TCP", "TLS", "HTTP", "HTTPS", "HTTP2", "GRPC", "GRPC-WEB", "GRPC-WEB-TEXT", "MONGO", "MYSQL", "REDIS":
		return mesh.TCP
	case "UDP":
		return mesh.UDP
	}
	return 0
}

// port makes one port of one host, with its cluster if connections to it are balanced.
func (e *serviceEntry) port(b *builder, host string, p *networking.ServicePort) mesh.Port {
	port := mesh.Port{Name: p.GetName(), Number: uint16(p.GetNumber()), Protocol: protocolOf(p.GetProtocol())}
	c := mesh.Cluster{Balancing: newBalancing()}
	switch e.spec.Resolution {
	case networking.ServiceEntry_STATIC:
		c.Discovery = mesh.Static
	case networking.ServiceEntry_DNS:
		c.Discovery = mesh.StrictDNS
	case networking.ServiceEntry_DNS_ROUND_ROBIN:
		c.Discovery = mesh.LogicalDNS
	default: // NONE, which is also what leaving it out means
		return port
	}
	if c.Discovery != mesh.Static {
		dns := istioDNS
		c.DNS = &dns
		if len(e.spec.Endpoints) == 0 && e.spec.WorkloadSelector == nil {
			target := portOf(p.GetTargetPort(), p.GetNumber())
			c.Localities = []mesh.Locality{{Endpoints: []mesh.Endpoint{{Address: host, Port: target}}}}
		}
	}
	for _, w := range e.spec.Endpoints {
		if err := addWorkload(&c, w, p); err != nil {
			b.note("endpoint %q is left out: %v", w.GetAddress(), err)
		}
	}
	if selector := e.spec.GetWorkloadSelector(); selector != nil {
		for _, w := range b.set.selected(e.Namespace, selector.Labels) {
			if err := addWorkload(&c, w.spec, p); err != nil {
				b.problem(b.options, w.Meta, "is no endpoint of %s: %v", e, err)
			}
		}
	}
	port.Cluster = b.addCluster(host, port, c)
	return port
}

// portOf is the first port number that is set.
func portOf(numbers ...uint32) uint16 {
	for _, n := range numbers {
		if n != 0 {
			return uint16(n)
		}
	}
	return 0
}

// addWorkload puts one endpoint of an entry into the cluster of one of its ports.
func addWorkload(c *mesh.Cluster, w *networking.WorkloadEntry, p *networking.ServicePort) error {
	ip, err := netip.ParseAddr(w.GetAddress())
	switch {
	case strings.HasPrefix(w.GetAddress(), "unix:"):
		return errors.New("a unix socket is not reached from another pod")
	case w.GetAddress() == "":
		return errors.New("it has no address")
	case err != nil && c.Discovery == mesh.Static:
		return errors.New("resolution STATIC wants an IP address; use DNS")
	case w.GetNetwork() != "":
		return fmt.Errorf("it is in network %q, which is reached through a gateway only", w.GetNetwork())
	case w.GetPorts()[p.GetName()] > 65535:
		return fmt.Errorf("%d is not a port", w.GetPorts()[p.GetName()])
	}
	e := mesh.Endpoint{
		Address: strings.ToLower(strings.TrimSuffix(w.GetAddress(), ".")),
		Port:    portOf(w.GetPorts()[p.GetName()], p.GetTargetPort(), p.GetNumber()), Weight: w.GetWeight(),
		RequiresTLS: w.GetLabels()["security.istio.io/tlsMode"] == "istio",
	}
	if err == nil {
		e.Address = ip.Unmap().String()
	}
	place := append(strings.SplitN(w.GetLocality(), "/", 3), "", "")
	addEndpoint(c, place[0], place[1], place[2], e)
	return nil
}

// addEndpoint puts e where the others of its locality are.
func addEndpoint(c *mesh.Cluster, region, zone, subZone string, e mesh.Endpoint) {
	i := slices.IndexFunc(c.Localities, func(l mesh.Locality) bool {
		return l.Region == region && l.Zone == zone && l.SubZone == subZone
	})
	if i < 0 {
		i = len(c.Localities)
		c.Localities = append(c.Localities, mesh.Locality{Region: region, Zone: zone, SubZone: subZone})
	}
	c.Localities[i].Endpoints = append(c.Localities[i].Endpoints, e)
}
