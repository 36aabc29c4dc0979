package serve

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// The cases describe what a control plane knows in three ways: as istiod's name table (NDS), as the
// services that istiod makes one of, and as those that ztunnel is told of. The functions here say what
// rows follow; what is tested is what is answered from them.

// nameInfo is an entry of istiod's name table.
type nameInfo struct {
	IPs       []string
	Registry  string
	Namespace string
	AltHosts  []string `json:"alt_hosts"`
}

// tableRows are the rows of a name table.
func (tc *dnsCase) tableRows() (rows []*mesh.Name) {
	for host, info := range *tc.NameTable {
		addrs := parsed(info.IPs)
		if len(addrs) == 0 {
			continue
		}
		for _, h := range append([]string{host}, info.AltHosts...) {
			rows = append(rows, row(strings.TrimSuffix(h, "."), info.Namespace, info.Registry == "Kubernetes", addrs))
		}
	}
	return rows
}

// caseService is a service as istiod (address, resolution, endpoints) or ztunnel (VIPs, workloads) has it.
type caseService struct {
	Hostname, Namespace, Registry, Resolution, Address string
	ClusterVIPs                                        map[string][]string `json:"cluster_vips"`
	AutoV4                                             string              `json:"auto_v4"`
	AutoV6                                             string              `json:"auto_v6"`
	PublishNotReady                                    bool                `json:"publish_not_ready"`
	Endpoints                                          []caseEndpoint

	Ports []struct {
		Name, Protocol string // TCP, unless it says otherwise
		Port           uint16
	}
	ExternalName string `json:"external_name"`

	VIPs       []struct{ Network, Address string }
	IPFamilies string `json:"ip_families"`
	Visibility string
	Canonical  bool
}

// caseEndpoint is istiod's; ztunnel's is only the uid of a workload.
type caseEndpoint struct {
	UID                                           string `json:"-"`
	IPs                                           []string
	Hostname, Subdomain, Cluster, Network, Health string
}

func (e *caseEndpoint) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		return json.Unmarshal(data, &e.UID)
	}
	type plain caseEndpoint
	return json.Unmarshal(data, (*plain)(e))
}

type caseWorkload struct {
	UID string
	IPs []string
}

// istiodRows are the rows of the name table that istiod makes of the services for the case's client.
func (tc *dnsCase) istiodRows() (rows []*mesh.Name) {
	for i := range tc.Services {
		r := tc.istiodRow(&tc.Services[i])
		if r == nil {
			continue
		}
		at := slices.IndexFunc(rows, func(other *mesh.Name) bool { return other.Host == r.Host })
		switch {
		case at < 0:
			rows = append(rows, r)
		case r.Kubernetes:
			rows[at] = r
		case !rows[at].Kubernetes:
			rows[at].Addr4 = append(rows[at].Addr4, r.Addr4...)
			rows[at].Addr6 = append(rows[at].Addr6, r.Addr6...)
		}
	}
	return rows
}

func (tc *dnsCase) istiodRow(s *caseService) *mesh.Name {
	kubernetes := s.Registry == "Kubernetes"
	if s.Address == "0.0.0.0" && s.Resolution == "Passthrough" {
		r := s.row(kubernetes, nil)
		r.Virtual, r.Headless = false, kubernetes
		for _, e := range s.Endpoints {
			if e.Health != "Healthy" && !s.PublishNotReady || differ(e.Network, tc.Client.Network) {
				continue
			}
			addrs := parsed(e.IPs)
			if e.Hostname != "" && e.Subdomain != "" {
				addRecord(r, e.Hostname, addrs, s.ports())
			}
			if tc.MulticlusterHeadless || !differ(e.Cluster, tc.Client.Cluster) {
				addAddresses(r, addrs)
			}
		}
		return r
	}
	texts := []string{s.Address}
	switch {
	case len(s.ClusterVIPs[tc.Client.Cluster]) > 0:
		texts = s.ClusterVIPs[tc.Client.Cluster]
	case s.AutoV4 != "" && tc.Client.DNSCapture:
		texts = []string{s.AutoV4, s.AutoV6}
	}
	r := s.row(kubernetes, parsed(texts))
	if !slices.ContainsFunc(tc.Client.IPs, netip.Addr.Is6) {
		r.Addr6 = nil
	}
	if slices.ContainsFunc(r.Addr4, netip.Addr.IsUnspecified) || len(r.Addr4)+len(r.Addr6) == 0 {
		return nil
	}
	return r
}

