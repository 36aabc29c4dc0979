package xds

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// protocol is one of the two variants of ADS, on an open stream. receive may be called beside the others,
// which are for one goroutine.
//
// Both answer every response: with an ACK, or with a NACK when refusal says why nothing in it can be
// used. Both name the node in their first request only.
type protocol interface {
	// subscribe asks for the resources of a type by name, or for all of them if there are no names.
	subscribe(typeURL string, names []string) error
	receive() (*update, error)
	// whole says whether the next response of a type is all there is of it.
	whole(typeURL string) bool
	answer(u *update, refusal error) error
}

// held is what a stream has of the control plane's versions. It outlives sessions: a new one offers it,
// so that what has not changed need not be sent again.
type held struct {
	delta map[string]map[string]string // by type and resource
	whole map[string]string            // by type
}

func newHeld() *held { return &held{map[string]map[string]string{}, map[string]string{}} }

// took notes an update that is in use now.
func (h *held) took(u *update, incremental bool) {
	if !incremental {
		delete(h.delta, u.typeURL) // what they were of may be gone
		h.whole[u.typeURL] = u.version
		return
	}
	delete(h.whole, u.typeURL)
	versions := h.delta[u.typeURL]
	if versions == nil || u.whole {
		versions = map[string]string{}
		h.delta[u.typeURL] = versions
	}
	for _, name := range u.removed {
		delete(versions, name)
	}
	for _, r := range u.resources {
		if r.version != "" {
			versions[r.name] = r.version
		}
	}
}

// sotw is state of the world: a response has all resources of its type, a request all names.
type sotw struct {
	stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient
	node   *corev3.Node // nil once sent
	held   *held
	names  map[string][]string // what was asked for, by type
	nonces map[string]string   // of the newest response, by type
}

func openSotw(ctx context.Context, conn grpc.ClientConnInterface, node *corev3.Node, h *held) (protocol, error) {
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	return &sotw{stream, node, h, map[string][]string{}, map[string]string{}}, err
}

func (p *sotw) subscribe(typeURL string, names []string) error {
	p.names[typeURL] = names
	return p.request(typeURL, nil)
}

// request sends a type's subscription with its newest version and nonce, which makes it the ACK of the
// newest response too.
func (p *sotw) request(typeURL string, refusal error) error {
	r := &discoveryv3.DiscoveryRequest{
		TypeUrl: typeURL, ResourceNames: p.names[typeURL],
		VersionInfo: p.held.whole[typeURL], ResponseNonce: p.nonces[typeURL], Node: p.node, ErrorDetail: detail(refusal),
	}
	p.node = nil
	return p.stream.Send(r)
}

func (p *sotw) receive() (*update, error) {
	r, err := p.stream.Recv()
	if err != nil {
		return nil, err
	}
	u := &update{typeURL: r.TypeUrl, version: r.VersionInfo, nonce: r.Nonce}
	for _, body := range r.Resources {
		u.resources = append(u.resources, resource{body: body})
	}
	return u, nil
}

// whole: state of the world is what the protocol is called, but of EDS a response may hold only what
// changed.
func (p *sotw) whole(typeURL string) bool { return typeURL != endpointType }

func (p *sotw) answer(u *update, refusal error) error {
	p.nonces[u.typeURL] = u.nonce
	if refusal == nil {
		p.held.took(u, false)
	}
	return p.request(u.typeURL, refusal)
}

// delta is the incremental variant: responses and requests say only what changes.
type delta struct {
	stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	node   *corev3.Node
	held   *held
	names  map[string][]string
	fresh  map[string]bool // types the first answer to which is all there is
}

func openDelta(ctx context.Context, conn grpc.ClientConnInterface, node *corev3.Node, h *held) (protocol, error) {
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	return &delta{stream, node, h, map[string][]string{}, map[string]bool{}}, err
}

func (p *delta) subscribe(typeURL string, names []string) error {
	r := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, Node: p.node}
	p.node = nil
	if old, again := p.names[typeURL]; again {
		r.ResourceNamesSubscribe = without(names, old)
		r.ResourceNamesUnsubscribe = without(old, names)
		for _, name := range r.ResourceNamesUnsubscribe {
			delete(p.held.delta[typeURL], name)
		}
	} else {
		r.ResourceNamesSubscribe = names
		// The name table is sent whole each time; to offer its version would only be misunderstood.
		if typeURL != nameTableType {
			r.InitialResourceVersions = maps.Clone(p.held.delta[typeURL])
		}
		p.fresh[typeURL] = typeURL != endpointType && len(r.InitialResourceVersions) == 0
	}
	p.names[typeURL] = names
	return p.stream.Send(r)
}

// without returns the names that are not in others; both are sorted.
func without(names, others []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool {
		_, found := slices.BinarySearch(others, n)
		return found
	})
}

func (p *delta) receive() (*update, error) {
	r, err := p.stream.Recv()
	if err != nil {
		return nil, err
	}
	u := &update{typeURL: r.TypeUrl, removed: r.RemovedResources, version: r.SystemVersionInfo, nonce: r.Nonce}
	for _, res := range r.Resources {
		if res.GetResource() == nil {
			// A name whose resource does not exist, as some servers say it.
			u.removed = append(u.removed, res.GetName())
			continue
		}
		u.resources = append(u.resources, resource{res.GetResource(), res.GetName(), res.GetVersion()})
	}
	return u, nil
}

func (p *delta) whole(typeURL string) bool { return p.fresh[typeURL] }

func (p *delta) answer(u *update, refusal error) error {
	if refusal == nil {
		p.held.took(u, true)
		delete(p.fresh, u.typeURL)
	}
	return p.stream.Send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: u.typeURL, ResponseNonce: u.nonce, ErrorDetail: detail(refusal),
	})
}

func detail(refusal error) *statuspb.Status {
	if refusal == nil {
		return nil
	}
	return &statuspb.Status{Code: int32(codes.InvalidArgument), Message: refusal.Error()}
}

// cause finds why a send failed: gRPC says only EOF there, and keeps the reason for who receives. receive
// returns what comes of one more reception.
func cause(receive func() error, sendErr error) error {
	for {
		if err := receive(); err != nil {
			return errors.Join(err, fmt.Errorf("while sending: %w", sendErr))
		}
	}
}
