package objects

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// place is where a host or a cluster is: in which unit, and there at which index.
type place struct {
	unit *unit
	at   int
}

func (p place) host() *mesh.Host       { return &p.unit.ruled.hosts[p.at] }
func (p place) cluster() *mesh.Cluster { return &p.unit.ruled.clusters[p.at] }

// Input returns what all objects come to, in an order that depends on nothing else. What has not changed
// since the last one is the same memory.
func (s *Set) Input() mesh.Input {
	if s.units == nil {
		s.collect()
	}
	if s.ruling == nil {
		s.ruling = s.newRulebook()
	}
	for _, u := range s.units {
		s.refresh(u)
	}
	if s.hosts == nil {
		s.arrange()
	}
	in := mesh.Input{Source: s.options.Source}
	if len(s.hosts) > 0 {
		in.Hosts = make([]mesh.Host, len(s.hosts))
	}
	for i, p := range s.hosts {
		in.Hosts[i] = *p.host()
	}
	if len(s.members) > 0 {
		in.Clusters = make([]mesh.Cluster, len(s.members))
	}
	for i, p := range s.members {
		in.Clusters[i] = *p.cluster()
	}
	in.Problems = s.problems()
	return in
}

// collect lists the units.
func (s *Set) collect() {
	s.units, s.hosts = make([]*unit, 0, len(s.services)+len(s.entries)), nil
	for _, svc := range s.services {
		s.units = append(s.units, &svc.unit)
	}
	for _, e := range s.entries {
		s.units = append(s.units, &e.unit)
	}
	slices.SortFunc(s.units, compareUnits)
}

// refresh makes u say what it is to say now.
func (s *Set) refresh(u *unit) {
	if u.stale {
		b := builder{unit: u, options: &s.options, set: s}
		u.translate(&b)
		if !sameNames(&u.said, &b.content) {
			s.hosts = nil
		}
		u.stale, u.under, u.said = false, nil, b.content
	}
	if u.under != s.ruling {
		before := u.ruled
		u.ruled, u.by, u.foreign = s.ruling.rule(&u.said)
		u.under = s.ruling
		if !sameNames(&before, &u.ruled) {
			s.hosts = nil
		}
	}
}

func sameNames(a, b *content) bool {
	return slices.EqualFunc(a.hosts, b.hosts, func(a, b mesh.Host) bool { return a.Name == b.Name }) &&
		slices.EqualFunc(a.clusters, b.clusters, func(a, b mesh.Cluster) bool { return a.Name == b.Name })
}

// arrange puts all hosts and clusters in order. Of several units that have clusters of one name the first
// keeps it, the others are told.
func (s *Set) arrange() {
	claimed := map[string]*unit{}
	for _, u := range s.units {
		crowded := false
		for i := range u.said.clusters {
			name, _ := strings.CutSuffix(u.said.clusters[i].Name, "|"+u.String())
			if first := claimed[name]; first != nil && first != u {
				crowded = true
			} else {
				claimed[name] = u
			}
		}
		if crowded != u.crowded {
			u.crowded, u.stale = crowded, true
			s.refresh(u)
		}
	}
	s.hosts, s.members = []place{}, []place{}
	for _, u := range s.units {
		for i := range u.ruled.hosts {
			s.hosts = append(s.hosts, place{u, i})
		}
		for i := range u.ruled.clusters {
			s.members = append(s.members, place{u, i})
		}
	}
	slices.SortStableFunc(s.hosts, func(a, b place) int {
		return cmp.Or(strings.Compare(a.host().Name, b.host().Name), strings.Compare(a.host().Object, b.host().Object))
	})
	slices.SortStableFunc(s.members, func(a, b place) int { return strings.Compare(a.cluster().Name, b.cluster().Name) })
}

// problems are those of all objects, in order.
func (s *Set) problems() []mesh.Problem {
	var all []mesh.Problem
	used, foreign := map[*rule]bool{}, map[*rule]bool{}
	for _, u := range s.units {
		all = append(all, u.said.problems...)
		for _, r := range u.by {
			used[r] = true
		}
		for _, r := range u.foreign {
			foreign[r] = true
		}
	}
	if !s.options.Live {
		for _, at := range slices.SortedFunc(maps.Keys(s.slices), compareIDs) {
			all = append(all, s.stray(s.slices[at])...)
		}
	}
	for _, r := range s.ruling.all {
		all = append(all, r.problems(&s.options, used[r], foreign[r])...)
	}
	return all
}

func compareIDs(a, b id) int {
	return cmp.Or(strings.Compare(a.namespace, b.namespace), strings.Compare(a.name, b.name))
}
