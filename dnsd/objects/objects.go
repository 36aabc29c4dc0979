// Package objects knows what Kubernetes and Istio objects mean, in mesh words: Service, EndpointSlice,
// ServiceImport, ServiceEntry, WorkloadEntry and DestinationRule, and Pods as far as entries select them.
//
// It is pure, and the same wherever the objects come from: a source decodes them, puts what counts of them
// into a Set and takes it out again, and asks the Set what all amount to together. A Set translates again
// only what a change concerns, so that one slice of ten thousand services costs one of them.
package objects

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// Options are what objects mean beside what they say.
type Options struct {
	// Source signs the input and its problems.
	Source string
	// ClusterDomain is the domain of Kubernetes services; empty means cluster.local.
	ClusterDomain string
	// Place is where the pods are that this is for.
	Place Place
	// Live means that the objects are an API server's. Those that belong together come one by one there, so
	// that one alone is no mistake, as it is in a folder.
	Live bool
}

// Kind is one kind of objects.
type Kind string

// The kinds that mean something here.
const (
	KindService         Kind = "Service"
	KindEndpointSlice   Kind = "EndpointSlice"
	KindServiceImport   Kind = "ServiceImport"
	KindServiceEntry    Kind = "ServiceEntry"
	KindWorkloadEntry   Kind = "WorkloadEntry"
	KindDestinationRule Kind = "DestinationRule"
	KindPod             Kind = "Pod"
)

// Meta is what all objects have.
type Meta struct {
	Kind            Kind
	Namespace, Name string
	Labels          map[string]string
	Annotations     map[string]string
	// Place is where the object was found, for problems; empty where its name says enough.
	Place string
}

// String names the object as problems and explanations do: "ServiceEntry ns1/db1".
func (m *Meta) String() string { return string(m.Kind) + " " + m.Namespace + "/" + m.Name }

// An Object is what counts of one object; it does not keep the one it was made of.
type Object interface {
	put(s *Set) (news bool)
}

// id is an object's name within its kind.
type id struct{ namespace, name string }

func (m *Meta) id() id { return id{m.Namespace, m.Name} }

// Set is the objects that one source has. It belongs to one goroutine.
type Set struct {
	options   Options
	services  map[owner]*service         // imported ones, too
	owned     map[owner][]*endpointSlice // by the service they are of, whether that is there or not
	slices    map[id]*endpointSlice
	entries   map[id]*serviceEntry
	workloads map[id]*workload
	pods      map[id]*workload
	rules     map[id]*rule

	units   []*unit // all, in order; nil when one has come or gone
	hosts   []place // where all hosts are, in order, and in members all clusters; nil when one is called otherwise
	members []place
	place   Place
	ruling  *rulebook // nil when a rule has come or gone
}

// New returns a Set without objects.
func New(o Options) *Set {
	o.ClusterDomain = cmp.Or(o.ClusterDomain, "cluster.local")
	return &Set{
		options: o, place: o.Place, services: map[owner]*service{}, owned: map[owner][]*endpointSlice{}, slices: map[id]*endpointSlice{},
		entries: map[id]*serviceEntry{}, rules: map[id]*rule{}, workloads: map[id]*workload{}, pods: map[id]*workload{},
	}
}

// Put puts an object in, or another in its place; it is false where that one said the same. An Object is put
// into one Set, and once.
func (s *Set) Put(o Object) (news bool) { return o.put(s) }

// Delete takes an object out; it is false where the others amount to the same without it. One that is not there
// is no mistake.
func (s *Set) Delete(kind Kind, namespace, name string) (news bool) {
	at := id{namespace, name}
	news = true
	switch kind {
	case KindService, KindServiceImport:
		of := owner{at, kind == KindServiceImport}
		if s.services[of] != nil {
			s.units = nil
		}
		delete(s.services, of)
	case KindEndpointSlice:
		s.disown(s.slices[at])
		delete(s.slices, at)
	case KindServiceEntry:
		if s.entries[at] != nil {
			s.units = nil
		}
		delete(s.entries, at)
	case KindWorkloadEntry:
		news = s.reselect(s.workloads[at])
		delete(s.workloads, at)
	case KindPod:
		news = s.reselect(s.pods[at])
		delete(s.pods, at)
	case KindDestinationRule:
		if s.rules[at] != nil {
			s.ruling = nil
		}
		delete(s.rules, at)
	}
	return news
}

// unit is an object that declares hosts, and what it comes to.
type unit struct {
	*Meta
	translate func(*builder) // says it anew
	stale     bool           // what it says has changed
	crowded   bool           // another object serves a port of its hosts, and has the name of the cluster

	said    content // what it says
	ruled   content // and with the rules that its hosts follow
	by      []*rule // those
	foreign []*rule // those that they do not follow, since strangers have written them
	under   *rulebook
}

// content is hosts, and the clusters they name.
type content struct {
	hosts    []mesh.Host
	clusters []mesh.Cluster
	problems []mesh.Problem
}

// builder makes a unit's content.
type builder struct {
	*unit
	options *Options
	set     *Set
	content
}

// problem reports something about an object, once: an endpoint is wrong for all ports of all hosts of its entry.
func (c *content) problem(o *Options, m *Meta, format string, args ...any) {
	reason := fmt.Sprintf(format, args...)
	if m.Place != "" {
		reason = m.Place + ": " + reason
	}
	p := mesh.Problem{Source: o.Source, Object: m.String(), Reason: reason}
	if !slices.Contains(c.problems, p) {
		c.problems = append(c.problems, p)
	}
}

func (b *builder) note(format string, args ...any) { b.problem(b.options, b.Meta, format, args...) }

// addCluster stores c under the name a control plane would give it. Another object may serve the same
// port of the same host, for another namespace or by mistake; which of them counts is not decided here.
func (b *builder) addCluster(host string, port mesh.Port, c mesh.Cluster) (name string) {
	suffix := ""
	if port.Protocol == mesh.UDP {
		suffix = "/udp"
	}
	c.Name = fmt.Sprintf("outbound|%d%s||%s", port.Number, suffix, host)
	if b.crowded {
		c.Name += "|" + b.String()
	}
	b.clusters = append(b.clusters, c)
	return c.Name
}

// compareUnits puts Services first: what their clusters are called stays when an entry decorates them.
func compareUnits(a, b *unit) int {
	return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), compareIDs(a.id(), b.id()))
}
