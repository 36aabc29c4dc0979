package objects

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Place is where pods of this node are.
type Place struct {
	Node string // its name in Kubernetes
	Zone string // topology.kubernetes.io/zone; empty where it is not known
}

// SetPlace says where the pods are that the objects are translated for; it is false where they were there.
func (s *Set) SetPlace(p Place) (news bool) {
	if s.place == p {
		return false
	}
	s.place = p
	for _, svc := range s.services {
		svc.stale = true
	}
	return true
}

// near leaves the endpoints that are meant for pods here. Slices say which by hints, which the cluster's
// controller takes care to balance; those of a Service that asks for nearby ones in a folder have none, and
// there each endpoint is for its own zone or node, as that controller would have it. Where one that is ready
// has no hint, or none is for here, all are meant for everybody, as with kube-proxy.
func (s *service) near(all []backend, here Place, derive bool) []backend {
	zoneOf := func(e backend) []string { return e.hints.zonesOr(derive && s.nearby != "", e.zone) }
	nodeOf := func(e backend) []string {
		return e.hints.nodesOr(derive && s.nearby == corev1.ServiceTrafficDistributionPreferSameNode, e.node)
	}
	if near := meant(all, nodeOf, here.Node); near != nil {
		return near
	}
	if near := meant(all, zoneOf, here.Zone); near != nil {
		return near
	}
	return all
}

// meant is nil where hints are not to be followed.
func meant(all []backend, hints func(backend) []string, here string) (near []backend) {
	ready := false
	for _, e := range all {
		names := hints(e)
		if e.ready && len(names) == 0 {
			return nil
		}
		if here != "" && slices.Contains(names, here) {
			near, ready = append(near, e), ready || e.ready
		}
	}
	if !ready {
		return nil
	}
	return near
}

// hints say whom an endpoint is meant for. Most have none.
type hints struct{ zones, nodes []string }

func (h *hints) zonesOr(derive bool, zone string) []string {
	if h != nil {
		return h.zones
	}
	return derived(derive, zone)
}

func (h *hints) nodesOr(derive bool, node string) []string {
	if h != nil {
		return h.nodes
	}
	return derived(derive, node)
}

func derived(derive bool, name string) []string {
	if !derive || name == "" {
		return nil
	}
	return []string{name}
}
