package xds

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// The types asked for.
const (
	clusterType   = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	endpointType  = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	listenerType  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	nameTableType = "type.googleapis.com/istio.networking.nds.v1.NameTable"
)

// allTypes is the order in which they are shown.
var allTypes = []string{clusterType, endpointType, listenerType, nameTableType}

// state is what one stream was told. Its maps are never edited: a response makes new ones of those it
// changes, so that a copy of the struct is a snapshot.
type state struct {
	clusters  map[string]*cluster
	endpoints map[string]*assignment // by the name EDS knows them by
	listeners map[string]*listener
	names     map[string]*name // by host
	problems  map[string]problems
	crossings // of a snapshot; not kept up to date otherwise
}

// problems are of one type's resources, by what they are called.
type problems map[string]mesh.Problem

// update is one response, of either protocol.
type update struct {
	typeURL   string
	resources []resource
	// whole means that what is not in resources does not exist; else it stays, unless it is in removed.
	whole          bool
	removed        []string
	version, nonce string
}

// resource is one resource as it came. Only the delta protocol says names and versions.
type resource struct {
	body          *anypb.Any
	name, version string
}

// apply takes one response. An error means that nothing in it can be used and that what was known stays.
func (s *state) apply(p *pools, u *update) error {
	r := &response{update: u, next: problems{}}
	if !u.whole {
		maps.Copy(r.next, s.problems[u.typeURL])
		for _, name := range u.removed {
			delete(r.next, name)
		}
	}
	next := *s
	switch u.typeURL {
	case clusterType:
		next.clusters = take(r, s.clusters, "cluster", p.cluster)
		next.endpoints = next.wanted(s.endpoints)
	case endpointType:
		next.endpoints = next.wanted(take(r, s.endpoints, "endpoints", p.assignment))
	case listenerType:
		next.listeners = take(r, s.listeners, "listener", p.listener)
	case nameTableType:
		next.takeNames(r, p)
	}
	next.problems = maps.Clone(s.problems)
	if next.problems == nil {
		next.problems = map[string]problems{}
	}
	next.problems[u.typeURL] = r.next
	if len(u.resources) > 0 && r.usable == 0 {
		s.problems = next.problems
		return r.refusal()
	}
	*s = next
	return nil
}

// response collects how the resources of one update fared.
type response struct {
	*update
	usable int
	bad    []mesh.Problem
	next   problems
}

func (r *response) skip(key, object string, err error) {
	p := mesh.Problem{Source: sourceName, Object: object, Reason: err.Error()}
	r.bad = append(r.bad, p)
	r.next[key] = p
}

// refusal is the message of a NACK: the first few reasons are enough to find the mistake.
func (r *response) refusal() error {
	var all []error
	for _, p := range r.bad[:min(3, len(r.bad))] {
		all = append(all, fmt.Errorf("%s: %s", p.Object, p.Reason))
	}
	if more := len(r.bad) - len(all); more > 0 {
		all = append(all, fmt.Errorf("and %d more", more))
	}
	return errors.Join(all...)
}

// take makes the next map of one type. Of a resource that cannot be used the last good one stays.
func take[T any](r *response, last map[string]*T, kind string, decode func(*anypb.Any) (name string, v *T, err error)) map[string]*T {
	var next map[string]*T
	if r.whole {
		next = make(map[string]*T, len(r.resources))
	} else if next = maps.Clone(last); next == nil {
		next = map[string]*T{}
	}
	for _, name := range r.removed {
		delete(next, name)
	}
	came := make(map[string]bool, len(r.resources))
	for i := range r.resources {
		res := &r.resources[i]
		name, v, err := decode(res.body)
		if name == "" {
			name = res.name
		}
		if err == nil && came[name] {
			err = errors.New("is in the response twice; the first one is used")
		} else if err == nil {
			next[name], came[name] = v, true
			delete(r.next, name)
			r.usable++
			continue
		}
		if old := last[name]; old != nil && !came[name] {
			next[name] = old
			err = fmt.Errorf("%w; its last good version is used", err)
		}
		res.version = "" // not held: whoever resumes is sent it again
		key := name
		if key == "" {
			key = nameless(i)
		}
		r.skip(key, object(kind, name, i), err)
	}
	return next
}

// takeNames replaces the name table, which is always sent whole, as one resource without a name.
func (s *state) takeNames(r *response, p *pools) {
	if !r.whole && len(r.resources)+len(r.removed) == 0 {
		return // nothing has changed
	}
	next := map[string]*name{}
	for i, res := range r.resources {
		names, err := p.nameTable(res.body)
		if err != nil {
			r.skip(nameless(i), object("name table", "", i), err)
			continue
		}
		r.usable++
		for _, n := range names {
			next[n.host] = n
		}
	}
	s.names = next
}

// nameless is what a resource without a name is called among problems; it sorts behind names.
func nameless(place int) string { return fmt.Sprintf("~%06d", place) }

// object names a resource; one that does not even have a name is found by its place.
func object(kind, name string, place int) string {
	if name == "" {
		return fmt.Sprintf("%s number %d of its response", kind, place+1)
	}
	return fmt.Sprintf("%s %q", kind, name)
}

// unpack decodes r into m, which must be of the type r says it is.
func unpack(r *anypb.Any, m proto.Message) error {
	if want := m.ProtoReflect().Descriptor().FullName(); r.MessageName() != want {
		return fmt.Errorf("is a %q, not a %s", r.GetTypeUrl(), want)
	}
	if err := proto.Unmarshal(r.GetValue(), m); err != nil {
		return fmt.Errorf("cannot be decoded: %w", err)
	}
	return nil
}

// endpointNames is what EDS must be asked for, sorted.
func (s *state) endpointNames() []string {
	var names []string
	for _, c := range s.clusters {
		if c.eds != "" {
			names = append(names, c.eds)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// wanted is endpoints without those no cluster asks for.
func (s *state) wanted(endpoints map[string]*assignment) map[string]*assignment {
	names := make(map[string]bool, len(s.clusters))
	for _, c := range s.clusters {
		if c.eds != "" {
			names[c.eds] = true
		}
	}
	next := make(map[string]*assignment, len(endpoints))
	for name, a := range endpoints {
		if names[name] {
			next[name] = a
		}
	}
	return next
}

// same says whether another stream was told the same, as far as that can be seen at once.
func (s *state) same(o *state) bool {
	return maps.Equal(s.clusters, o.clusters) && maps.Equal(s.endpoints, o.endpoints) &&
		maps.Equal(s.listeners, o.listeners) && maps.Equal(s.names, o.names) &&
		maps.EqualFunc(s.problems, o.problems, func(a, b problems) bool { return maps.Equal(a, b) })
}
