package upstream

import (
	"context"
	"net/netip"
)

// From says where the reply to a question came from.
type From uint8

const (
	// Asked means that a server was asked for it, by this question or by one it was merged with.
	Asked From = iota
	// Fresh means that it was remembered: an answer, that a name above does not exist, or a failure.
	Fresh
	// Stale means that it was remembered, and past its time.
	Stale
)

// Trace is where a reply came from.
type Trace struct {
	From From
	// Server is the one that gave it, if one was Asked and answered.
	Server netip.AddrPort
}

type traceKey struct{}

// WithTrace has Exchange write to t where its reply came from, before it returns.
func WithTrace(ctx context.Context, t *Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

// trace notes where the reply that ctx is for came from.
func trace(ctx context.Context, from From, server netip.AddrPort) {
	if t, ok := ctx.Value(traceKey{}).(*Trace); ok {
		*t = Trace{from, server}
	}
}