// ztunnelRows are the rows of the services that ztunnel is told of: where several have one host, a
// namespace sees its own, and the others the preferred, the canonical or the first one.
func (tc *dnsCase) ztunnelRows() (rows []*mesh.Name) {
	everybody := map[string]*caseService{}
	rank := func(s *caseService) int {
		switch {
		case tc.PreferredNamespace != "" && s.Namespace == tc.PreferredNamespace:
			return 2
		case s.Canonical:
			return 1
		}
		return 0
	}
	for i := range tc.Services {
		s := &tc.Services[i]
		r := tc.ztunnelRow(s)
		if r == nil {
			continue
		}
		r.View = s.Namespace
		rows = append(rows, r)
		if best := everybody[s.Hostname]; s.Visibility != "NAMESPACE" && (best == nil || rank(s) > rank(best)) {
			everybody[s.Hostname] = s
		}
	}
	for _, s := range everybody {
		rows = append(rows, tc.ztunnelRow(s))
	}
	return rows
}

func (tc *dnsCase) ztunnelRow(s *caseService) *mesh.Name {
	if len(s.VIPs)+len(s.Endpoints) == 0 && s.ExternalName == "" {
		return nil
	}
	r := s.row(strings.HasSuffix(s.Hostname, ".svc."+tc.ClusterDomain), nil)
	for _, vip := range s.VIPs {
		if vip.Network == tc.Client.Network {
			addAddresses(r, parsed([]string{vip.Address}))
		}
	}
	for _, e := range s.Endpoints {
		r.Virtual = false
		at := slices.IndexFunc(tc.Workloads, func(w caseWorkload) bool { return w.UID == e.UID })
		addrs := parsed(tc.Workloads[at].IPs)
		if s.IPFamilies == "IPV6_ONLY" {
			addrs = slices.DeleteFunc(addrs, netip.Addr.Is4)
		}
		addAddresses(r, addrs)
		// Workloads have no name in the file, but are asked for by one: w0 is pod0.
		addRecord(r, strings.Replace(e.UID, "w", "pod", 1), addrs, s.ports())
	}
	return r
}

// row is what the service has whatever its addresses.
func (s *caseService) row(kubernetes bool, addrs []netip.Addr) *mesh.Name {
	r := row(s.Hostname, s.Namespace, kubernetes, addrs)
	r.Ports, r.CNAME = s.ports(), s.ExternalName
	return r
}

func (s *caseService) ports() (ports []mesh.Port) {
	for _, p := range s.Ports {
		protocol := mesh.TCP
		if strings.EqualFold(p.Protocol, "UDP") {
			protocol = mesh.UDP
		}
		ports = append(ports, mesh.Port{Name: p.Name, Number: p.Port, Protocol: protocol})
	}
	return ports
}

func row(host, namespace string, kubernetes bool, addrs []netip.Addr) *mesh.Name {
	r := &mesh.Name{Host: host, Namespace: namespace, Kubernetes: kubernetes, Virtual: !kubernetes}
	addAddresses(r, addrs)
	return r
}

func addAddresses(r *mesh.Name, addrs []netip.Addr) {
	for _, a := range addrs {
		if a.Is4() {
			r.Addr4 = append(r.Addr4, a)
		} else {
			r.Addr6 = append(r.Addr6, a)
		}
	}
}

func addRecord(r *mesh.Name, label string, addrs []netip.Addr, ports []mesh.Port) {
	for i := range r.Records {
		if r.Records[i].Label == label {
			r.Records[i].Addresses = append(r.Records[i].Addresses, addrs...)
			return
		}
	}
	r.Records = append(r.Records, mesh.Record{Label: label, Addresses: addrs, Ports: ports})
}

func parsed(texts []string) (addrs []netip.Addr) {
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// differ reports whether two places are known not to be the same.
func differ(a, b string) bool { return a != "" && b != "" && a != b }
