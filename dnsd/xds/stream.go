package xds

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Stream is the state of one namespace's stream.
type Stream struct {
	Namespace string
	// Protocol is "delta" or "sotw" (state of the world); empty before the first connection.
	Protocol string
	// Connected is since when; zero while it is not.
	Connected time.Time
	// Versions are what the control plane calls the newest of each type taken: cds, eds, lds, nds.
	Versions map[string]string
	// Error is why the last stream ended or a response was refused; empty when all is well again.
	Error string
}

// stream keeps one namespace's part of the mesh, over as many sessions as it takes.
type stream struct {
	source    *Source
	namespace string
	node      Node
	log       *slog.Logger

	// Owned by run.
	state  state
	held   *held
	seen   map[string]bool // types that were answered at least once
	spoken bool            // something was settled

	unsettled atomic.Bool // something came that is not yet reported

	mu     sync.Mutex // guards status
	status Stream
}

// report is what a stream tells its source.
type report struct {
	from *stream
	said *state // a snapshot; nil if nothing is new
	lost error  // nil while connected
}

func (s *Source) newStream(namespace string) *stream {
	return &stream{
		source: s, namespace: namespace, node: s.options.Node(namespace), log: s.log.With("namespace", namespace),
		held: newHeld(), seen: map[string]bool{}, status: Stream{Namespace: namespace},
	}
}

// run opens one session after the other until ctx is done.
func (s *stream) run(ctx context.Context) {
	pause := retry{timing: s.source.timing}
	for {
		x := &session{stream: s}
		err := x.run(ctx)
		if ctx.Err() != nil {
			return
		}
		if s.source.habits.learn(err, x.delta, !x.begun.IsZero(), s.seen[nameTableType]) {
			s.log.Info("the control plane does not know all that was asked; asking for less", "error", err)
			continue
		}
		if hint := s.source.remedy(err); hint != "" {
			err = fmt.Errorf("%w (%s)", err, hint)
		}
		wait := pause.next(x.lived())
		s.log.Warn("stream to the control plane ended; keeping what it last said", "error", err, "retry", wait)
		s.ended(err)
		s.report(ctx, report{lost: err})
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (s *stream) report(ctx context.Context, r report) {
	r.from = s
	select {
	case s.source.reports <- r:
	case <-ctx.Done():
	}
}

func (s *stream) connected(protocol string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Protocol, s.status.Connected, s.status.Error = protocol, time.Now(), ""
}

func (s *stream) ended(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Connected, s.status.Error = time.Time{}, err.Error()
}

// answered notes a response.
func (s *stream) answered(u *update, refusal error) {
	s.seen[u.typeURL] = true
	s.source.habits.heard(u.typeURL)
	s.mu.Lock()
	defer s.mu.Unlock()
	if refusal != nil {
		s.status.Error = fmt.Sprintf("refused %s %s: %v", shortType(u.typeURL), u.version, refusal)
		return
	}
	s.status.Error = ""
	versions := maps.Clone(s.status.Versions)
	if versions == nil {
		versions = map[string]string{}
	}
	versions[shortType(u.typeURL)] = u.version
	s.status.Versions = versions
}

func (s *stream) show() Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

func shortType(url string) string {
	switch url {
	case clusterType:
		return "cds"
	case endpointType:
		return "eds"
	case listenerType:
		return "lds"
	case nameTableType:
		return "nds"
	}
	return url
}

// habits are what is known of the control plane itself, whichever stream found out.
type habits struct {
	mu      sync.Mutex
	sotw    bool            // it does not speak delta
	noNames bool            // it does not know the name table: do not ask for it
	silent  map[string]bool // types it was asked for and never sent
}

// learn looks at why a session ended, whether any type was answered in it and whether the name table ever
// was. It returns true if another one should be opened at once, since it would ask otherwise.
//
// Delta is asked for first: after the first time it sends only what changed, which in a large mesh is a
// thousandth of the whole, once for every namespace. A control plane that went away may come back as one
// that knows more.
func (h *habits) learn(err error, delta, answered, names bool) (again bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	code := status.Code(err)
	rejected := code == codes.InvalidArgument || code == codes.NotFound || code == codes.Unknown || code == codes.Unimplemented
	switch {
	case code == codes.Unavailable:
		h.sotw, h.noNames = false, false
	case delta && !answered && code == codes.Unimplemented:
		h.sotw, again = true, true
	case rejected && !names && !h.noNames:
		h.noNames, again = true, true
	case rejected && delta && !answered:
		h.sotw, h.noNames, again = true, false, true
	}
	return again
}

func (h *habits) delta() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.sotw
}

func (h *habits) nameless() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.noNames
}

func (h *habits) heard(typeURL string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.silent, typeURL)
}

func (h *habits) silence(typeURL string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.silent == nil {
		h.silent = map[string]bool{}
	}
	h.silent[typeURL] = true
}

// expected are the types a new stream waits for.
func (h *habits) expected() map[string]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	types := map[string]bool{}
	for _, t := range []string{clusterType, listenerType, nameTableType} {
		if !h.silent[t] {
			types[t] = true
		}
	}
	return types
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
