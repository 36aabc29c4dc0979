package world

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

// ADSAddress is where the control plane listens, on the node, and WestAddress where another cluster's does.
const (
	ADSAddress  = "127.0.0.1:15010"
	WestAddress = "127.0.0.1:15011"
)

// The types the control plane serves, in the order in which a change of several is pushed.
const (
	ClusterType   = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType  = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	NameTableType = "type.googleapis.com/istio.networking.nds.v1.NameTable"
)

var pushOrder = []string{ClusterType, EndpointType, ListenerType, NameTableType}

// Verdict is what a client said to one response.
type Verdict struct {
	Type, Version string
	// Error is empty for an ACK.
	Error string
	// Node is the client's node ID, as far as it has said one on the stream.
	Node string
}

// String reads "ACK cds 3" or "NACK cds 3: why".
func (v Verdict) String() string {
	if v.Error != "" {
		return fmt.Sprintf("NACK %s %s: %s", shortType(v.Type), v.Version, v.Error)
	}
	return fmt.Sprintf("ACK %s %s", shortType(v.Type), v.Version)
}

func shortType(url string) string {
	switch url {
	case ClusterType:
		return "cds"
	case EndpointType:
		return "eds"
	case ListenerType:
		return "lds"
	case NameTableType:
		return "nds"
	}
	return url
}

// ControlPlane is an aggregated discovery server of both protocols. What it serves is the union of the
// sets it was given, less those for other namespaces than the client's; a change goes to every stream at
// once. It can be stopped and started again at the same address, and knows the same things then.
type ControlPlane struct {
	ns      *sandbox.NS
	address string
	log     *slog.Logger

	mu       sync.Mutex
	server   *grpc.Server
	sets     map[string]set
	version  map[string]int // by type
	streams  map[*stream]struct{}
	connects int
	verdicts []Verdict
	offers   []string
	manner   Manner
}

// set is what was put under one name.
type set struct {
	namespace string // empty: every client is told
	Resources
}

func newControlPlane(ns *sandbox.NS, address string, log *slog.Logger) *ControlPlane {
	return &ControlPlane{ns: ns, address: address, log: log, sets: map[string]set{}, version: map[string]int{}, streams: map[*stream]struct{}{}}
}

// Start begins to listen, in the manner of the last StartAs.
func (c *ControlPlane) Start() error {
	var ln net.Listener
	err := c.ns.Do(func() (err error) {
		ln, err = net.Listen("tcp", c.address)
		return err
	})
	if err != nil {
		return fmt.Errorf("control plane: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	options, err := c.manner.options()
	if err != nil {
		_ = ln.Close()
		return err
	}
	server := grpc.NewServer(options...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, &service{plane: c})
	c.server = server
	go func() {
		if err := server.Serve(ln); err != nil {
			c.log.Error("control plane ended", "err", err)
		}
	}()
	return nil
}

// Stop ends the server and every stream at once.
func (c *ControlPlane) Stop() {
	c.mu.Lock()
	server := c.server
	c.server = nil
	c.mu.Unlock()
	if server != nil {
		server.Stop()
	}
}

// Put gives the control plane a set of resources, replacing the one of the same name; an empty set
// removes it.
func (c *ControlPlane) Put(name string, r Resources) { c.PutFor("", name, r) }

// PutFor is Put of a set that only clients of one namespace are told.
func (c *ControlPlane) PutFor(namespace, name string, r Resources) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := map[string]bool{}
	for _, of := range []Resources{c.sets[name].Resources, r} {
		for url := range of {
			changed[url] = true
		}
	}
	if len(r) == 0 {
		delete(c.sets, name)
	} else {
		c.sets[name] = set{namespace, r}
	}
	for _, url := range pushOrder {
		if changed[url] {
			c.version[url]++
		}
	}
	for s := range c.streams {
		s.wake()
	}
}

// Clear removes every set.
func (c *ControlPlane) Clear() {
	c.mu.Lock()
	c.sets = map[string]set{}
	for _, url := range pushOrder {
		c.version[url]++
	}
	for s := range c.streams {
		s.wake()
	}
	c.mu.Unlock()
}

// Verdicts returns what clients have said, oldest first.
func (c *ControlPlane) Verdicts() []Verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.verdicts)
}

// Offers returns what clients said they have when they subscribed, oldest first: "delta cds 3" for three
// resources, "sotw cds 7" for a version.
func (c *ControlPlane) Offers() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.offers)
}

// Connects is how many streams were opened since the world began.
func (c *ControlPlane) Connects() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connects
}

// Settled returns nil if a client is connected and has acknowledged the newest version of each of its
// types. EDS counts only if the client asks for it.
func (c *ControlPlane) Settled() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.streams) == 0 {
		return fmt.Errorf("control plane: no client is connected")
	}
	for s := range c.streams {
		for _, url := range []string{ClusterType, ListenerType, NameTableType} {
			if sub := s.subs[url]; sub == nil || sub.acked != c.version[url] {
				return fmt.Errorf("control plane: %s version %d is not acknowledged", shortType(url), c.version[url])
			}
		}
		if sub := s.subs[EndpointType]; sub != nil && sub.acked != c.version[EndpointType] {
			return fmt.Errorf("control plane: eds version %d is not acknowledged", c.version[EndpointType])
		}
	}
	return nil
}

