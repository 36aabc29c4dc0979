package xds

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// cluster is a decoded cluster, its endpoints not yet put in. It is shared and never edited.
type cluster struct {
	mesh.Cluster // without Localities
	// err says why it cannot be used; then there is nothing but a name.
	err error
	// eds is the name its endpoints have in EDS; empty when inline holds them.
	eds    string
	inline *assignment
	tls    transport
	// serves are the hosts whose port it serves directly; none for subsets, inbound and helper clusters.
	serves []service
	port   uint16
	// notes are what of it is served otherwise than asked.
	notes []string
}

// service is a host of a cluster's metadata.
type service struct{ host, namespace string }

// cluster decodes one, or finds it decoded.
func (p *pools) cluster(r *anypb.Any) (string, *cluster, error) {
	c := p.clusters.get(r.GetTypeUrl(), r.GetValue(), func() *cluster { return decodeCluster(r) })
	return c.Name, c, c.err
}

// decodeCluster reads one cluster. The result is never nil, and has its name if that could be read.
func decodeCluster(r *anypb.Any) *cluster {
	c := &cluster{}
	m := &clusterv3.Cluster{}
	if c.err = unpack(r, m); c.err != nil {
		return c
	}
	c.Name = m.GetName()
	if c.Name == "" {
		c.err = errors.New("has no name")
		return c
	}
	c.identify(m)
	if c.err = c.discover(m); c.err != nil {
		return c
	}
	if a := m.GetLoadAssignment(); a != nil && c.eds == "" {
		c.inline = newAssignment(a, c.Discovery)
	}
	c.tls = newTransport(m)
	c.RequiresTLS = c.tls.always
	if c.Discovery != mesh.OriginalDst {
		c.balance(m)
	}
	return c
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
	kind := m.GetType().String()
	if custom := m.GetClusterType(); custom != nil {
		dns := &dnsv3.DnsCluster{}
		if custom.GetTypedConfig().MessageIs(dns) {
			if err := unpack(custom.GetTypedConfig(), dns); err != nil {
				return fmt.Errorf("settings of its type: %w", err)
			}
			return c.discoverDNS(extensionDNS(dns, m), m)
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
		if c.eds = m.GetEdsClusterConfig().GetServiceName(); c.eds == "" {
			c.eds = c.Name
		}
	case "STRICT_DNS", "LOGICAL_DNS":
		return c.discoverDNS(legacyDNS(m, kind == "LOGICAL_DNS"), m)
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

// resolved is the cluster with its endpoints and what of them had to be left out. hashed says that what
// leads to it hashes the client's address.
func (c *cluster) resolved(from *assignment, hashed bool) *resolved {
	out := &resolved{Cluster: c.Cluster, notes: c.notes}
	out.HashSource = out.HashSource || hashed
	if from == nil {
		return out
	}
	out.Overprovisioning = from.overprovisioning
	out.Localities = from.localities
	if c.tls.demanding(from) {
		out.Localities = c.tls.mark(from)
	}
	if len(from.skipped) > 0 {
		out.notes = append(slices.Clone(out.notes), fmt.Sprintf("%d endpoints left out, first: %s", len(from.skipped), from.skipped[0]))
	}
	if out.Discovery != mesh.OriginalDst && onlyTLS(out.Localities) {
		out.RequiresTLS = true
	}
	return out
}

// resolved is a cluster as it is emitted. It is shared and never edited.
type resolved struct {
	mesh.Cluster
	notes []string
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

// memo has the clusters that were emitted last, so that what did not change is not made again.
type memo struct{ last, next map[recipe]*resolved }

type recipe struct {
	c      *cluster
	from   *assignment
	hashed bool
}

func (m *memo) resolved(key recipe) *resolved {
	r := m.next[key]
	if r == nil {
		r = m.last[key]
	}
	if r == nil {
		r = key.c.resolved(key.from, key.hashed)
	}
	if m.next == nil {
		m.next = map[recipe]*resolved{}
	}
	m.next[key] = r
	return r
}

// turn forgets what was not asked for since the last turn.
func (m *memo) turn() { m.last, m.next = m.next, nil }
