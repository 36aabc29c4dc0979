package objects

import (
	"maps"

	networking "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
)

// NewPod takes what counts of a Pod that an entry may select: as a workload it is at its address while it is
// ready, and nowhere else.
func NewPod(m Meta, o *corev1.Pod) Object {
	p := &pod{workload{labels: maps.Clone(m.Labels), spec: &networking.WorkloadEntry{}}}
	if ready(o) {
		p.spec.Address = o.Status.PodIP
	}
	m.Kind, m.Labels, m.Annotations = KindPod, nil, nil
	p.Meta = &m
	return p
}

// pod is a Pod as a workload.
type pod struct{ workload }

func ready(o *corev1.Pod) bool {
	if o.DeletionTimestamp != nil {
		return false
	}
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (p *pod) put(s *Set) (news bool) {
	old := s.pods[p.id()]
	s.pods[p.id()] = &p.workload
	if old != nil && old.spec.Address == p.spec.Address && maps.Equal(old.labels, p.labels) {
		return false
	}
	left, came := s.reselect(old), s.reselect(&p.workload)
	return left || came
}

// Selects says whether there is an entry that selects its endpoints by labels, so that pods count.
func (s *Set) Selects() bool {
	for _, e := range s.entries {
		if e.spec.GetWorkloadSelector() != nil {
			return true
		}
	}
	return false
}
