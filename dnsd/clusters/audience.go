package clusters

import (
	"slices"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// audience is who sees a host: everybody, or some namespaces.
type audience struct {
	everybody  bool
	namespaces []string
}

// audienceOf reads ExportTo as package mesh does.
func audienceOf(h *mesh.Host) (a audience) {
	if len(h.ExportTo) == 0 || slices.Contains(h.ExportTo, "*") {
		return audience{everybody: true}
	}
	for _, to := range h.ExportTo {
		switch to {
		case "~", "":
		case ".":
			a.namespaces = append(a.namespaces, h.Namespace)
		default:
			a.namespaces = append(a.namespaces, to)
		}
	}
	return a
}

// meets says whether somebody is among both.
func (a audience) meets(b audience) bool {
	in := func(namespace string) bool { return slices.Contains(b.namespaces, namespace) }
	switch {
	case a.everybody:
		return b.everybody || len(b.namespaces) > 0
	case b.everybody:
		return len(a.namespaces) > 0
	}
	return slices.ContainsFunc(a.namespaces, in)
}

// without is who is left where b is served already. Everybody but some is everybody: their own comes first.
func (a audience) without(b audience) audience {
	if b.everybody {
		return audience{}
	}
	return audience{a.everybody, slices.DeleteFunc(slices.Clone(a.namespaces), func(namespace string) bool { return slices.Contains(b.namespaces, namespace) })}
}
