// Package xds learns the mesh from a control plane that speaks ADS, and says it in mesh words.
//
// A stream carries four kinds of resources: clusters (CDS), their endpoints (EDS), listeners (LDS) and
// Istio's name table (NDS). The name table says which addresses a host has, a cluster's name says which
// port of which host it serves, and a listener with a plain TCP proxy overrides both. A control plane
// without a name table is served from its listeners alone.
//
// What a control plane says depends on the namespace it is asked for, so each namespace with pods here
// has a stream of its own. All of them make one input: what they agree on is said once, for everybody,
// the rest to those it was meant for.
//
// A resource that cannot be used is left out and reported, never the whole push. What was said last
// stays while the control plane is away.
package xds

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// sourceName is what inputs and problems of this package are signed with.
const sourceName = "xds"

// opening bounds how many streams wait for their first answers at once, each of them a whole mesh.
const opening = 4

// Options say which control plane to ask and as whom.
type Options struct {
	// Address is the host:port of an ADS server.
	Address string
	// TLS is nil for a server that speaks plain text.
	TLS *TLS
	// TokenFile holds a bearer token; empty means none. It needs TLS.
	TokenFile string
	// Namespace, if set, is the one whose view everybody gets, and Follow changes nothing.
	Namespace string
	// Node is who the control plane is told it talks to, for a namespace; it decides which view of the
	// mesh is sent.
	Node func(namespace string) Node
	// Log takes changes of state: connected, lost, refused. Nil means nobody listens.
	Log *slog.Logger
}

// Source is an ADS client. Run it once.
type Source struct {
	options Options
	log     *slog.Logger
	timing  timing

	pools   pools
	wire    wire
	habits  habits
	reports chan report
	places  chan struct{} // see opening
	ring    chan struct{} // holds one: wanted has changed

	mu      sync.Mutex // guards what follows
	wanted  []string
	streams []*stream // as they are now, for Streams
}

// timing is every duration of the client, so that tests need not wait for them.
type timing struct {
	// coalesce is how long after a change the rest of a push is waited for, within a stream and among
	// several.
	coalesce time.Duration
	// grace is how long an answer that is still missing holds a change back.
	grace time.Duration
	// patience is the same for a type that was never seen: an input without the name table, sent
	// because a large control plane was slow, would take every name away. And at the start it is how
	// long the first stream to be heard waits for the others.
	patience time.Duration
	// linger is how long a stream outlives the last pod of its namespace.
	linger time.Duration
	// retryMin and retryMax bound the pause between sessions; after one that worked for steady it starts
	// over at retryMin.
	retryMin, retryMax, steady time.Duration
}

// New returns a source that is not yet connected.
func New(o Options) *Source {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Source{
		options: o, log: log.With("source", sourceName, "address", o.Address),
		reports: make(chan report), places: make(chan struct{}, opening), ring: make(chan struct{}, 1),
		timing: timing{
			coalesce: 30 * time.Millisecond,
			grace:    time.Second,
			patience: 5 * time.Second,
			linger:   30 * time.Second,
			retryMin: 500 * time.Millisecond,
			retryMax: 30 * time.Second,
			steady:   30 * time.Second,
		},
	}
	if o.Namespace != "" {
		s.want([]string{o.Namespace})
	}
	return s
}

// Follow says which namespaces have pods here. Streams are opened for those that are new, and closed a
// while after those that are gone. It does not block, and may be called before Run and beside it.
func (s *Source) Follow(namespaces []string) {
	if s.options.Namespace == "" {
		s.want(namespaces)
	}
}

func (s *Source) want(namespaces []string) {
	var wanted []string
	for _, ns := range namespaces {
		wanted = append(wanted, cmp.Or(ns, "default")) // a pod that Kubernetes knows nothing of
	}
	slices.Sort(wanted)
	s.mu.Lock()
	s.wanted = slices.Compact(wanted)
	s.mu.Unlock()
	select {
	case s.ring <- struct{}{}:
	default: // it is ringing already
	}
}

// Streams returns the state of each stream, sorted by namespace.
func (s *Source) Streams() []Stream {
	s.mu.Lock()
	streams := s.streams
	s.mu.Unlock()
	var shown []Stream
	for _, st := range streams {
		shown = append(shown, st.show())
	}
	return shown
}

// Run keeps the streams and calls emit with everything they say together, after each change, until ctx
// is done; then it returns nil. Nothing is emitted before the control plane has spoken, so whoever
// remembers an older input may go on with it. emit may block; the inputs are not touched again.
func (s *Source) Run(ctx context.Context, emit func(mesh.Input)) error {
	c := &choir{source: s, emit: emit, members: map[string]*member{}}
	defer c.running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var due <-chan time.Time
		if next := c.act(time.Now()); !next.IsZero() {
			timer.Reset(time.Until(next))
			due = timer.C
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.ring:
			c.follow(ctx)
		case r := <-s.reports:
			c.hear(r)
		case <-due:
		}
	}
}

// queue waits for a place among those that open; leave gives it up and may be called again.
func (s *Source) queue(ctx context.Context) (leave func(), err error) {
	select {
	case s.places <- struct{}{}:
		return sync.OnceFunc(func() { <-s.places }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// remedy says what may be done about an error that does not go away by itself.
func (s *Source) remedy(err error) string {
	switch status.Code(err) {
	case codes.PermissionDenied:
		if s.options.Namespace == "" {
			return "a control plane that checks identities lets one speak for its own namespace only: set xds.namespace to that of the token or certificate, or turn the check off (istiod: PILOT_ENABLE_XDS_IDENTITY_CHECK=false)"
		}
		return "is xds.namespace that of the token or certificate?"
	case codes.Unauthenticated:
		return "it wants a token or certificate it knows: see xds.tokenFile (istiod: a service account token for the audience istio-ca) and xds.tls"
	}
	return ""
}
