// Package xds learns the mesh from a control plane that speaks ADS, and says it in mesh words.
//
// One stream carries four kinds of resources, state of the world each time: clusters (CDS), their
// endpoints (EDS), listeners (LDS) and Istio's name table (NDS). The name table says which addresses a
// host has, a cluster's name says which port of which host it serves, and a listener with a plain TCP
// proxy overrides both. A control plane without a name table is served from its listeners alone.
//
// A resource that cannot be used is left out and reported, never the whole push. What was said last
// stays while the control plane is away.
package xds

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// sourceName is what inputs and problems of this package are signed with.
const sourceName = "xds"

// maxResponse bounds one response. A cluster is about 830 bytes as istiod sends it, so this is room for
// 300,000 of them; gRPC's own 4 MiB would end at 5,000.
const maxResponse = 256 << 20

// Options say which control plane to ask and as whom.
type Options struct {
	// Address is the host:port of a plaintext ADS server.
	Address string
	// Node is who the control plane is told it talks to; it decides which view of the mesh is sent.
	Node Node
	// Log takes changes of state: connected, lost, refused. Nil means nobody listens.
	Log *slog.Logger
}

// Source is one ADS client. Run it once.
type Source struct {
	address string
	node    Node
	log     *slog.Logger
	timing  timing

	state *state
	last  *mesh.Input // newest input emitted, nil before the first
}

// timing is every duration of the client, so that tests need not wait for them.
type timing struct {
	// coalesce is how long after a change the rest of a push is waited for.
	coalesce time.Duration
	// grace is how long an answer that is still missing holds a change back.
	grace time.Duration
	// patience is the same for a type that was never seen: an input without the name table, sent
	// because a large control plane was slow, would take every name away.
	patience time.Duration
	// retryMin and retryMax bound the pause between streams; a stream that worked for steady starts
	// over at retryMin.
	retryMin, retryMax, steady time.Duration
}

// New returns a source that is not yet connected.
func New(o Options) *Source {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Source{
		address: o.Address,
		node:    o.Node,
		log:     log.With("source", sourceName, "address", o.Address),
		state:   newState(),
		timing: timing{
			coalesce: 30 * time.Millisecond,
			grace:    time.Second,
			patience: 5 * time.Second,
			retryMin: 500 * time.Millisecond,
			retryMax: 30 * time.Second,
			steady:   30 * time.Second,
		},
	}
}

// Run keeps a stream to the control plane and calls emit with everything it knows after each change,
// until ctx is done; then it returns nil. Nothing is emitted before the control plane has spoken, so
// whoever remembers an older input may go on with it. emit may block; the inputs are not touched again.
func (s *Source) Run(ctx context.Context, emit func(mesh.Input)) error {
	pause := retry{timing: s.timing}
	for quiet := 0; ; {
		session := &session{source: s, emit: emit}
		err := session.run(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if quiet++; session.answered() {
			quiet = 0
		}
		wait := pause.next(session.lived())
		s.log.Warn("stream to the control plane ended; keeping what it last said", "error", err, "retry", wait)
		s.learnFrom(err)
		if quiet == 1 {
			s.reportLost(err, emit)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// learnFrom drops the name table from what is asked for when a control plane that never sent one ends
// the stream as if it had been asked for something it does not know. A control plane that went away may
// come back as one that does.
func (s *Source) learnFrom(err error) {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.Unimplemented, codes.NotFound:
		if !s.state.seen[nameTableType] && !s.state.noNames {
			s.state.noNames = true
			s.log.Info("asking without the name table from now on", "error", err)
		}
	case codes.Unavailable:
		s.state.noNames = false
	}
}

// reportLost repeats the last input with the connection as its problem. The state is left out of it: the
// stream may have ended in the middle of a push.
func (s *Source) reportLost(err error, emit func(mesh.Input)) {
	object := "control plane " + s.address
	if s.last == nil || slices.ContainsFunc(s.last.Problems, func(p mesh.Problem) bool { return p.Object == object }) {
		return
	}
	in := *s.last
	in.Problems = append(slices.Clone(in.Problems), mesh.Problem{
		Source: sourceName, Object: object,
		Reason: fmt.Sprintf("not reachable, serving what it last said: %v", err),
	})
	s.publish(in, emit)
}

// publish emits in unless it says nothing new.
func (s *Source) publish(in mesh.Input, emit func(mesh.Input)) {
	if s.last != nil && reflect.DeepEqual(*s.last, in) {
		return
	}
	s.last = &in
	emit(in)
}

// dial prepares a connection; the first use of it connects. Each stream gets its own, so that the
// address is looked up anew and the only back-off is ours.
func (s *Source) dial() (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(s.address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponse)),
		// A dead peer shows only by keepalive: a quiet stream is the normal state. Istiod refuses
		// pings more often than every 15 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 5 * time.Second}),
		// The control plane is inside the cluster; a proxy from the environment leads out of it.
		grpc.WithNoProxy(),
		grpc.WithUserAgent("nodens"),
	)
	if err != nil {
		return nil, fmt.Errorf("control plane address %q: %w", s.address, err)
	}
	return conn, nil
}

// open starts an ADS stream that ends with ctx; release frees its connection.
func (s *Source) open(ctx context.Context) (stream adsStream, release func(), err error) {
	conn, err := s.dial()
	if err != nil {
		return nil, nil, err
	}
	stream, err = discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	return stream, func() { _ = conn.Close() }, nil
}

// retry is the pause between streams: doubled each time, at random within its upper half so that the
// nodes of a cluster do not come back together.
type retry struct {
	timing timing
	delay  time.Duration
}

// next returns the pause after a stream that answered for lived.
func (r *retry) next(lived time.Duration) time.Duration {
	if lived >= r.timing.steady {
		r.delay = 0
	}
	r.delay = min(max(2*r.delay, r.timing.retryMin), r.timing.retryMax)
	return r.delay/2 + rand.N(r.delay/2+1)
}
