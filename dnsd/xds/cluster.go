package xds

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// cluster is a decoded cluster, its endpoints not yet put in.
type cluster struct {
	mesh.Cluster // without Localities
	// eds is the name its endpoints have in EDS; empty when inline holds them.
	eds    string
	inline *endpointv3.ClusterLoadAssignment
	tls    transport
	// serves are the hosts whose port it serves directly; none for subsets, inbound and helper clusters.
	serves []service
	port   uint16
	// notes are what of it is served otherwise than asked.
	notes []string
}

// service is a host of a cluster's metadata.
type service struct{ host, namespace string }

// decodeCluster reads one cluster. The result is never nil, and has its name if that could be read.
func decodeCluster(r *anypb.Any) (*cluster, error) {
	c := &cluster{}
	m := &clusterv3.Cluster{}
	if err := unpack(r, m); err != nil {
		return c, err
	}
	c.Name = m.GetName()
	if c.Name == "" {
		return c, errors.New("has no name")
	}
	c.identify(m)
	if err := c.discover(m); err != nil {
		return c, err
	}
	c.tls = newTransport(m)
	c.RequiresTLS = c.tls.always
	if c.Discovery != mesh.OriginalDst {
		c.balance(m)
	}
	return c, nil
}

// identify finds which port of which hosts the cluster serves. Istiod says it in the cluster's name,
// outbound|PORT|SUBSET|HOST, and in its metadata, which also knows the namespace. Subsets are reached
// through listeners only.
func (c *cluster) identify(m *clusterv3.Cluster) {
	part := strings.Split(c.Name, "|")
	if len(part) != 4 || part[0] != "outbound" || part[2] != "" || part[3] == "" {
		return
	}
	port, err := strconv.ParseUint(part[1], 10, 16)
	if err != nil || port == 0 {
		return
	}
	c.port = uint16(port)
	istio := m.GetMetadata().GetFilterMetadata()["istio"].GetFields()
	for _, v := range istio["services"].GetListValue().GetValues() {
		f := v.GetStructValue().GetFields()
		if h := f["host"].GetStringValue(); h != "" {
			c.serves = append(c.serves, service{lower(h), f["namespace"].GetStringValue()})
		}
	}
	if len(c.serves) == 0 {
		c.serves = []service{{host: lower(part[3])}}
	}
}

// lower is the form names are compared in.
func lower(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// discover finds where the endpoints come from. A type has two spellings: the field, and an extension
// by name, which for DNS brings its own settings too.
func (c *cluster) discover(m *clusterv3.Cluster) error {
	c.inline = m.GetLoadAssignment()
	kind := m.GetType().String()
	if custom := m.GetClusterType(); custom != nil {
		dns := &dnsv3.DnsCluster{}
		if custom.GetTypedConfig().MessageIs(dns) {
			if err := unpack(custom.GetTypedConfig(), dns); err != nil {
				return fmt.Errorf("settings of its type: %w", err)
			}
			return c.discoverDNS(extensionDNS(dns, m))
		}
		var known bool
		if kind, known = extensionTypes[custom.GetName()]; !known {
			return fmt.Errorf("type %q is not served; connections to its hosts are left alone", custom.GetName())
		}
	}
	switch kind {
	case "STATIC":
		c.Discovery = mesh.Static
	case "EDS":
		c.Discovery = mesh.Static
		c.inline = nil
		if c.eds = m.GetEdsClusterConfig().GetServiceName(); c.eds == "" {
			c.eds = c.Name
		}
	case "STRICT_DNS", "LOGICAL_DNS":
		return c.discoverDNS(legacyDNS(m, kind == "LOGICAL_DNS"))
	case "ORIGINAL_DST":
		c.Discovery = mesh.OriginalDst
	default:
		return fmt.Errorf("type %s is not known", kind)
	}
	return nil
}

// extensionTypes are the built-in types under their extension names.
var extensionTypes = map[string]string{
	"envoy.cluster.static":       "STATIC",
	"envoy.cluster.eds":          "EDS",
	"envoy.cluster.strict_dns":   "STRICT_DNS",
	"envoy.cluster.logical_dns":  "LOGICAL_DNS",
	"envoy.cluster.original_dst": "ORIGINAL_DST",
}

// balance finds the policy. One that is not served is reported and served as LEAST_REQUEST.
func (c *cluster) balance(m *clusterv3.Cluster) {
	c.LocalityWeighted = m.GetCommonLbConfig().GetLocalityWeightedLbConfig() != nil
	name := m.GetLbPolicy().String()
	if policies := m.GetLoadBalancingPolicy().GetPolicies(); len(policies) > 0 {
		// The newer field wins. Its policies are extensions in order of preference.
		i := slices.IndexFunc(policies, func(p *clusterv3.LoadBalancingPolicy_Policy) bool {
			return extensionPolicies[extensionType(p.GetTypedExtensionConfig())] != ""
		})
		name = extensionType(policies[0].GetTypedExtensionConfig())
		if i >= 0 {
			name = extensionPolicies[extensionType(policies[i].GetTypedExtensionConfig())]
		}
	}
	switch p := mesh.LbPolicy(name); p {
	case mesh.RoundRobin, mesh.LeastRequest, mesh.Random:
		c.LbPolicy = p
	default:
		c.LbPolicy = mesh.LeastRequest
		c.notes = append(c.notes, fmt.Sprintf("policy %s is not served; served as %s", name, mesh.LeastRequest))
	}
}

var extensionPolicies = map[string]string{
	"envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin":     "ROUND_ROBIN",
	"envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest": "LEAST_REQUEST",
	"envoy.extensions.load_balancing_policies.random.v3.Random":              "RANDOM",
}

// extensionType is the message an extension is configured with, its only identity in Envoy.
func extensionType(e *corev3.TypedExtensionConfig) string {
	return string(e.GetTypedConfig().MessageName())
}

// resolved is the cluster with its endpoints, as of now, and what of them had to be left out.
func (c *cluster) resolved(assignments map[string]*endpointv3.ClusterLoadAssignment) (mesh.Cluster, []string) {
	out, notes := c.Cluster, slices.Clone(c.notes)
	from := c.inline
	if c.eds != "" {
		from = assignments[c.eds]
	}
	var skipped []string
	out.Localities, skipped = c.localities(from)
	if len(skipped) > 0 {
		notes = append(notes, fmt.Sprintf("%d endpoints left out, first: %s", len(skipped), skipped[0]))
	}
	if out.Discovery != mesh.OriginalDst && onlyTLS(out.Localities) {
		out.RequiresTLS = true
	}
	return out, notes
}

// onlyTLS says that there are healthy endpoints and all of them demand TLS: then nothing can be served
// here, and whoever can speak it for the client must see the connection.
func onlyTLS(ls []mesh.Locality) bool {
	found := false
	for _, l := range ls {
		for _, e := range l.Endpoints {
			if e.Unhealthy {
				continue
			}
			if !e.RequiresTLS {
				return false
			}
			found = true
		}
	}
	return found
}
