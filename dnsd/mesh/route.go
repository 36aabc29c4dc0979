package mesh

import (
	"cmp"
	"net/netip"
	"slices"
)

// Route is one object that spreads the paths of a host over services. Routes take no part in what is
// compiled: they are handed on to whoever keeps the node's HTTP proxy, who says in turn where the host is.
type Route struct {
	// Source is filled in by Compile.
	Source string `json:",omitempty"`
	// Object names the declaring object, for explanations and errors.
	Object string
	// Host is a DNS name, in lower case and without the final dot.
	Host  string
	Paths []RoutePath
}

// RoutePath is where requests for one path, and all below it, go.
type RoutePath struct {
	// Path begins and ends with a slash.
	Path string
	// Address is where the service is; if it is not valid, Service is a host of the mesh.
	Address netip.Addr
	Service string `json:",omitempty"`
	Port    uint16
}

func sameRoute(a, b *Route) bool {
	return a.Source == b.Source && a.Object == b.Object && a.Host == b.Host && slices.Equal(a.Paths, b.Paths)
}

// sortRoutes returns a source's routes by object.
func sortRoutes(source string, routes []Route) []Route {
	routes = slices.Clone(routes)
	for i := range routes {
		routes[i].Source = source
	}
	slices.SortFunc(routes, func(a, b Route) int { return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Host, b.Host)) })
	return routes
}

// routes returns those of all sources.
func (r *run) routes(last []Route) []Route {
	all, news := gathered(r, func(s *source) ([]Route, bool) { return s.routes, s.news.routes })
	if !news {
		return last
	}
	return all
}

// gathered returns what all sources have of something, the strongest one's first, and whether any of it is news.
func gathered[T any](r *run, of func(*source) (has []T, news bool)) (all []T, news bool) {
	for _, s := range r.sources {
		has, fresh := of(s)
		all, news = append(all, has...), news || fresh
	}
	return all, news
}
