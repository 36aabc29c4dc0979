package mesh

import (
	"cmp"
	"slices"
)

// Zone is a domain of which a source knows every name there is, so that whoever asks for another one need not
// be sent elsewhere to learn that it does not exist. A source says so only while it is up to date.
type Zone struct {
	// Source is who says so; a plan has it filled in.
	Source string `json:",omitempty"`
	// Name is lower case, without the final dot: the cluster's domain.
	Name string
	// Namespaces are those of the cluster. NAMESPACE.svc and NAMESPACE.pod are names below the zone whether
	// or not anything is below them.
	Namespaces []string `json:",omitempty"`
}

func sameZone(a, b *Zone) bool {
	return a.Source == b.Source && a.Name == b.Name && slices.Equal(a.Namespaces, b.Namespaces)
}

// sortZones returns a source's zones by name.
func sortZones(source string, zones []Zone) []Zone {
	zones = slices.Clone(zones)
	for i := range zones {
		zones[i].Source = source
	}
	slices.SortFunc(zones, func(a, b Zone) int { return cmp.Compare(a.Name, b.Name) })
	return zones
}

// zones returns those of all sources, of each name the strongest source's.
func (r *run) zones(last []Zone) []Zone {
	all, news := gathered(r, func(s *source) ([]Zone, bool) { return s.zones, s.news.zones })
	if !news {
		return last
	}
	slices.SortStableFunc(all, func(a, b Zone) int { return cmp.Compare(a.Name, b.Name) })
	return slices.CompactFunc(all, func(a, b Zone) bool { return a.Name == b.Name })
}
