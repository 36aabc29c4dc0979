package objects

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// clusterSet is the domain of services that several clusters share (KEP-1645).
const clusterSet = "clusterset.local"

// Labels of the slices that belong to an import, and of where its endpoints are.
const (
	importLabel = "multicluster.kubernetes.io/service-name"
	sourceLabel = "multicluster.kubernetes.io/source-cluster"
)

// ServiceImport is the spec of a ServiceImport, as far as it counts.
type ServiceImport struct {
	Type  string               `json:"type"` // ClusterSetIP or Headless
	IPs   []string             `json:"ips"`
	Ports []corev1.ServicePort `json:"ports"`
	// SessionAffinity and its config are as a Service's.
	SessionAffinity       corev1.ServiceAffinity        `json:"sessionAffinity"`
	SessionAffinityConfig *corev1.SessionAffinityConfig `json:"sessionAffinityConfig"`
}

// NewServiceImport takes what counts of a ServiceImport: a service of the whole set of clusters, known by its
// full name only. Its endpoints are in slices that the set's controllers copy here.
func NewServiceImport(m Meta, o *ServiceImport) Object {
	spec := corev1.ServiceSpec{
		ClusterIPs: o.IPs, Ports: o.Ports, SessionAffinity: o.SessionAffinity, SessionAffinityConfig: o.SessionAffinityConfig,
	}
	if o.Type == "Headless" {
		spec.ClusterIPs = []string{corev1.ClusterIPNone}
	}
	s := newService(m, &spec)
	s.imported, s.Kind = true, KindServiceImport
	return s
}

// owner is whom a slice belongs to.
type owner struct {
	id
	imported bool
}

func ownerOf(m *Meta) owner {
	if name := m.Labels[importLabel]; name != "" {
		return owner{id{m.Namespace, name}, true}
	}
	return owner{id{m.Namespace, m.Labels[discoveryv1.LabelServiceName]}, false}
}

// importedName is what an endpoint is called among those of several clusters: each may have one of that name.
func importedName(hostname string, m *Meta) string {
	if source := m.Labels[sourceLabel]; hostname != "" && source != "" && m.Labels[importLabel] != "" {
		return hostname + "." + source
	}
	return hostname
}
