package serve

import (
	"sync/atomic"
	"time"
)

// bounds are the upper ends of a Histogram's buckets, in steps that tell a nameserver next door from one
// across the world, and both from the timeouts of upstream and of stub resolvers.
var bounds = [...]time.Duration{
	250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2500 * time.Millisecond,
}

// Histogram counts durations.
type Histogram struct {
	// Counts are those of each bucket alone; the last one has no upper end.
	Counts [len(bounds) + 1]uint64
	Sum    time.Duration
}

// Total is how many durations were counted.
func (h *Histogram) Total() (n uint64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Buckets returns how many durations were up to each upper end, in seconds.
func (h *Histogram) Buckets() map[float64]uint64 {
	buckets, n := make(map[float64]uint64, len(bounds)), uint64(0)
	for i, end := range bounds {
		n += h.Counts[i]
		buckets[end.Seconds()] = n
	}
	return buckets
}

// histogram is a Histogram that is being written.
type histogram struct {
	counts [len(bounds) + 1]atomic.Uint64
	sum    atomic.Int64
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) addTo(to *Histogram) {
	for i := range h.counts {
		to.Counts[i] += h.counts[i].Load()
	}
	to.Sum += time.Duration(h.sum.Load())
}
