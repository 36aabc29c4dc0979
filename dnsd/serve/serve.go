// Package serve answers DNS on the sockets it is given: from the table what the table knows, from the
// nameserver the client had asked everything else.
//
// Every socket belongs to one Client, so who asks is known without looking at the packet. A few goroutines
// wait for the sockets of all clients, and one reads each TCP connection. They answer on the spot what
// the table knows or upstream remembers, for plain questions without allocating anything. They send plain
// questions upstream, too, and hear the plain answers (see forward and upstream.Line); what takes more than that
// gets a goroutine of its own. A pod can have only so many of either. What is not a plain question of class IN
// (an update, a transfer, a signed query, no DNS at all) is handed on untouched.
package serve

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/dnsd/upstream"
)

const (
	// DefaultInFlight is how many questions of one pod may be on their way upstream at once. With
	// answers taking 2.4 s at worst, a pod that gets there asks some 100 unknown names a second while
	// its nameservers are down.
	DefaultInFlight = 256
	// maxConnections bounds the open TCP connections of one listener.
	maxConnections = 128
	// idle is how long a TCP connection may say nothing, or take to say it. RFC 7766 section 6.2.3 asks
	// for seconds; more would save a client on the same node next to nothing, while every connection
	// keeps its pod's network namespace in being.
	idle = 10 * time.Second
	// maxQuery is the longest query read from UDP. Plain ones stay below 300 bytes.
	maxQuery = 4096
	// ednsSize is the UDP size we announce (DNS flag day 2020).
	ednsSize = 1232
	// replySize is what a reply is written into: what clients announce as well. A longer one gets memory of
	// its own.
	replySize = ednsSize
	// headerSize is that of a DNS header.
	headerSize = 12
)

// asker is what is needed of upstream.Client.
type asker interface {
	Exchange(context.Context, upstream.Servers, *dns.Msg) (*dns.Msg, error)
	Forward(ctx context.Context, s upstream.Servers, network string, packet []byte) ([]byte, error)
}

// Options are the settings of a Server.
type Options struct {
	// Upstream asks the nameservers of the pods. Required.
	Upstream *upstream.Client
	// InFlight is how many questions of one pod may be on their way upstream at once; beyond it UDP
	// queries are dropped, so that the client asks again later, and TCP is read no further. 0 means
	// DefaultInFlight.
	InFlight int
	// Learn is told of each reply that follows from the table alone, if its client is an Asker; it must
	// not keep what it is given. nil means that nobody learns.
	Learn func(Learned)
}

// Client is who asks on a socket. It must not change while the socket is served.
type Client struct {
	names.Client
	// Pod is the pod's namespace/name; all sockets of one pod share its limit.
	Pod string
	// Nameserver is the one this socket stands for.
	Nameserver netip.AddrPort
	// Upstream is where its other questions go, the Nameserver first.
	Upstream upstream.Servers
	// LogEvery has one in so many of the pod's queries logged; 0 means none. It is that of the pod's first
	// socket.
	LogEvery int
	// Asker is the same for clients that the table gives the same answers; 0 if they are not to be learned.
	Asker uint64
}

// Server answers. Its methods are safe for concurrent use.
type Server struct {
	upstream asker
	memory   *upstream.Client // the same, by its own type, so that what it is given stays on the stack
	inFlight int
	table    atomic.Pointer[names.Table]
	teach    func(Learned)
	log      *Tap
	sources  atomic.Pointer[[]string] // of the table's names, as they were first met

	loops       loops
	company     company
	connections atomic.Int64

	retiring context.Context
	retire   context.CancelFunc
	pass     func(*Client, *net.TCPConn, []byte) // set before retiring is done

	mu    sync.Mutex
	gates map[string]*gate // by pod, while it has sockets
	past  past             // of the pods that had
	taps  []*Tap
}

// New makes a Server without a table: until Store, every question goes upstream.
func New(o Options) *Server {
	if o.InFlight == 0 {
		o.InFlight = DefaultInFlight
	}
	s := &Server{upstream: o.Upstream, memory: o.Upstream, inFlight: o.InFlight, teach: o.Learn, gates: map[string]*gate{},
		log: newTap("", 1), past: past{answers: map[string]*[maxSources][rcodes]uint64{}}}
	s.sources.Store(new([]string))
	s.retiring, s.retire = context.WithCancel(context.Background())
	return s
}

// Retire ends what every ServeUDP and ServeTCP began, at once and for good, in such a way that whoever serves
// the same sockets next goes on where they stopped: nothing more is read or accepted, and what has been is
// answered first. TCP connections are not closed: as soon as nothing is unanswered on one, pass gets it, to
// own, with what has been read of the next query. One that is not of the system's kind is closed. pass may be
// called by several goroutines at once, and is not called any more when all have ended. Retire is called once,
// and waits for nothing.
func (s *Server) Retire(pass func(c *Client, conn *net.TCPConn, early []byte)) {
	s.pass = pass
	s.retire()
}

// Store swaps the table in. Queries already being looked up finish with the old one.
func (s *Server) Store(t *names.Table) { s.table.Store(t) }

// Table returns the table in use, nil before the first.
func (s *Server) Table() *names.Table { return s.table.Load() }

// gate is a pod's share of the questions on their way upstream, and what is counted for it.
type gate struct {
	slots     chan struct{}
	budget    budget
	lessons   lessons
	namespace string
	logEvery  int
	counts    counters
	watches   atomic.Pointer[[]watch] // nil while nobody watches
	sockets   int                     // guarded by Server.mu, and so is:
	udp       map[*UDPSocket]struct{}
}

// socket is one that is served, UDP or TCP with all its connections, for one client.
type socket struct {
	server  *Server
	client  *Client
	gate    *gate
	network string
}

// enter counts a socket of c's in, until leave.
func (s *Server) enter(c *Client, network string) *socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gates[c.Pod]
	if g == nil {
		g = &gate{budget: budget{price: price()}, slots: make(chan struct{}, s.inFlight), namespace: c.Namespace, logEvery: c.LogEvery,
			udp: map[*UDPSocket]struct{}{}}
		s.gates[c.Pod] = g
		g.watch(s, c.Pod)
	}
	g.sockets++
	return &socket{server: s, client: c, gate: g, network: network}
}

func (s *Server) leave(k *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.gate.sockets--; k.gate.sockets == 0 {
		s.past.keep(k.gate.namespace, &k.gate.counts)
		delete(s.gates, k.client.Pod)
	}
}
