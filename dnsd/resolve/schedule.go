package resolve

import (
	"container/heap"
	"math/rand/v2"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// What an unset field of a mesh.Schedule means.
const (
	defaultRefresh = 5 * time.Second
	defaultFloor   = time.Second
	defaultBase    = time.Second
	defaultGrowth  = 10 // of a failure base that is set, to its maximum
	// minInterval is the shortest refresh rate Envoy takes.
	minInterval = time.Millisecond
	// maxInterval keeps sums of configured times from overflowing.
	maxInterval = 24 * time.Hour
)

// refresh is how long after a good answer, or a definite "no", the next question is due: the shortest
// that any schedule says. ttl is the least of the answer's chain; 0, or none, means the refresh rate.
func refresh(schedules []mesh.Schedule, ttl time.Duration) time.Duration {
	return earliest(schedules, func(s mesh.Schedule) time.Duration {
		wait := or(s.RefreshRate, defaultRefresh)
		if s.RespectTTL && ttl > 0 {
			wait = max(ttl, or(s.MinRefresh, defaultFloor))
		}
		return min(wait, maxInterval) + random(min(s.Jitter, maxInterval))
	})
}

// backOff is how long after failures+1 failures in a row the next question is due: between half and all
// of a time that starts at the base and doubles up to the maximum.
func backOff(schedules []mesh.Schedule, failures int) time.Duration {
	return earliest(schedules, func(s mesh.Schedule) time.Duration {
		rate := or(s.RefreshRate, defaultRefresh)
		base, limit := min(defaultBase, rate), rate
		if s.FailureBase > 0 {
			base, limit = s.FailureBase, defaultGrowth*min(s.FailureBase, maxInterval)
		}
		limit = max(base, or(s.FailureMax, limit))
		wait := min(base, maxInterval)
		for range failures {
			if wait *= 2; wait >= limit {
				break
			}
		}
		wait = min(wait, limit)
		return wait - random(wait/2)
	})
}

func earliest(schedules []mesh.Schedule, wait func(mesh.Schedule) time.Duration) time.Duration {
	if len(schedules) == 0 {
		schedules = []mesh.Schedule{{}}
	}
	least := maxInterval
	for _, s := range schedules {
		least = min(least, wait(s))
	}
	return max(least, minInterval)
}

func or(d, unset time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return unset
}

// random is a time from 0 up to, but not including, d.
func random(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}

// queue holds the lookups that wait, those that failed the last time apart from the others.
type queue struct {
	well, failing byDue
}

func (q *queue) of(l *lookup) *byDue {
	if l.failures > 0 {
		return &q.failing
	}
	return &q.well
}

func (q *queue) add(l *lookup) { heap.Push(q.of(l), l) }
func (q *queue) fix(l *lookup) { heap.Fix(q.of(l), l.index) }

// remove takes l out if it is in.
func (q *queue) remove(l *lookup) {
	if l.index >= 0 {
		heap.Remove(q.of(l), l.index)
	}
}

// next is the lookup that is due first, still queued; of those that failed only if they may run. Nil if
// there is none.
func (q *queue) next(failing bool) *lookup {
	switch {
	case len(q.failing) == 0 || !failing:
		return q.well.head()
	case len(q.well) == 0 || q.failing[0].due.Before(q.well[0].due):
		return q.failing.head()
	}
	return q.well.head()
}

// byDue is a heap; its elements know their place in it.
type byDue []*lookup

func (h byDue) head() *lookup {
	if len(h) == 0 {
		return nil
	}
	return h[0]
}

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, j int) bool { return h[i].due.Before(h[j].due) }

func (h byDue) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *byDue) Push(x any) {
	l := x.(*lookup)
	l.index = len(*h)
	*h = append(*h, l)
}

func (h *byDue) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	l.index = -1
	return l
}
