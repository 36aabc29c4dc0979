package xds

import (
	"context"
	"net"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// patient bounds every wait for something that must come.
const patient = 10 * time.Second

// controlPlane is an ADS server on a real socket whose every word a test says.
type controlPlane struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	addr    string
	server  *grpc.Server
	streams chan *serverStream
}

// serverStream is the server's end of one stream.
type serverStream struct {
	discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer
	requests chan *discoveryv3.DiscoveryRequest
	end      chan error
}

// listen starts a control plane on any port.
func listen(t *testing.T) *controlPlane {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, ln, ln.Addr().String())
}

// listenUnix starts a control plane on path, for tests that come back to an address: a port that nobody
// listens on may be taken by anybody meanwhile, even by the client that tries to connect to it.
func listenUnix(t *testing.T, path string) *controlPlane {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, ln, "unix://"+path)
}

func serve(t *testing.T, ln net.Listener, addr string, o ...grpc.ServerOption) *controlPlane {
	cp := &controlPlane{addr: addr, server: grpc.NewServer(o...), streams: make(chan *serverStream, 100)}
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(cp.server, cp)
	go func() { _ = cp.server.Serve(ln) }()
	t.Cleanup(cp.server.Stop)
	return cp
}

func (cp *controlPlane) StreamAggregatedResources(s discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	st := &serverStream{s, make(chan *discoveryv3.DiscoveryRequest, 100), make(chan error, 1)}
	cp.streams <- st
	go func() {
		for {
			r, err := s.Recv()
			if err != nil {
				return
			}
			st.requests <- r
		}
	}()
	select {
	case err := <-st.end:
		return err
	case <-s.Context().Done():
		return nil
	}
}

func (cp *controlPlane) accept(t *testing.T) *serverStream {
	t.Helper()
	return await(t, cp.streams, "a stream")
}

// next returns the next request, which must be of the type.
func (s *serverStream) next(t *testing.T, typeURL string) *discoveryv3.DiscoveryRequest {
	t.Helper()
	r := await(t, s.requests, "a request of type "+typeURL)
	if r.TypeUrl != typeURL {
		t.Fatalf("request of type %s, want %s", r.TypeUrl, typeURL)
	}
	return r
}

// begin reads the three first requests of a stream.
func (s *serverStream) begin(t *testing.T) {
	t.Helper()
	for _, typeURL := range []string{clusterType, listenerType, nameTableType} {
		s.next(t, typeURL)
	}
}

// push sends a response and returns its ACK or NACK.
func (s *serverStream) push(t *testing.T, typeURL, version string, resources ...*anypb.Any) *discoveryv3.DiscoveryRequest {
	t.Helper()
	nonce := version + " of " + typeURL
	err := s.Send(&discoveryv3.DiscoveryResponse{TypeUrl: typeURL, VersionInfo: version, Nonce: nonce, Resources: resources})
	if err != nil {
		t.Fatal(err)
	}
	r := s.next(t, typeURL)
	if r.ResponseNonce != nonce {
		t.Fatalf("answer to nonce %q, want %q", r.ResponseNonce, nonce)
	}
	return r
}

func await[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patient):
		t.Fatalf("no %s within %v", what, patient)
		panic("unreachable")
	}
}

// client runs a source for one namespace against addr, with short times, and returns what it emits.
func client(t *testing.T, addr string, change func(*timing)) <-chan mesh.Input {
	t.Helper()
	_, inputs := follower(t, addr, change)
	return inputs
}

func follower(t *testing.T, addr string, change func(*timing)) (*Source, <-chan mesh.Input) {
	t.Helper()
	return start(t, Options{Address: addr, Namespace: "ns1", Node: node1}, change)
}

// start runs a source with short times until the test ends.
func start(t *testing.T, o Options, change func(*timing)) (*Source, <-chan mesh.Input) {
	t.Helper()
	s := New(o)
	s.timing = timing{
		coalesce: 5 * time.Millisecond, grace: patient, patience: patient, linger: 5 * time.Millisecond,
		retryMin: 5 * time.Millisecond, retryMax: 50 * time.Millisecond, steady: time.Minute,
	}
	if change != nil {
		change(&s.timing)
	}
	ctx, cancel := context.WithCancel(context.Background())
	inputs, done := make(chan mesh.Input, 1000), make(chan error, 1)
	go func() { done <- s.Run(ctx, func(in mesh.Input) { inputs <- in }) }()
	t.Cleanup(func() {
		cancel()
		if err := await(t, done, "end of Run"); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s, inputs
}

// node1 is a node in the way of istiod.
func node1(namespace string) Node { return NewNode(namespace, "node1", "10.0.0.1", nil) }

func pack(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
