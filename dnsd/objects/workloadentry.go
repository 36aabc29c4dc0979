package objects

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
)

// workload is a WorkloadEntry: an endpoint of the ServiceEntries of its namespace that select its labels.
type workload struct {
	*Meta
	labels map[string]string
	spec   *networking.WorkloadEntry
}

// NewWorkloadEntry keeps spec.
func NewWorkloadEntry(m Meta, spec *networking.WorkloadEntry) Object {
	w := &workload{labels: map[string]string{}, spec: spec}
	maps.Copy(w.labels, m.Labels)
	maps.Copy(w.labels, spec.GetLabels())
	m.Kind, m.Labels, m.Annotations = KindWorkloadEntry, nil, nil
	w.Meta = &m
	return w
}

func (w *workload) put(s *Set) (news bool) {
	if old := s.workloads[w.id()]; old != nil && old.Place == w.Place && maps.Equal(old.labels, w.labels) && proto.Equal(old.spec, w.spec) {
		return false
	}
	old := s.workloads[w.id()]
	s.workloads[w.id()] = w
	s.reselect(old)
	s.reselect(w)
	return true
}

// reselect has the entries that select a workload look for their endpoints again; nil is nobody's.
func (s *Set) reselect(w *workload) (news bool) {
	if w == nil {
		return false
	}
	for at, e := range s.entries {
		if selector := e.spec.GetWorkloadSelector(); selector != nil && at.namespace == w.Namespace && has(w.labels, selector.Labels) {
			e.stale, news = true, true
		}
	}
	return news
}

// selected are the workloads and the ready pods of a namespace that have all of some labels, in order.
func (s *Set) selected(namespace string, labels map[string]string) (all []*workload) {
	for at, w := range s.workloads {
		if at.namespace == namespace && has(w.labels, labels) {
			all = append(all, w)
		}
	}
	for at, p := range s.pods {
		if at.namespace == namespace && p.spec.Address != "" && has(p.labels, labels) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *workload) int {
		return cmp.Or(strings.Compare(string(b.Kind), string(a.Kind)), compareIDs(a.id(), b.id()))
	})
	return all
}

func has(all, some map[string]string) bool {
	for k, v := range some {
		if got, ok := all[k]; !ok || got != v {
			return false
		}
	}
	return true
}
