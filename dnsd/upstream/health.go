package upstream

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// downAfter is how many tries in a row must pass in silence before a server counts as down. One
	// may be a lost packet, or a name whose own servers are slow.
	downAfter = 2
	// A server that is down is asked again, beside one that is not, after the first of these, and
	// then after twice as long each time, up to the last.
	probeFirst = time.Second
	probeLast  = 30 * time.Second
	// Of servers nobody asked for this long nothing is remembered but the counts, and those only while
	// there are not more than so many: pods may name nameservers as they like, and come and go.
	forgetAfter = 10 * time.Minute
	maxCounted  = 128
)

// health remembers which servers answer. Reaching one depends on where the question comes from, and what a
// NetworkPolicy keeps from one pod is no outage for the next: this is kept per Dialer. The counts are not.
type health struct {
	mu      sync.Mutex
	servers map[place]*server
	counts  map[netip.AddrPort]*ServerStats
	swept   time.Time
}

// place is a server as one Dialer sees it.
type place struct {
	scope string
	from  Dialer
	addr  netip.AddrPort
}

type server struct {
	used     time.Time
	answered time.Time
	since    time.Time     // when the first of the following was over
	silent   int           // tries in a row without an answer
	probe    time.Time     // when down: not asked beside others before
	wait     time.Duration // when down: between probes
}

func (s *server) down() bool { return s.silent >= downAfter }

func newHealth() *health {
	return &health{servers: make(map[place]*server), counts: make(map[netip.AddrPort]*ServerStats)}
}

// order returns the servers to ask, each once, those that are down last; and one to probe beside them,
// if there is one that is down and due while another is not.
func (h *health) order(s Servers, now time.Time) (order []netip.AddrPort, probe netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sweep(now)
	var down []netip.AddrPort
	for _, addr := range s.Addrs {
		switch at := h.at(s, addr, now); {
		case slices.Contains(order, addr) || slices.Contains(down, addr):
		case at.down():
			down = append(down, addr)
		default:
			order = append(order, addr)
		}
	}
	if len(order) == 0 {
		return down, probe
	}
	for _, addr := range down {
		if at := h.at(s, addr, now); !at.probe.After(now) {
			at.wait = min(2*at.wait, probeLast)
			at.probe = now.Add(at.wait)
			probe = addr
			break
		}
	}
	return append(order, down...), probe
}

// well says that none of the servers is down, so that the first is the one to ask and nothing else is to do.
func (h *health) well(s Servers, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sweep(now)
	return !slices.ContainsFunc(s.Addrs, func(addr netip.AddrPort) bool { return h.at(s, addr, now).down() })
}

// due returns a server of s to probe if none of them answers at present, at most once in probeFirst each:
// the questions that failed are not asked for some seconds, and the server may be back before.
func (h *health) due(s Servers, now time.Time) (probe netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, addr := range s.Addrs {
		switch at := h.at(s, addr, now); {
		case !at.down():
			return netip.AddrPort{}
		case !probe.IsValid() && !at.probe.After(now):
			probe = addr
		}
	}
	if probe.IsValid() {
		h.at(s, probe, now).probe = now.Add(probeFirst)
	}
	return probe
}

// silent notes that a server has not answered a try for too long. If it answered anybody since the try
// began, the name is slow and not the server.
func (h *health) silent(s Servers, addr netip.AddrPort, began time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	at := h.at(s, addr, now)
	if at.answered.After(began) {
		return
	}
	if at.silent == 0 {
		at.since = now
	}
	if at.silent++; at.silent == downAfter {
		at.wait = probeFirst
		at.probe = now.Add(probeFirst)
	}
}

// answered notes a reply that came now, or was held since then, and says whether the server had been down and
// is back. It is not if all it has to say is that it failed: in a circle of nameservers that is what we remember
// ourselves.
func (h *health) answered(s Servers, addr netip.AddrPort, asked, now time.Time, rcode int) (back bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.count(addr)
	n.RTT.add(now.Sub(asked))
	n.Error = ""
	at := h.at(s, addr, now)
	if at.down() && rcode == dns.RcodeServerFailure {
		return false
	}
	back = at.down()
	at.silent = 0
	if now.After(at.answered) {
		at.answered = now
	}
	return back
}

func (h *health) asked(addr netip.AddrPort)   { h.add(addr, func(n *ServerStats) { n.Queries++ }) }
func (h *health) refused(addr netip.AddrPort) { h.add(addr, func(n *ServerStats) { n.Refusals++ }) }

func (h *health) failed(addr netip.AddrPort, err error) {
	h.add(addr, func(n *ServerStats) {
		n.Failures++
		n.Error = err.Error()
	})
}

func (h *health) mismatched(addr netip.AddrPort, times int) {
	h.add(addr, func(n *ServerStats) { n.Mismatched += uint64(times) })
}

func (h *health) add(addr netip.AddrPort, to func(*ServerStats)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	to(h.count(addr))
}

// stats returns the counts of all servers, sorted.
func (h *health) stats() []ServerStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	answered := make(map[netip.AddrPort]time.Time)
	for at, s := range h.servers {
		if s.answered.After(answered[at.addr]) {
			answered[at.addr] = s.answered
		}
	}
	down := make(map[netip.AddrPort]bool)
	for at, s := range h.servers {
		down[at.addr] = down[at.addr] || s.down() && s.since.After(answered[at.addr])
	}
	all := make([]ServerStats, 0, len(h.counts))
	for addr, n := range h.counts {
		one := *n
		one.Down = down[addr]
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b ServerStats) int { return a.Addr.Compare(b.Addr) })
	return all
}

func (h *health) at(s Servers, addr netip.AddrPort, now time.Time) *server {
	p := place{s.Scope, sole(s.Dial), addr}
	at := h.servers[p]
	if at == nil {
		at = new(server)
		h.servers[p] = at
	}
	at.used = now
	return at
}

func (h *health) count(addr netip.AddrPort) *ServerStats {
	n := h.counts[addr]
	if n == nil {
		n = &ServerStats{Addr: addr}
		h.counts[addr] = n
	}
	return n
}

// sweep forgets the servers of pods that are gone.
func (h *health) sweep(now time.Time) {
	if now.Sub(h.swept) < forgetAfter {
		return
	}
	h.swept = now
	for at, s := range h.servers {
		if now.Sub(s.used) > forgetAfter {
			delete(h.servers, at)
		}
	}
	if len(h.counts) <= maxCounted {
		return
	}
	inUse := make(map[netip.AddrPort]bool, len(h.servers))
	for at := range h.servers {
		inUse[at.addr] = true
	}
	for addr := range h.counts {
		if !inUse[addr] {
			delete(h.counts, addr)
		}
	}
}
