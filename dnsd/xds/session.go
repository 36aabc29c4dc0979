package xds

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// session is one gRPC stream from its first request to its end. Only the goroutine of run touches it.
type session struct {
	*stream
	speaks protocol
	delta  bool

	asked   map[string][]string // names, by type; nil for all of them
	begun   time.Time           // when the control plane was known to be there; zero before
	missing map[string]bool     // answers that hold a change back, until they come or their time is over
	changed time.Time           // when the oldest change not yet settled came; zero for none
	admit   func()              // lets the next stream open; may be called again
}

type received struct {
	update *update
	err    error
}

// lived is how long the control plane has been there, zero if it never was.
func (x *session) lived() time.Duration {
	if x.begun.IsZero() {
		return 0
	}
	return time.Since(x.begun)
}

// run opens a stream and follows it to its end. The error is never nil.
func (x *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var err error
	if x.admit, err = x.source.queue(ctx); err != nil {
		return err
	}
	defer x.admit()
	conn, err := x.source.wire.get(x.source.dial)
	if err != nil {
		return err
	}
	broken := true
	defer func() { x.source.wire.release(conn, broken) }()
	if err := x.open(ctx, conn); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if err = x.begin(); err != nil {
		err = cause(func() error {
			_, err := x.speaks.receive()
			return err
		}, err)
	} else {
		err = x.follow(ctx)
	}
	broken = status.Code(err) == codes.Unavailable
	return err
}

func (x *session) open(ctx context.Context, conn *connection) error {
	node, err := x.node.proto()
	if err != nil {
		return err
	}
	open := openSotw
	if x.delta = x.source.habits.delta(); x.delta {
		open = openDelta
	}
	x.speaks, err = open(ctx, conn, node, x.held)
	return err
}

// follow takes what comes until the stream ends.
func (x *session) follow(ctx context.Context) error {
	incoming := make(chan received)
	go receive(ctx, x.speaks, incoming)
	due := time.NewTimer(0)
	defer due.Stop()
	// A control plane that has nothing new to say to a client that resumes says nothing.
	quiet := time.NewTimer(x.source.timing.grace)
	defer quiet.Stop()
	for {
		var settle <-chan time.Time
		if !x.changed.IsZero() {
			due.Reset(time.Until(x.due()))
			settle = due.C
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m := <-incoming:
			if m.err != nil {
				return m.err
			}
			x.begins()
			if err := x.take(m.update); err != nil {
				return cause(func() error { // the stream has one receiver
					select {
					case m := <-incoming:
						return m.err
					case <-ctx.Done():
						return ctx.Err()
					}
				}, err)
			}
		case <-settle:
			x.settle(ctx)
		case <-quiet.C:
			if x.begun.IsZero() && x.spoken {
				x.begins()
				x.report(ctx, report{})
			}
			x.admit()
		}
	}
}

// receive hands over updates until the stream or ctx ends.
func receive(ctx context.Context, from protocol, to chan<- received) {
	for {
		u, err := from.receive()
		select {
		case to <- received{u, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// begins notes that the control plane is there.
func (x *session) begins() {
	if !x.begun.IsZero() {
		return
	}
	x.begun = time.Now()
	x.log.Info("the control plane answers", "protocol", protocolName(x.delta))
	x.connected(protocolName(x.delta))
}

func protocolName(delta bool) string {
	if delta {
		return "delta"
	}
	return "sotw"
}

// begin asks for everything that is asked for by wildcard, and for the endpoints that were asked for
// before.
func (x *session) begin() error {
	x.asked = map[string][]string{}
	x.missing = x.source.habits.expected()
	for _, t := range []string{clusterType, listenerType, nameTableType} {
		if t == nameTableType && x.source.habits.nameless() {
			delete(x.missing, t)
			continue
		}
		if err := x.subscribe(t, nil); err != nil {
			return err
		}
	}
	if len(x.state.endpointNames()) == 0 {
		return nil
	}
	return x.followEndpoints()
}

func (x *session) subscribe(typeURL string, names []string) error {
	x.asked[typeURL] = names
	return x.speaks.subscribe(typeURL, names)
}

// take applies one response, answers it, and asks for the endpoints of clusters that are new.
func (x *session) take(u *update) error {
	if _, asked := x.asked[u.typeURL]; !asked {
		return nil // nothing to acknowledge
	}
	if x.changed.IsZero() {
		x.changed = time.Now()
		x.unsettled.Store(true)
	}
	u.whole = x.speaks.whole(u.typeURL)
	refusal := x.state.apply(&x.source.pools, u)
	if refusal != nil {
		x.log.Warn("refused a response of which nothing can be used", "type", shortType(u.typeURL), "version", u.version, "error", refusal)
	}
	x.answered(u, refusal)
	delete(x.missing, u.typeURL)
	if err := x.speaks.answer(u, refusal); err != nil {
		return err
	}
	switch u.typeURL {
	case clusterType:
		return x.followEndpoints()
	case endpointType:
		for name := range x.state.endpoints {
			delete(x.missing, endpointKey(name))
		}
	}
	return nil
}

// followEndpoints subscribes to the endpoints the clusters of now name, and waits for those unknown.
func (x *session) followEndpoints() error {
	names := x.state.endpointNames()
	maps.DeleteFunc(x.missing, func(key string, _ bool) bool {
		name, isEndpoint := endpointName(key)
		_, wanted := slices.BinarySearch(names, name)
		return isEndpoint && !wanted
	})
	asked, again := x.asked[endpointType]
	if !again && len(names) == 0 {
		return nil // an empty first subscription would mean "all"
	}
	unknown := false
	for _, n := range names {
		if x.state.endpoints[n] == nil {
			unknown = true
			if _, old := slices.BinarySearch(asked, n); !old {
				x.missing[endpointKey(n)] = true
			}
		}
	}
	if again && slices.Equal(asked, names) {
		return nil
	}
	if !again && unknown {
		delete(x.held.whole, endpointType) // of other names than these
	}
	return x.subscribe(endpointType, names)
}

func endpointKey(name string) string { return "endpoints of " + name }

func endpointName(key string) (name string, ok bool) { return strings.CutPrefix(key, "endpoints of ") }

// due is when the changes so far are settled: soon if nothing is missing, else when waiting is over.
func (x *session) due() time.Time {
	t, wait := x.source.timing, x.source.timing.coalesce
	for key := range x.missing {
		wait = max(wait, t.grace)
		if _, isEndpoint := endpointName(key); !isEndpoint && !x.seen[key] {
			wait = max(wait, t.patience)
		}
	}
	return x.changed.Add(wait)
}

// settle hands over what is known. What is still missing is not waited for again, here or, if it is a
// type this control plane does not send, on later streams.
func (x *session) settle(ctx context.Context) {
	for key := range x.missing {
		if _, isEndpoint := endpointName(key); !isEndpoint && !x.seen[key] {
			x.source.habits.silence(key)
		}
	}
	clear(x.missing)
	x.changed = time.Time{}
	x.spoken = true
	x.admit()
	snapshot := x.state
	snapshot.crossings = newView(x.namespace, &x.state, nil).compare()
	x.report(ctx, report{said: &snapshot})
}
