package xds

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
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

// state is what the control plane last said, over all streams. Responses of CDS, LDS and NDS replace
// what was there; one of EDS may hold only what changed and is merged.
type state struct {
	clusters    map[string]*cluster
	assignments map[string]*endpointv3.ClusterLoadAssignment // by the name EDS knows them by
	listeners   map[string][]mesh.Listener                   // by the listener's name
	names       []name
	problems    map[string][]mesh.Problem // by type, of its newest response

	seen     map[string]bool // types that were answered at least once
	expected map[string]bool // types a new stream waits for
	noNames  bool            // this control plane does not know the name table: do not ask for it
}

func newState() *state {
	return &state{
		assignments: map[string]*endpointv3.ClusterLoadAssignment{},
		problems:    map[string][]mesh.Problem{},
		seen:        map[string]bool{},
		expected:    map[string]bool{clusterType: true, listenerType: true, nameTableType: true},
	}
}

func endpointKey(name string) string { return "endpoints of " + name }

func endpointName(key string) (name string, ok bool) { return strings.CutPrefix(key, "endpoints of ") }

// apply takes one response. An error means that nothing in it can be used and that what was known stays.
func (s *state) apply(typeURL string, resources []*anypb.Any) error {
	s.seen[typeURL] = true
	if typeURL != endpointType {
		s.expected[typeURL] = true
	}
	r := &response{}
	var use func()
	switch typeURL {
	case clusterType:
		use = s.takeClusters(r, resources)
	case endpointType:
		use = s.takeEndpoints(r, resources)
	case listenerType:
		use = s.takeListeners(r, resources)
	case nameTableType:
		use = s.takeNames(r, resources)
	}
	s.problems[typeURL] = r.problems
	if len(resources) > 0 && r.usable == 0 {
		return r.refusal()
	}
	use()
	return nil
}

// response collects how the resources of one response fared.
type response struct {
	usable   int
	problems []mesh.Problem
}

func (r *response) skip(object string, err error) {
	r.problems = append(r.problems, mesh.Problem{Source: sourceName, Object: object, Reason: err.Error()})
}

// refusal is the message of a NACK: the first few reasons are enough to find the mistake.
func (r *response) refusal() error {
	var all []error
	for _, p := range r.problems[:min(3, len(r.problems))] {
		all = append(all, fmt.Errorf("%s: %s", p.Object, p.Reason))
	}
	if more := len(r.problems) - len(all); more > 0 {
		all = append(all, fmt.Errorf("and %d more", more))
	}
	return errors.Join(all...)
}

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

func (s *state) takeClusters(r *response, resources []*anypb.Any) (use func()) {
	next := make(map[string]*cluster, len(resources))
	for i, res := range resources {
		c, err := decodeCluster(res)
		if err == nil && next[c.Name] != nil {
			err = errors.New("is in the response twice; the first one is used")
		}
		if err == nil {
			next[c.Name] = c
			r.usable++
			continue
		}
		if old := s.clusters[c.Name]; old != nil && next[c.Name] == nil {
			next[c.Name] = old
			err = fmt.Errorf("%w; its last good version is used", err)
		}
		r.skip(object("cluster", c.Name, i), err)
	}
	return func() {
		s.clusters = next
		wanted := s.endpointNames()
		for name := range s.assignments {
			if _, ok := slices.BinarySearch(wanted, name); !ok {
				delete(s.assignments, name)
			}
		}
	}
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

func (s *state) takeEndpoints(r *response, resources []*anypb.Any) (use func()) {
	var good []*endpointv3.ClusterLoadAssignment
	for i, res := range resources {
		a := &endpointv3.ClusterLoadAssignment{}
		if err := unpack(res, a); err != nil {
			r.skip(object("endpoints", a.GetClusterName(), i), err)
			continue
		}
		r.usable++
		good = append(good, a)
	}
	return func() {
		wanted := s.endpointNames()
		for _, a := range good {
			if _, ok := slices.BinarySearch(wanted, a.ClusterName); ok {
				s.assignments[a.ClusterName] = a
			}
		}
	}
}

func (s *state) takeListeners(r *response, resources []*anypb.Any) (use func()) {
	next := make(map[string][]mesh.Listener, len(resources))
	for i, res := range resources {
		name, ls, err := decodeListener(res)
		if err == nil {
			next[name] = ls
			r.usable++
			continue
		}
		if old, ok := s.listeners[name]; ok {
			next[name] = old
			err = fmt.Errorf("%w; its last good version is used", err)
		}
		r.skip(object("listener", name, i), err)
	}
	return func() { s.listeners = next }
}

func (s *state) takeNames(r *response, resources []*anypb.Any) (use func()) {
	var next []name
	for i, res := range resources {
		names, err := decodeNames(res)
		if err != nil {
			r.skip(object("name table", "", i), err)
			continue
		}
		r.usable++
		next = append(next, names...)
	}
	return func() { s.names = next }
}
