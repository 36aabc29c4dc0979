// Package upstream asks other nameservers, and remembers what they said.
//
// A question is asked of a list of servers that are held to know the same things. The first that can be
// reached answers it; a server that has stopped answering is asked last until it answers again. What was
// learnt is kept per list of servers, so that clients with different nameservers never see each other's
// answers, and is served past its time when no server answers (RFC 8767).
//
// The package knows nothing of pods: which network namespace a query leaves from, and which mark its
// socket carries, is the Dialer's business.
package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

)

// How long a question may take. A stub resolver asks again after 2.5 s (musl) or 5 s (glibc), and an
// answer that comes later than that helps nobody.
const (
	firstTry   = time.Second            // for the first server, before another is asked beside it
	nextTry    = 700 * time.Millisecond // for each one after it
	staleAfter = 1800 * time.Millisecond
	budget     = 2400 * time.Millisecond
	// rawBudget is for packets passed through untouched: a dynamic update may rightly take longer, and
	// whoever sends one waits longer.
	rawBudget = 5 * time.Second
)

// ErrBusy says that too many questions are being asked at once. It says nothing about the name: the
// query is better dropped than answered.
var ErrBusy = errors.New("too many questions in flight")

// A Dialer opens the sockets that questions leave from. It is called with "udp" or "tcp" and the
// server's address and port, and must give a connected socket with a port of its own each time. It must
// be safe for concurrent use.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Servers says whom to ask, and from where.
type Servers struct {
	// Dial opens the sockets; nil means a plain net.Dialer, in the namespace dnsd itself runs in.
	Dial Dialer
	// Addrs are the servers in the order of preference: the first is the one that was asked for. It is
	// only read, and must not change during a call.
	Addrs []netip.AddrPort
	// Scope separates clients for whom the same servers may have different answers: only questions of
	// one Scope and the same Addrs share answers and the memory of who is down.
	Scope string
	// TCP asks over TCP from the start.
	TCP bool
}

// Options are the settings of a Client. The zero value is ready to use.
type Options struct {
	// CacheBytes bounds the memory that remembered answers take, in bytes; 0 means DefaultCacheBytes.
	CacheBytes int
}

// DefaultCacheBytes holds some 60,000 answers.
const DefaultCacheBytes = 16 << 20

// Client asks, and remembers. It is safe for concurrent use and starts no goroutine that outlives the
// question it is for by more than 2.4 s.
type Client struct {
	cache  *cache
	health *health
	counts counters
}

// New makes a Client that remembers nothing yet.
func New(o Options) *Client {
	if o.CacheBytes == 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	return &Client{cache: newCache(o.CacheBytes), health: newHealth()}
}
