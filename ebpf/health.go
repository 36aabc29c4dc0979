package ebpf

import (
	"fmt"
	"math"
	"net/netip"
	"sync/atomic"
	"time"
)

// Outlier says when a service stops using a backend whose handshakes fail, and for how long. The failures
// in a row are counted once for the whole node; each service judges them by its own settings. The zero
// value is [DefaultOutlier].
type Outlier struct {
	Consecutive uint32        // failed handshakes in a row that eject
	Ejection    time.Duration // how long the first ejection lasts
	MaxEjection time.Duration // how long any lasts
	// Linear ejections grow by Ejection with each further failure; else they double.
	Linear bool
	// MaxPercent of the backends may be ejected, but always one.
	MaxPercent uint32
}

// DefaultOutlier is for services that ask for nothing else: one failed handshake is enough, since trying
// elsewhere costs nothing.
var DefaultOutlier = Outlier{Consecutive: 1, Ejection: time.Second, MaxEjection: 64 * time.Second, MaxPercent: 100}

// set has the settings of a service, without its backends.
func (s Service) set() nodensSet {
	o := s.Outlier
	if o == (Outlier{}) {
		o = DefaultOutlier
	}
	const day = 24 * time.Hour // so that growing does not overflow
	set := nodensSet{
		Policy: nodensPolicy(s.Policy), Used: 1, Affinity: millis(s.Affinity), MaxConnections: s.MaxConnections,
		Consecutive: max(o.Consecutive, 1), Ejection: millis(min(o.Ejection, day)), MaxEjection: millis(min(o.MaxEjection, day)),
		MaxPercent: min(o.MaxPercent, 100), Lasting: flag(s.Lasting),
	}
	if o.Linear {
		set.Growth = nodensGrowthLINEAR
	}
	return set
}

// service has the settings of a set.
func (set nodensSet) service() Service {
	s := Service{
		Policy: Policy(set.Policy), Affinity: duration(set.Affinity), MaxConnections: set.MaxConnections,
		Lasting: set.Lasting != 0,
		Outlier: Outlier{
			Consecutive: set.Consecutive, Ejection: duration(set.Ejection), MaxEjection: duration(set.MaxEjection),
			Linear: set.Growth == nodensGrowthLINEAR, MaxPercent: set.MaxPercent,
		},
	}
	if s.Policy == RingHash || s.Policy == Maglev {
		s.TableSize = set.Count
	}
	return s
}

func (s Service) check() error {
	if s.Policy > Maglev {
		return fmt.Errorf("policy %d is not known", s.Policy)
	}
	return nil
}

// millis rounds up, so that what is not 0 stays so.
func millis(d time.Duration) uint32 {
	return uint32(min(max(d+time.Millisecond-1, 0)/time.Millisecond, math.MaxUint32))
}

func duration(millis uint32) time.Duration { return time.Duration(millis) * time.Millisecond }

// sharedFor is how long a backend counts as several pods' after another one than before has connected to it.
const sharedFor = time.Minute

// ejects says whether a set leaves a backend alone, as far as the node is concerned. While several pods use
// it, the failures of one are that pod's own affair, which the programs keep from it. Where no other has come for
// a while they count for all, or a pod that is the only one to use a service would go on failing there. Others who
// come later do so all the same, if fewer: what is ejected stays in line for its share, and its accuser alone is
// kept off.
func (set nodensSet) ejects(state *nodensBackendState) bool {
	sharedAt := time.Duration(atomic.LoadUint64(&state.SharedAt))
	shared := sharedAt != 0 && monotonic()-sharedAt < sharedFor
	return atomic.LoadUint32(&state.Streak) >= set.Consecutive && (atomic.LoadUint64(&state.Accuser)&several != 0 || !shared)
}

const several = 1 << 63 // SEVERAL

// ejectedUntil says until when a set leaves a backend alone; zero: it does not. In the past: the next
// connection is a probe.
func (set nodensSet) ejectedUntil(state *nodensBackendState) time.Time {
	if !set.ejects(state) {
		return time.Time{}
	}
	streak := max(atomic.LoadUint32(&state.Streak), set.Consecutive)
	further, rest, most := streak-set.Consecutive, duration(set.Ejection), duration(set.MaxEjection)
	if set.Growth == nodensGrowthLINEAR {
		rest *= time.Duration(further) + 1
	} else {
		for ; further > 0 && rest < most; further-- {
			rest *= 2
		}
	}
	since := monotonic() - time.Duration(atomic.LoadUint64(&state.FailedAt))
	return time.Now().Add(min(rest, most) - since)
}

// Ejected returns the backends of a service that it leaves alone since their handshakes failed. It is
// cheap: it reads memory shared with the kernel.
func (s *Services) Ejected(name string) []netip.AddrPort {
	index, ok := s.names[name]
	if !ok || s.tables.words.rows[index] == 0 {
		return nil
	}
	var ejected []netip.AddrPort
	set := s.tables.sets.rows[s.setOf(index)]
	for _, slot := range s.tables.slots.rows[set.Members : set.Members+set.Size] {
		if set.ejects(&s.tables.states.rows[slot.Backend]) {
			ejected = append(ejected, s.tables.backends.rows[slot.Backend].addrPort())
		}
	}
	return ejected
}
