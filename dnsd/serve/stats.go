package serve

import (
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/dnsd/upstream"
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
	// Busy were not asked upstream, for too many others of all pods were; the client asks again.
	Busy uint64
	// Overflowed came while the pod's socket was full, so that the kernel threw them away; what came there
	// from outside the pod is counted, too.
	Overflowed uint64
	// Malformed were too short to be DNS, or too long to be a query.
	Malformed uint64
	// Truncated were answered with the records that fit, and TC.
	Truncated uint64
	// Connections are the TCP connections open now.
	Connections int64
	// Unlogged are the queries that the standing log of their pod lost: its lines were not read in time.
	Unlogged uint64
	// Waited says how long questions took that had to be asked upstream.
	Waited upstream.Histogram
	// Answers says who answered whom, and what.
	Answers []AnswerCount
}

// AnswerCount counts the queries of a namespace's pods by where the answer came from.
type AnswerCount struct {
	// Namespace is the pods', empty for those that have none, or OtherNamespaces.
	Namespace string
	// Source is that of the mesh whose object the name is of, or else: "special" for names that nobody is
	// asked for, "cache", "stale", "upstream", "passed", "failed" where no upstream answered, "dropped",
	// "busy", "malformed".
	Source string
	// Rcode is the mnemonic of the reply's, "other" for one that is not in RFC 1035, "none" for no reply.
	Rcode   string
	Queries uint64
}

const (
	// maxPast is of how many namespaces the counts are kept when their last pod here is gone, so that the
	// names of those that come and go do not add up.
	maxPast = 256
	// OtherNamespaces stands for all beyond that.
	OtherNamespaces = "(others)"
)

// source is where an answer came from, as it is counted.
type source uint8

const (
	special source = iota // and whatever else needs nobody: an unknown version of EDNS
	cached
	stale
	asked
	passed
	failed
	dropped
	busy
	malformed
	firstOfTable // and from here on the table's sources, by their place in Server.sources
	maxSources   = firstOfTable + 6
)

var sourceNames = [firstOfTable]string{"special", "cache", "stale", "upstream", "passed", "failed", "dropped", "busy", "malformed"}

// What an rcode is counted as: itself up to REFUSED, which stubs know, or one of these.
const (
	otherRcode = dns.RcodeRefused + 1 + iota
	noReply
	rcodes
)

func rcodeName(i int) string {
	switch i {
	case otherRcode:
		return "other"
	case noReply:
		return "none"
	}
	return dns.RcodeToString[i]
}

// counters are one pod's. They are its own, so that pods on different processors do not wait for each
// other to count; whoever wants to know adds them up.
type counters struct {
	udp, tcp                     atomic.Uint64
	answered, noData             atomic.Uint64
	completed, forwarded, passed atomic.Uint64
	failed, refused              atomic.Uint64
	dropped, busy                atomic.Uint64
	malformed, truncated         atomic.Uint64
	waited                       waits
	answers                      [maxSources][rcodes]atomic.Uint64
}

// waits is an upstream.Histogram that is being written.
type waits struct {
	counts [len(upstream.Histogram{}.Counts)]atomic.Uint64
	sum    atomic.Int64
}

func (w *waits) add(d time.Duration) {
	w.counts[upstream.Bucket(d)].Add(1)
	w.sum.Add(int64(d))
}

func (w *waits) addTo(h *upstream.Histogram) {
	for i := range w.counts {
		h.Counts[i] += w.counts[i].Load()
	}
	h.Sum += time.Duration(w.sum.Load())
}

// own counts an answer that the table had by itself.
func (c *counters) own(a *names.Answer) {
	if a.Zone != "" {
		c.noData.Add(1)
	} else {
		c.answered.Add(1)
	}
}

// verdict counts v.
func (c *counters) verdict(v *verdict) {
	i := v.rcode
	switch {
	case i < 0:
		i = noReply
	case i > dns.RcodeRefused:
		i = otherRcode
	}
	c.answers[v.source][i].Add(1)
}

// addTo adds c to s, and its answers to those of its namespace.
func (c *counters) addTo(s *Stats, answers *[maxSources][rcodes]uint64) {
	for _, n := range []struct {
		to   *uint64
		from *atomic.Uint64
	}{
		{&s.UDP, &c.udp}, {&s.TCP, &c.tcp}, {&s.Answered, &c.answered}, {&s.NoData, &c.noData},
		{&s.Completed, &c.completed}, {&s.Forwarded, &c.forwarded}, {&s.Passed, &c.passed},
		{&s.Failed, &c.failed}, {&s.Refused, &c.refused}, {&s.Dropped, &c.dropped}, {&s.Busy, &c.busy},
		{&s.Malformed, &c.malformed}, {&s.Truncated, &c.truncated},
	} {
		*n.to += n.from.Load()
	}
	c.waited.addTo(&s.Waited)
	for i := range c.answers {
		for j := range c.answers[i] {
			answers[i][j] += c.answers[i][j].Load()
		}
	}
}

// past is what was counted for pods that are gone.
type past struct {
	stats   Stats
	answers map[string]*[maxSources][rcodes]uint64 // by namespace
}

// keep adds the counters of a pod that goes.
func (p *past) keep(namespace string, c *counters) {
	if p.answers[namespace] == nil {
		if len(p.answers) >= maxPast {
			namespace = OtherNamespaces
		}
		if p.answers[namespace] == nil {
			p.answers[namespace] = new([maxSources][rcodes]uint64)
		}
	}
	c.addTo(&p.stats, p.answers[namespace])
}

// Stats returns what has been counted: a copy of the moment, without order among the numbers.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := s.past.stats
	total.Connections = s.connections.Load()
	total.Unlogged = s.log.Lost()
	answers := make(map[string]*[maxSources][rcodes]uint64, len(s.past.answers))
	for namespace, n := range s.past.answers {
		answers[namespace] = new(*n)
	}
	for _, g := range s.gates {
		if answers[g.namespace] == nil {
			answers[g.namespace] = new([maxSources][rcodes]uint64)
		}
		g.counts.addTo(&total, answers[g.namespace])
		for u := range g.udp {
			total.Overflowed += u.Lost()
		}
	}
	for namespace, n := range answers {
		for i := range n {
			for j, queries := range n[i] {
				if queries > 0 {
					total.Answers = append(total.Answers, AnswerCount{namespace, s.sourceName(source(i)), rcodeName(j), queries})
				}
			}
		}
	}
	return total
}

// sourceOf is what an answer of the table counts as. The sources are few and always the same ones, so that
// a walk past them finds it in no time.
func (s *Server) sourceOf(row *names.Row) source {
	if row == nil {
		return special
	}
	known := *s.sources.Load()
	for i, name := range known {
		if name == row.Source {
			return firstOfTable + source(i)
		}
	}
	return s.learn(row.Source)
}

// learn gives a source of the table its place. There are not more than have a place: who adds one to
// dnsd finds that here.
func (s *Server) learn(name string) source {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := *s.sources.Load()
	for i := range known {
		if known[i] == name {
			return firstOfTable + source(i)
		}
	}
	if firstOfTable+source(len(known)) == maxSources {
		return special
	}
	s.sources.Store(new(append(known[:len(known):len(known)], name)))
	return firstOfTable + source(len(known))
}

func (s *Server) sourceName(i source) string {
	if i < firstOfTable {
		return sourceNames[i]
	}
	return (*s.sources.Load())[i-firstOfTable]
}
