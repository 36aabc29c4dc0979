package mesh

import (
	"net/netip"
	"slices"
)

// source is what one source has said, found by what it is asked for, and what of it is news.
type source struct {
	rank    int // place in the order of precedence, 0 the strongest
	name    string
	pending bool

	hosts       index[string, Host]
	clusters    index[string, Cluster]
	listeners   index[frontendKey, Listener]
	resolutions index[Lookup, Resolution]

	binds     []frontendKey // of listeners, sorted
	announced []netip.Addr  // by listeners, of those that pairs are given from
	routes    []Route       // by object
	zones     []Zone        // by name
	problems  []Problem     // the source's own, and what is wrong with its clusters and listeners as such

	news news
}

// news is what differs since the last plan.
type news struct {
	any       bool
	problems  bool
	routes    bool
	zones     bool
	hosts     map[string]bool
	clusters  map[string]bool
	listeners map[netip.Addr]bool // by address
	lookups   map[Lookup]bool
}

func newSource(rank int, name string) *source {
	return &source{
		rank: rank, name: name, pending: true,
		hosts:       index[string, Host]{key: hostKey, same: sameHost},
		clusters:    index[string, Cluster]{key: clusterKey, same: sameCluster},
		listeners:   index[frontendKey, Listener]{key: listenerKey, same: sameListener},
		resolutions: index[Lookup, Resolution]{key: func(r *Resolution) (Lookup, bool) { return r.Lookup, true }, same: sameResolution},
	}
}

func hostKey(h *Host) (string, bool) {
	name, err := hostName(h.Name)
	return name, err == nil
}

// take makes in what the source says from now on. One that has not spoken yet tells at most why.
func (s *source) take(in *Input, vips *VIPs) {
	if in.Pending {
		s.report(in.Problems)
		return
	}
	if s.pending != in.Pending {
		s.pending, s.news.any = in.Pending, true
	}
	hosts, clusters := s.hosts.update(in.Hosts), s.clusters.update(in.Clusters)
	listeners, lookups := s.listeners.update(in.Listeners), s.resolutions.update(in.Resolutions)
	add(&s.news.hosts, hosts)
	add(&s.news.clusters, clusters)
	add(&s.news.lookups, lookups)
	if listeners != nil {
		addrs := make(map[netip.Addr]bool, len(listeners))
		for at := range listeners {
			addrs[at.addr] = true
		}
		add(&s.news.listeners, addrs)
		s.indexBinds(vips)
	}
	if routes := sortRoutes(s.name, in.Routes); !sameSlice(routes, s.routes, sameRoute) {
		s.routes, s.news.routes = routes, true
	}
	if zones := sortZones(s.name, in.Zones); !sameSlice(zones, s.zones, sameZone) {
		s.zones, s.news.zones = zones, true
	}
	s.report(in.Problems)
	s.news.any = s.news.any || s.news.routes || s.news.zones || hosts != nil || clusters != nil || listeners != nil || lookups != nil
}

func add[K comparable](to *map[K]bool, more map[K]bool) {
	if *to == nil {
		*to = more
		return
	}
	for k := range more {
		(*to)[k] = true
	}
}

// report keeps what is wrong, by the source's own word and by ours.
func (s *source) report(said []Problem) {
	problems := s.findProblems(said)
	if !slices.Equal(problems, s.problems) {
		s.problems, s.news.problems, s.news.any = problems, true, true
	}
}

// indexBinds sorts what listeners bind.
func (s *source) indexBinds(vips *VIPs) {
	s.binds, s.announced = make([]frontendKey, 0, len(s.listeners.list)), nil
	for at := range s.listeners.keys {
		s.binds = append(s.binds, at)
		if vips.contains(at.addr) {
			s.announced = append(s.announced, at.addr)
		}
	}
	slices.SortFunc(s.binds, compareKeys)
}

// bound returns what listeners bind at an address.
func (s *source) bound(addr netip.Addr) []frontendKey {
	from, _ := slices.BinarySearchFunc(s.binds, addr, func(k frontendKey, addr netip.Addr) int { return k.addr.Compare(addr) })
	to := from
	for to < len(s.binds) && s.binds[to].addr == addr {
		to++
	}
	return s.binds[from:to]
}

// findProblems adds to the source's own problems what Compile finds in its objects as such.
func (s *source) findProblems(said []Problem) []Problem {
	r := reports{all: slices.Clone(said)}
	for _, i := range s.hosts.bad {
		h := &s.hosts.list[i]
		_, err := hostName(h.Name)
		r.report(s, h.Object, "host %v", err)
	}
	s.checkClusters(&r)
	s.checkListeners(&r)
	return r.all
}
