package clusters

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// Said is what one of several clusters that are one mesh says.
type Said struct {
	// Cluster is what it is called.
	Cluster string
	// Network is which network its pods are in: those of another are not reached from here.
	Network string
	Input   mesh.Input
}

// Join makes one input of what several clusters say. The first is the one that this node is of: what it says
// is believed of itself, of entries and of the cluster's domain, and the others' services are added.
//
// A service that several clusters have is one: its endpoints are those of all, those of this cluster first if
// localFirst is set; its address and its kind are this cluster's. One that only others have gets a virtual
// address, since theirs may mean something else here. Of two pods of the same name this cluster's is known.
//
// Where namespaces are told different things of a service here, each has of the other clusters what it is told
// there. Where all are told the same here, they are of the others, too: what comes first there counts.
//
// The inputs are not changed; what they have alone is the same memory in the joined one.
func Join(all []Said, localFirst bool) mesh.Input {
	here := all[0]
	j := joiner{localFirst: localFirst, own: len(here.Input.Hosts), hosts: map[string][]int{}, clusters: map[string]int{}, in: here.Input}
	j.in.Hosts, j.in.Clusters = slices.Clone(here.Input.Hosts), slices.Clone(here.Input.Clusters)
	j.in.Problems = slices.Clone(here.Input.Problems)
	for i := range j.in.Hosts {
		if h := &j.in.Hosts[i]; h.Kubernetes {
			j.hosts[h.Name] = append(j.hosts[h.Name], i)
		}
	}
	for i := range j.in.Clusters {
		j.clusters[j.in.Clusters[i].Name] = i
	}
	for _, other := range all[1:] {
		j.in.Problems = append(j.in.Problems, other.Input.Problems...)
		if other.Network != here.Network {
			j.problem(other, "cluster "+other.Cluster, "%d services are left out: its pods are in network %q, which is reached from network %q through a gateway only, and that wants TLS by the mesh's own certificates",
				len(other.Input.Hosts), other.Network, here.Network)
			continue
		}
		j.add(other)
	}
	return j.in
}

type joiner struct {
	localFirst bool
	own        int // hosts that this cluster has itself: the first so many
	in         mesh.Input
	hosts      map[string][]int // services, by name: several where namespaces are told different things
	clusters   map[string]int   // by name
}

// guest is another cluster while it is added.
type guest struct {
	Said
	theirs  map[string]*mesh.Cluster // its clusters of endpoints
	adopted map[string]string        // what those are called here that are here, too
	spread  map[served]bool          // what has its endpoints already
}

// served is a cluster of endpoints as it serves one port of a service.
type served struct {
	cluster, host string
	port          uint16
	protocol      mesh.Protocol
}

func (j *joiner) problem(of Said, object, format string, args ...any) {
	j.in.Problems = append(j.in.Problems, mesh.Problem{Source: of.Input.Source, Object: object, Reason: fmt.Sprintf(format, args...)})
}

// add adds the services of another cluster.
func (j *joiner) add(other Said) {
	g := &guest{other, make(map[string]*mesh.Cluster, len(other.Input.Clusters)), map[string]string{}, map[served]bool{}}
	for i := range other.Input.Clusters {
		g.theirs[other.Input.Clusters[i].Name] = &other.Input.Clusters[i]
	}
	had := len(j.in.Hosts)
	for i := range other.Input.Hosts {
		h := &other.Input.Hosts[i]
		if !h.Kubernetes {
			continue // entries are this cluster's to make
		}
		left := audienceOf(h)
		for _, at := range j.hosts[h.Name] {
			if here := audienceOf(&j.in.Hosts[at]); at < had && here.meets(audienceOf(h)) {
				j.unite(at, g, h)
				left = left.without(here)
			}
		}
		if left.everybody || len(left.namespaces) > 0 {
			j.addAlone(g, h, left)
		}
	}
}

// addAlone adds a service of another cluster for those who do not have it yet.
func (j *joiner) addAlone(g *guest, h *mesh.Host, to audience) {
	j.hosts[h.Name] = append(j.hosts[h.Name], len(j.in.Hosts))
	alone := *h
	alone.Object += " of cluster " + g.Cluster
	alone.ExportTo = to.namespaces
	if !h.Headless && h.ExternalName == "" {
		alone.Addresses, alone.Allocate = nil, len(h.Ports) > 0
	}
	alone.Ports = nil
	for _, p := range h.Ports {
		alone.Ports = append(alone.Ports, j.adopt(p, g))
	}
	j.in.Hosts = append(j.in.Hosts, alone)
}

// adopt takes in the cluster of another cluster's port, and returns the port as it is here: an entry may have
// a cluster of that name.
func (j *joiner) adopt(p mesh.Port, g *guest) mesh.Port {
	c := g.theirs[p.Cluster]
	if c == nil {
		return p
	}
	if called, here := g.adopted[c.Name]; here {
		p.Cluster = called
		return p
	}
	adopted := *c
	if _, taken := j.clusters[c.Name]; taken {
		adopted.Name += "|cluster " + g.Cluster
	}
	p.Cluster, g.adopted[c.Name] = adopted.Name, adopted.Name
	j.clusters[adopted.Name] = len(j.in.Clusters)
	j.in.Clusters = append(j.in.Clusters, adopted)
	return p
}

// unite adds what another cluster says of the service that is at an index.
func (j *joiner) unite(at int, g *guest, other *mesh.Host) {
	h := &j.in.Hosts[at]
	if h.Headless != other.Headless || h.ExternalName != other.ExternalName {
		j.problem(g.Said, other.Object, "it is another kind of service here, which counts; that of cluster %s is left out", g.Cluster)
		return
	}
	var later uint32 // by how much the other's endpoints come after those that are there
	if j.localFirst && at < j.own {
		later = 1
	}
	if also := ", " + other.Object + " of cluster " + g.Cluster; !strings.HasSuffix(h.Object, also) {
		h.Object += also
	}
	h.Ports = slices.Clone(h.Ports)
	for _, p := range other.Ports {
		at := slices.IndexFunc(h.Ports, func(q mesh.Port) bool { return q.Number == p.Number && q.Protocol == p.Protocol })
		if at < 0 {
			h.Ports = append(h.Ports, j.adopt(p, g))
			continue
		}
		to := served{h.Ports[at].Cluster, h.Name, p.Number, p.Protocol}
		if c := g.theirs[p.Cluster]; c != nil && !g.spread[to] {
			g.spread[to] = true
			j.spread(to.cluster, c, later)
		}
	}
	if h.Headless {
		h.Addresses = append(slices.Clip(h.Addresses), other.Addresses...)
	}
	h.Records = slices.Clip(h.Records)
	had := len(h.Records)
	for _, r := range other.Records {
		if !slices.ContainsFunc(h.Records[:had], func(q mesh.Record) bool { return q.Label == r.Label }) {
			h.Records = append(h.Records, r)
		}
	}
}

// spread adds another cluster's endpoints to those of a port, so much later.
func (j *joiner) spread(name string, other *mesh.Cluster, later uint32) {
	at, there := j.clusters[name]
	if !there {
		return // connections to it are left alone
	}
	c := &j.in.Clusters[at]
	c.Localities = slices.Clip(c.Localities)
	for _, l := range other.Localities {
		l.Priority += later
		c.Localities = append(c.Localities, l)
	}
}
