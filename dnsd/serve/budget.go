package serve

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"
)

// A pod that floods is not worked off but left waiting: its sockets are not read for a while, their queues
// fill up, and what comes then the kernel throws away as it is sent, on the sender's time. That is far
// cheaper than to read it, and a server that sleeps now and then is given a processor at once when another
// pod asks, where one that never does must wait its turn among all that are busy.
//
// It is so only while others ask too: alone, a pod may have all there is.
const (
	// perProcessor is how many queries a second each processor allows one pod, on the average of a second.
	// It is a twelfth of what one can answer, and at the least there are two: a single pod then still has
	// as many as one replica of CoreDNS answers for a whole cluster.
	perProcessor = 5000
	// burst is for how long a pod that has asked little may ask at any rate, as measured by its budget.
	burst = time.Second
	// upstreamPrice is the work in a question that has to be asked upstream, in answers from the table: of the
	// processor, 35 µs to 7 when many come at once, 55 to 15 when each comes alone.
	upstreamPrice = 5
	// othersCount is how long another pod's query counts as its asking.
	othersCount = time.Second
	// breather is the least time a socket is not read: long enough to sleep, and far shorter than any
	// client waits.
	breather = 5 * time.Millisecond
)

// budget is what a pod may still ask. All its sockets share it.
type budget struct {
	price time.Duration // of an answer: the time in which the pod earns it
	// paidUntil is when, at the pod's rate, all would have been asked that has been: in the past for who
	// has something left.
	paidUntil atomic.Int64
}

// price is what an answer costs on this machine.
func price() time.Duration {
	return time.Second / time.Duration(perProcessor*max(2, runtime.GOMAXPROCS(0)))
}

// spend takes what it has cost to answer n queries and to have others, or some of those, asked upstream.
func (b *budget) spend(now time.Time, n, upstream int) {
	cost := int64(n+upstream*(upstreamPrice-1)) * int64(b.price)
	for {
		was := b.paidUntil.Load()
		if b.paidUntil.CompareAndSwap(was, max(was, now.Add(-burst).UnixNano())+cost) {
			return
		}
	}
}

// forgive takes the pod out of debt.
func (b *budget) forgive(now time.Time) {
	if was := b.paidUntil.Load(); was > now.UnixNano() {
		b.paidUntil.CompareAndSwap(was, now.UnixNano()) // if it has changed, that is for the next query to see
	}
}

// wait is how long the pod should not be read; 0 while it has something left.
func (b *budget) wait(now time.Time) time.Duration {
	debt := time.Duration(b.paidUntil.Load() - now.UnixNano())
	if debt <= 0 {
		return 0
	}
	return max(debt, breather)
}

// held notes that k's pod asks now, and returns how long it must wait for its turn.
func (k *socket) held(now time.Time) time.Duration {
	if !k.server.company.note(k.gate, now) {
		k.gate.budget.forgive(now)
		return 0
	}
	return k.gate.budget.wait(now)
}

// afford pays for a query that came over TCP, and waits until the pod can; false means that ctx has ended.
// The client feels a slow reader.
func (k *socket) afford(ctx context.Context) bool {
	now := time.Now()
	wait := k.held(now)
	k.gate.budget.spend(now, 1, 0)
	if wait == 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// company knows whether more than one pod asks.
type company struct {
	last  atomic.Pointer[gate]
	until atomic.Int64
}

// note says that g's pod asks now, and returns whether others do.
func (c *company) note(g *gate, now time.Time) bool {
	if last := c.last.Load(); last != g {
		c.last.Store(g)
		if last != nil {
			c.until.Store(now.Add(othersCount).UnixNano())
		}
	}
	return now.UnixNano() < c.until.Load()
}