type service struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	plane *ControlPlane
}

// subscription is what one stream wants of one type. Guarded by the plane's mu.
type subscription struct {
	names []string // empty: everything
	sent  int      // version; -1 before the first response
	acked int      // version; -1 before the first ACK
	dirty bool     // the names changed
	nonce string
	known map[string]string // delta: versions by resource
}

// stream is one client. A request or a change of the plane wakes it, and it sends what is due.
type stream struct {
	node, namespace string
	subs            map[string]*subscription
	due             chan struct{}
}

// is notes whose stream it is, where a request says so.
func (s *stream) is(n *corev3.Node) {
	if n.GetId() != "" {
		s.node, s.namespace = n.GetId(), n.GetMetadata().GetFields()["NAMESPACE"].GetStringValue()
	}
}

func (s *stream) wake() {
	select {
	case s.due <- struct{}{}:
	default:
	}
}

func (svc *service) StreamAggregatedResources(conn discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	c := svc.plane
	return c.serve(func(s *stream) error {
		req, err := conn.Recv()
		if err == nil {
			c.hear(s, req)
		}
		return err
	}, func(s *stream) error {
		for _, resp := range c.due(s) {
			if err := conn.Send(resp); err != nil {
				return err
			}
		}
		return nil
	})
}

// serve keeps one stream: next takes a request, send answers what is due.
func (c *ControlPlane) serve(next, send func(*stream) error) error {
	s := &stream{subs: map[string]*subscription{}, due: make(chan struct{}, 1)}
	c.mu.Lock()
	c.streams[s] = struct{}{}
	c.connects++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.streams, s)
		c.mu.Unlock()
	}()
	ended := make(chan error, 1)
	go func() {
		for {
			if err := next(s); err != nil {
				ended <- err
				return
			}
			s.wake()
		}
	}()
	for {
		select {
		case err := <-ended:
			return err
		case <-s.due:
			if err := send(s); err != nil {
				return err
			}
		}
	}
}

// hear takes a request: a subscription, an ACK or a NACK.
func (c *ControlPlane) hear(s *stream, req *discoveryv3.DiscoveryRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.is(req.GetNode())
	sub := s.subs[req.TypeUrl]
	if sub == nil {
		sub = &subscription{sent: -1, acked: -1}
		s.subs[req.TypeUrl] = sub
		c.offers = append(c.offers, strings.TrimSpace(fmt.Sprintf("sotw %s %s", shortType(req.TypeUrl), req.VersionInfo)))
		if req.VersionInfo == strconv.Itoa(c.version[req.TypeUrl]) {
			sub.sent, sub.acked, sub.names = c.version[req.TypeUrl], c.version[req.TypeUrl], slices.Clone(req.ResourceNames)
		}
	}
	if !slices.Equal(sub.names, req.ResourceNames) {
		sub.names, sub.dirty = slices.Clone(req.ResourceNames), true
	}
	if req.ResponseNonce == "" || req.ResponseNonce != sub.nonce {
		return
	}
	v := Verdict{Type: req.TypeUrl, Version: strconv.Itoa(sub.sent), Error: req.GetErrorDetail().GetMessage(), Node: s.node}
	c.verdicts = append(c.verdicts, v)
	if req.ErrorDetail == nil {
		sub.acked = sub.sent
	}
}

// due returns the responses a stream is owed.
func (c *ControlPlane) due(s *stream) []*discoveryv3.DiscoveryResponse {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*discoveryv3.DiscoveryResponse
	for _, url := range pushOrder {
		sub := s.subs[url]
		if sub == nil || sub.sent == c.version[url] && !sub.dirty {
			continue
		}
		sub.sent, sub.dirty = c.version[url], false
		sub.nonce = fmt.Sprintf("%s-%d", shortType(url), time.Now().UnixNano())
		out = append(out, &discoveryv3.DiscoveryResponse{
			TypeUrl: url, VersionInfo: strconv.Itoa(sub.sent), Nonce: sub.nonce,
			Resources: bodies(c.resources(s.namespace, url, sub.names)),
		})
	}
	return out
}

// resources is the union of a namespace's resources of one type, the first of a name winning; names, if
// any, limits it.
func (c *ControlPlane) resources(namespace, url string, names []string) []Resource {
	var out []Resource
	seen := map[string]bool{}
	var tables []byte
	for _, name := range slices.Sorted(maps.Keys(c.sets)) {
		if of := c.sets[name].namespace; of != "" && of != namespace {
			continue
		}
		for _, r := range c.sets[name].Resources[url] {
			if url == NameTableType {
				tables = append(tables, r.Body.Value...) // protobuf: to join is to merge
				continue
			}
			if seen[r.Name] || len(names) > 0 && !slices.Contains(names, "*") && !slices.Contains(names, r.Name) {
				continue
			}
			seen[r.Name] = true
			out = append(out, r)
		}
	}
	if url == NameTableType {
		out = append(out, Resource{Body: &anypb.Any{TypeUrl: url, Value: tables}})
	}
	return out
}

func bodies(rs []Resource) []*anypb.Any {
	var out []*anypb.Any
	for _, r := range rs {
		out = append(out, r.Body)
	}
	return out
}
