package upstream

import "time"

// bounds are the upper ends of a Histogram's buckets, in steps that tell a nameserver next door from one
// across the world, and both from the timeouts of ours and of stub resolvers.
var bounds = [...]time.Duration{
	250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2500 * time.Millisecond,
}

// Histogram counts how long answers took.
type Histogram struct {
	// Counts are those of each bucket alone, by their Bucket; the last one has no upper end.
	Counts [len(bounds) + 1]uint64
	Sum    time.Duration
}

// Bucket is the place of d among the Counts of a Histogram.
func Bucket(d time.Duration) int {
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	return i
}

func (h *Histogram) add(d time.Duration) {
	h.Counts[Bucket(d)]++
	h.Sum += d
}

// Total is how many were counted.
func (h *Histogram) Total() (n uint64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Buckets returns how many took up to each upper end, in seconds.
func (h *Histogram) Buckets() map[float64]uint64 {
	buckets, n := make(map[float64]uint64, len(bounds)), uint64(0)
	for i, end := range bounds {
		n += h.Counts[i]
		buckets[end.Seconds()] = n
	}
	return buckets
}
