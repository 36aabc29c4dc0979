package kube

import (
	"fmt"
	"slices"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// Member is one of several clusters that are one mesh, and what its source said last.
type Member struct {
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
// The inputs are not changed; what they have alone is the same memory in the joined one.
func Join(members []Member, localFirst bool) mesh.Input {
	here := members[0]
	j := joiner{localFirst: localFirst, hosts: map[string]int{}, clusters: map[string]int{}, in: here.Input}
	j.in.Hosts, j.in.Clusters = slices.Clone(here.Input.Hosts), slices.Clone(here.Input.Clusters)
	j.in.Problems = slices.Clone(here.Input.Problems)
	for i := range j.in.Hosts {
		if j.in.Hosts[i].Kubernetes {
			j.hosts[j.in.Hosts[i].Name] = i
		}
	}
	for i := range j.in.Clusters {
		j.clusters[j.in.Clusters[i].Name] = i
	}
	for _, m := range members[1:] {
		j.in.Problems = append(j.in.Problems, m.Input.Problems...)
		if m.Network != here.Network {
			j.problem(m, "cluster "+m.Cluster, "%d services are left out: its pods are in network %q, which is reached from network %q through a gateway only",
				len(m.Input.Hosts), m.Network, here.Network)
			continue
		}
		j.add(m)
	}
	return j.in
}

type joiner struct {
	localFirst bool
	in         mesh.Input
	hosts      map[string]int // services, by name
	clusters   map[string]int // by name
}

func (j *joiner) problem(m Member, object, format string, args ...any) {
	j.in.Problems = append(j.in.Problems, mesh.Problem{Source: m.Input.Source, Object: object, Reason: fmt.Sprintf(format, args...)})
}

// add adds the services of another cluster.
func (j *joiner) add(m Member) {
	theirs := make(map[string]*mesh.Cluster, len(m.Input.Clusters))
	for i := range m.Input.Clusters {
		theirs[m.Input.Clusters[i].Name] = &m.Input.Clusters[i]
	}
	for i := range m.Input.Hosts {
		h := &m.Input.Hosts[i]
		if !h.Kubernetes {
			continue // entries are this cluster's to make
		}
		if at, there := j.hosts[h.Name]; there {
			j.unite(&j.in.Hosts[at], m, h, theirs)
			continue
		}
		j.hosts[h.Name] = len(j.in.Hosts)
		alone := *h
		alone.Object += " of cluster " + m.Cluster
		if !h.Headless && h.ExternalName == "" {
			alone.Addresses, alone.Allocate = nil, len(h.Ports) > 0
		}
		j.in.Hosts = append(j.in.Hosts, alone)
		for _, p := range h.Ports {
			if c := theirs[p.Cluster]; c != nil {
				j.clusters[c.Name] = len(j.in.Clusters)
				j.in.Clusters = append(j.in.Clusters, *c)
			}
		}
	}
}

// unite adds what another cluster says of a service.
func (j *joiner) unite(h *mesh.Host, m Member, other *mesh.Host, theirs map[string]*mesh.Cluster) {
	if h.Headless != other.Headless || h.ExternalName != other.ExternalName {
		j.problem(m, other.Object, "it is another kind of service here, which counts; that of cluster %s is left out", m.Cluster)
		return
	}
	h.Object += ", " + other.Object + " of cluster " + m.Cluster
	h.Ports = slices.Clone(h.Ports)
	for _, p := range other.Ports {
		at := slices.IndexFunc(h.Ports, func(q mesh.Port) bool { return q.Number == p.Number && q.Protocol == p.Protocol })
		c := theirs[p.Cluster]
		switch {
		case at < 0 && c != nil:
			j.clusters[c.Name] = len(j.in.Clusters)
			j.in.Clusters = append(j.in.Clusters, *c)
			fallthrough
		case at < 0:
			h.Ports = append(h.Ports, p)
		case c != nil:
			j.spread(h.Ports[at].Cluster, c)
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

// spread adds another cluster's endpoints to those of a port.
func (j *joiner) spread(name string, other *mesh.Cluster) {
	at, there := j.clusters[name]
	if !there {
		return // connections to it are left alone
	}
	c := &j.in.Clusters[at]
	c.Localities = slices.Clip(c.Localities)
	for _, l := range other.Localities {
		if j.localFirst {
			l.Priority++
		}
		c.Localities = append(c.Localities, l)
	}
}
