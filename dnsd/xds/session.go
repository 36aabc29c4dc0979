package xds

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// adsStream is the part of a gRPC stream a session uses.
type adsStream interface {
	Send(*discoveryv3.DiscoveryRequest) error
	Recv() (*discoveryv3.DiscoveryResponse, error)
}

// session is one stream from its first request to its end. Only the goroutine of run touches it.
type session struct {
	source *Source
	emit   func(mesh.Input)

	stream adsStream
	node   *corev3.Node // nil once sent: the first request of a stream carries it
	subs   map[string]*subscription

	first   time.Time       // when the first response came
	missing map[string]bool // answers that hold a change back, until they come or their time is over
	changed time.Time       // when the oldest change not yet emitted came; zero for none
}

// subscription is what one type was asked for on this stream, and the newest answer to it.
type subscription struct {
	names          []string
	version, nonce string // version of the newest response taken, nonce of the newest received
}

type received struct {
	response *discoveryv3.DiscoveryResponse
	err      error
}

func (x *session) answered() bool { return !x.first.IsZero() }

// lived is how long ago the first response came, zero if none did.
func (x *session) lived() time.Duration {
	if !x.answered() {
		return 0
	}
	return time.Since(x.first)
}

// run opens a stream and follows it to its end. The error is never nil.
func (x *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var release func()
	var err error
	if x.node, err = x.source.node.proto(); err != nil {
		return err
	}
	if x.stream, release, err = x.source.open(ctx); err != nil {
		return err
	}
	defer release()
	if err := x.begin(); err != nil {
		return x.cause(err)
	}
	incoming := make(chan received)
	go receive(ctx, x.stream, incoming)

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var due <-chan time.Time
		if !x.changed.IsZero() {
			timer.Reset(time.Until(x.due()))
			due = timer.C
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m := <-incoming:
			if m.err != nil {
				return m.err
			}
			if err := x.take(m.response); err != nil {
				return x.cause(err)
			}
		case <-due:
			x.settle()
		}
	}
}

// receive hands over responses until the stream or ctx ends.
func receive(ctx context.Context, stream adsStream, to chan<- received) {
	for {
		r, err := stream.Recv()
		select {
		case to <- received{r, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// cause finds why a Send failed: gRPC says only EOF there and keeps the reason for Recv.
func (x *session) cause(sendErr error) error {
	for {
		if _, err := x.stream.Recv(); err != nil {
			return fmt.Errorf("%w (while sending: %w)", err, sendErr)
		}
	}
}

// begin asks for everything that is asked for by wildcard. A new stream is a fresh subscription: no
// version is carried over, each type is replaced when its first answer comes.
func (x *session) begin() error {
	x.subs = map[string]*subscription{}
	x.missing = maps.Clone(x.source.state.expected)
	for _, t := range []string{clusterType, listenerType, nameTableType} {
		if t == nameTableType && x.source.state.noNames {
			delete(x.missing, t)
			continue
		}
		if err := x.subscribe(t, nil); err != nil {
			return err
		}
	}
	return nil
}

// subscribe asks for names of one type (none: all), unless that is what was last asked for.
func (x *session) subscribe(typeURL string, names []string) error {
	sub := x.subs[typeURL]
	if sub != nil && slices.Equal(sub.names, names) {
		return nil
	}
	if sub == nil {
		sub = &subscription{}
		x.subs[typeURL] = sub
	}
	sub.names = names
	return x.request(typeURL, nil)
}

// request sends the subscription of one type with its newest version and nonce, which makes it the ACK
// of the newest response too, or its NACK when refusal is set.
func (x *session) request(typeURL string, refusal error) error {
	sub := x.subs[typeURL]
	r := &discoveryv3.DiscoveryRequest{
		TypeUrl: typeURL, ResourceNames: sub.names,
		VersionInfo: sub.version, ResponseNonce: sub.nonce, Node: x.node,
	}
	if refusal != nil {
		r.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: refusal.Error()}
	}
	if err := x.stream.Send(r); err != nil {
		return err
	}
	x.node = nil
	return nil
}

// take applies one response, acknowledges it, and asks for the endpoints of clusters that are new.
func (x *session) take(r *discoveryv3.DiscoveryResponse) error {
	sub := x.subs[r.TypeUrl]
	if sub == nil {
		return nil // never asked for: nothing to acknowledge
	}
	if !x.answered() {
		x.first = time.Now()
		x.source.log.Info("the control plane answers")
	}
	if x.changed.IsZero() {
		x.changed = time.Now()
	}
	st := x.source.state
	refusal := st.apply(r.TypeUrl, r.Resources)
	sub.nonce = r.Nonce
	if refusal == nil {
		sub.version = r.VersionInfo
	} else {
		x.source.log.Warn("refused a response of which nothing can be used", "type", r.TypeUrl, "version", r.VersionInfo, "error", refusal)
	}
	delete(x.missing, r.TypeUrl)
	if err := x.request(r.TypeUrl, refusal); err != nil {
		return err
	}
	switch r.TypeUrl {
	case clusterType:
		return x.followEndpoints()
	case endpointType:
		for name := range st.assignments {
			delete(x.missing, endpointKey(name))
		}
	}
	return nil
}

// followEndpoints subscribes to the endpoints the clusters of now name, and waits for those unknown.
func (x *session) followEndpoints() error {
	names := x.source.state.endpointNames()
	maps.DeleteFunc(x.missing, func(key string, _ bool) bool {
		name, isEndpoint := endpointName(key)
		return isEndpoint && !slices.Contains(names, name)
	})
	var asked []string
	if sub := x.subs[endpointType]; sub != nil {
		asked = sub.names
	} else if len(names) == 0 {
		return nil // an empty first subscription would mean "all"
	}
	for _, n := range names {
		if _, old := slices.BinarySearch(asked, n); !old && x.source.state.assignments[n] == nil {
			x.missing[endpointKey(n)] = true
		}
	}
	return x.subscribe(endpointType, names)
}

// due is when the changes so far are emitted: soon if nothing is missing, else when waiting is over.
func (x *session) due() time.Time {
	t, wait := x.source.timing, x.source.timing.coalesce
	for key := range x.missing {
		wait = max(wait, t.grace)
		if _, isEndpoint := endpointName(key); !isEndpoint && !x.source.state.seen[key] {
			wait = max(wait, t.patience)
		}
	}
	return x.changed.Add(wait)
}

// settle emits what is known. What is still missing is not waited for again, here or, if it is a type,
// on later streams.
func (x *session) settle() {
	st := x.source.state
	for key := range x.missing {
		if !st.seen[key] {
			delete(st.expected, key)
		}
	}
	clear(x.missing)
	x.changed = time.Time{}
	x.source.publish(st.input(), x.emit)
}
