package upstream

import "net/netip"

// Stats is what a Client has counted since it was made. All but the sizes only ever grow.
type Stats struct {
	// Questions answered from memory while fresh, answered from it past their time, asked of servers,
	// and joined to one already being asked.
	Hits, Stale, Misses, Merged uint64
	// Cut counts questions answered because a name above the one asked for does not exist (RFC 8020).
	Cut uint64
	// Remembered counts failures answered from memory (RFC 9520), Background questions asked while the
	// client already had an answer, Busy those turned away with ErrBusy, Forwarded packets passed
	// through.
	Remembered, Background, Busy, Forwarded uint64
	// Loops counts questions and packets of our own that came back to us.
	Loops uint64
	// Entries and Bytes are the cache's present size, Evicted how many entries had to make room.
	Entries, Bytes int
	Evicted        uint64
	// Servers is sorted by address; the scopes are taken together.
	Servers []ServerStats
}

// ServerStats is what is known of one server.
type ServerStats struct {
	Addr netip.AddrPort
	// Queries sent, and how many of them ended without a usable answer in time (Failures) or in an
	// rcode that made us ask another server (Refusals).
	Queries, Failures, Refusals uint64
	// Error is how the last query failed, if it did and the server has not answered since.
	Error string
	// RTT is how long the answers took that came.
	RTT Histogram
	// Mismatched counts replies thrown away because they did not fit the question: a late reply, or
	// somebody guessing.
	Mismatched uint64
	// Down says that the server has answered nobody since it fell silent, and that whoever found that out
	// asks it last at present.
	Down bool
}

// Stats returns what has been counted since New. It is a copy of the moment, without order among the
// numbers.
func (c *Client) Stats() Stats {
	s := Stats{
		Hits:       c.counts.hits.Load(),
		Cut:        c.counts.cut.Load(),
		Stale:      c.counts.stale.Load(),
		Misses:     c.counts.misses.Load(),
		Merged:     c.counts.merged.Load(),
		Remembered: c.counts.remembered.Load(),
		Background: c.counts.background.Load(),
		Busy:       c.counts.busy.Load(),
		Forwarded:  c.counts.forwarded.Load(),
		Loops:      c.counts.loops.Load(),
		Servers:    c.health.stats(),
	}
	c.cache.mu.Lock()
	defer c.cache.mu.Unlock()
	s.Entries, s.Bytes, s.Evicted = len(c.cache.entries), c.cache.bytes, c.cache.evicted
	return s
}
