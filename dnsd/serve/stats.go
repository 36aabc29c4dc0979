package serve

import (
	"sync/atomic"

	"github.com/nodens-dns/nodens/dnsd/names"
)

// Stats is what a Server has counted since New. All but Connections only ever grow.
type Stats struct {
	// UDP and TCP are the messages that came in.
	UDP, TCP uint64
	// Answered and NoData were answered from the table alone, with and without records.
	Answered, NoData uint64
	// Completed were known to the table and answered with upstream's help; Forwarded were unknown to
	// it. Passed were handed on untouched.
	Completed, Forwarded, Passed uint64
	// Failed were answered SERVFAIL, or not at all, since no upstream had an answer.
	Failed uint64
	// Refused had a version of EDNS that nobody speaks yet.
	Refused uint64
	// Dropped were over the pod's limit; the client asks again. Connections over the limit count too.
	Dropped uint64
	// Malformed were too short to be DNS, or too long to be a query.
	Malformed uint64
	// Truncated were answered with the records that fit, and TC.
	Truncated uint64
	// Connections are the TCP connections open now.
	Connections int64
}

type counters struct {
	udp, tcp                     atomic.Uint64
	answered, noData             atomic.Uint64
	completed, forwarded, passed atomic.Uint64
	failed, refused, dropped     atomic.Uint64
	malformed, truncated         atomic.Uint64
	connections                  atomic.Int64
}

// Stats returns what has been counted.
func (s *Server) Stats() Stats {
	c := &s.counts
	return Stats{
		UDP: c.udp.Load(), TCP: c.tcp.Load(),
		Answered: c.answered.Load(), NoData: c.noData.Load(),
		Completed: c.completed.Load(), Forwarded: c.forwarded.Load(), Passed: c.passed.Load(),
		Failed: c.failed.Load(), Refused: c.refused.Load(), Dropped: c.dropped.Load(),
		Malformed: c.malformed.Load(), Truncated: c.truncated.Load(),
		Connections: c.connections.Load(),
	}
}

// own counts an answer that the table had by itself.
func (c *counters) own(a *names.Answer) {
	if a.Zone != "" {
		c.noData.Add(1)
	} else {
		c.answered.Add(1)
	}
}
