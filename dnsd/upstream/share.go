package upstream

import (
	"container/list"
	"time"
)

// share is what the questions of one Dialer take of a cache. Answers are for a whole scope, but what is kept is
// set against whoever asked first, so that one pod that asks for very many names, or for names that nobody
// answers, does that at its own cost.
type share struct {
	of      Dialer
	recent  list.List // of *entry, the one used last in front
	bytes   int
	flights int
}

// A share that is to lose an entry is chosen among so many, and the one that the next entry is for: it costs
// the same however many pods there are. Whoever asks most is nearly always among them.
const contenders = 8

// share returns that of a Dialer.
func (c *cache) share(of Dialer) *share {
	s := c.shares[of]
	if s == nil {
		s = &share{of: of}
		c.shares[of] = s
	}
	return s
}

// tidy forgets a share that nothing is left of: its pod may be gone.
func (c *cache) tidy(s *share) {
	if s.flights == 0 && s.recent.Len() == 0 {
		delete(c.shares, s.of)
	}
}

// room says whether a Dialer may have one more question under way. It may have as many as it leaves for others:
// one alone takes half of all, two take a third each, and there is always room for somebody else's first. Where
// nobody waits for the question, and so nothing else bounds them, it may have a quarter of that.
func (c *cache) room(of Dialer, wait bool) bool {
	free, under := maxFlights-len(c.flights), 0
	if s := c.shares[of]; s != nil {
		under = s.flights
	}
	if !wait {
		free /= 4
	}
	return under < free
}

// use notes that an entry is being used.
func (e *entry) use(element *list.Element, now time.Time) {
	e.used = now
	e.share.recent.MoveToFront(element)
}

// weight says how much there is for taking the last entry of s from it: the more, the larger s is, and the
// longer that entry has not been used. So who fills the cache loses what he put there himself, and yet what is
// left of a pod that is gone goes in time.
func (s *share) weight(now time.Time) float64 {
	last := s.recent.Back()
	if last == nil {
		return -1
	}
	idle := max(0, now.Sub(last.Value.(*entry).used)) // what was held comes with an earlier now
	return float64(s.bytes) * float64(idle+time.Second)
}

// loser is the share that is to lose an entry for one of s, which has some. So has the loser: nothing else
// outweighs it.
func (c *cache) loser(s *share, now time.Time) *share {
	n, most := 0, s.weight(now)
	for _, other := range c.shares {
		if weight := other.weight(now); weight > most {
			s, most = other, weight
		}
		if n++; n == contenders {
			break
		}
	}
	return s
}
