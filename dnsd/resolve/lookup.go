package resolve

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// lookup is one name being kept fresh. Run's goroutine owns it; its Resolution is replaced, never edited,
// where it holds a slice.
type lookup struct {
	res       mesh.Resolution
	schedules []mesh.Schedule
	ordered   bool // it matters which address is first
	finished  bool // there was an outcome, now or before the restart
	// What the newest definite answer of each family was; Addresses outlives it when both are empty.
	v4, v6 []netip.Addr

	due     time.Time
	index   int            // in its heap; -1 while running
	ended   time.Time      // when the newest outcome came
	ttl     time.Duration  // of the newest good answer
	server  netip.AddrPort // whom the newest outcome was asked of first
	running bool
	bunched bool   // it was asked, or failed, together with others
	again   bool   // ask again when the lookup under way has ended
	stop    func() // cancels the lookup under way

	failures int // in a row
	success  time.Time
	queries  uint64
}

func newLookup(w mesh.Watch, now time.Time) *lookup {
	return &lookup{
		res:       mesh.Resolution{Lookup: w.Lookup},
		schedules: w.Schedules,
		ordered:   w.Ordered,
		due:       now,
		bunched:   true,
		index:     -1,
		stop:      func() {},
	}
}

// restore makes what was known before a restart known again. It is asked anew all the same: at once, or,
// being one of many, within the refresh rate.
func (l *lookup) restore(res mesh.Resolution, now time.Time, many bool) {
	l.res = res
	l.finished = true
	if many && l.serves() {
		l.bunched, l.due = false, now.Add(random(refresh(l.schedules, 0)))
	}
	if !res.Negative {
		for _, a := range res.Addresses {
			if a.Is4() {
				l.v4 = append(l.v4, a)
			} else {
				l.v6 = append(l.v6, a)
			}
		}
	}
}

// serves says whether connections have somewhere to go while the name is asked.
func (l *lookup) serves() bool { return len(l.res.Addresses) > 0 && !l.res.Negative }

// preferred says whether the family that is asked first has addresses to keep, so that its failure is no
// reason to ask for the other.
func (l *lookup) preferred() bool {
	switch l.res.Lookup.Family {
	case mesh.V4Preferred:
		return len(l.v4) > 0
	case mesh.Auto, "":
		return len(l.v6) > 0
	}
	return false
}

// join orders the addresses of both families as the lookup wants them: of AUTO and V4_PREFERRED only the
// second choice if there is no first, of ALL IPv4 before IPv6, since a LOGICAL_DNS cluster uses the first
// and IPv4 is what every pod has.
func (l *lookup) join(v4, v6 []netip.Addr) []netip.Addr {
	switch l.res.Lookup.Family {
	case mesh.V4Only:
		return v4
	case mesh.V6Only:
		return v6
	case mesh.AllFamilies:
		return slices.Concat(v4, v6)
	case mesh.V4Preferred:
		if len(v4) > 0 {
			return v4
		}
		return v6
	default:
		if len(v6) > 0 {
			return v6
		}
		return v4
	}
}

// apply takes in an outcome, decides when the lookup is due next, and says whether anybody else should
// know: if the set of addresses changed, or, where it matters, which of them is first, or whether the
// name exists, or if this is the first outcome at all. That servers turn the order round and round, or why
// a lookup failed, is no reason to work out a plan anew.
//
// A failure never takes the last address away. A family that answered gives its addresses even if the
// other one failed; the one that failed keeps those it had.
func (l *lookup) apply(o outcome, many bool) (changed bool) {
	now := time.Now()
	old := l.res
	begins := !l.finished
	l.finished, l.ended, l.server = true, now, o.server
	l.queries += uint64(o.queries)
	v4, v6 := o.v4.or(l.v4), o.v6.or(l.v6)
	addresses, err := l.join(v4, v6), o.err()
	switch {
	case len(addresses) > 0:
		l.v4, l.v6 = v4, v6
		l.res.Negative = false
		if !same(addresses, old.Addresses, l.ordered) {
			l.res.Addresses, changed = addresses, true
		}
	case err == nil:
		l.v4, l.v6 = nil, nil
		l.res.Negative = true
	}
	l.res.Error = ""
	if err != nil {
		l.res.Error = err.Error()
	}
	if err != nil && !l.secondChoice(o) {
		l.due = now.Add(backOff(l.schedules, l.failures))
		l.failures++
		l.bunched = true
	} else {
		wait := refresh(l.schedules, o.ttl())
		if many && l.bunched {
			wait, l.bunched = random(wait), false
		}
		l.due = now.Add(wait)
		l.failures, l.success, l.ttl = 0, now, o.ttl()
	}
	if l.again {
		l.again, l.due = false, now
	}
	return begins || changed || l.res.Negative != old.Negative
}

// secondChoice says whether o has the addresses that are used, though nothing is known of the family that is
// asked first: there are servers that never answer for AAAA, and the name works all the same.
func (l *lookup) secondChoice(o outcome) bool {
	switch l.res.Lookup.Family {
	case mesh.V4Preferred:
		return len(l.v4) == 0 && len(o.v6.addresses) > 0
	case mesh.Auto, "":
		return len(l.v6) == 0 && len(o.v4.addresses) > 0
	}
	return false
}

// reschedule takes over the schedules of the clusters that now want the lookup. It is never put off by
// that, only made due earlier. It says whether it was.
func (l *lookup) reschedule(w mesh.Watch, now time.Time, many bool) bool {
	l.ordered = w.Ordered
	if slices.Equal(l.schedules, w.Schedules) {
		return false
	}
	l.schedules = w.Schedules
	if l.running || l.ended.IsZero() {
		return false
	}
	wait := refresh(l.schedules, l.ttl)
	if l.failures > 0 {
		wait = backOff(l.schedules, l.failures-1)
	}
	due := l.ended.Add(wait)
	if many && due.Before(now) { // so are most others
		due = now.Add(random(wait))
	}
	if due.Before(l.due) {
		l.due = due
		return true
	}
	return false
}

// hurry makes the lookup due now, or again as soon as what is under way has ended: that asked the servers
// of before. One of many that has addresses is asked within the refresh rate, as it mostly would be
// anyway. It says whether the queue has to know.
func (l *lookup) hurry(now time.Time, many bool) bool {
	l.again = l.running
	if l.running {
		return false
	}
	due := now
	if many && l.failures == 0 && l.serves() {
		rate := refresh(l.schedules, 0)
		if !l.due.After(now.Add(rate)) {
			return false
		}
		due = now.Add(random(rate))
	}
	l.due, l.bunched = due, true
	return true
}

// same says whether two answers are the same set and, if it matters, have the same address of each family
// first.
func same(a, b []netip.Addr, ordered bool) bool {
	if len(a) != len(b) || ordered && (first(a, netip.Addr.Is4) != first(b, netip.Addr.Is4) || first(a, netip.Addr.Is6) != first(b, netip.Addr.Is6)) {
		return false
	}
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.Addr.Compare)
	slices.SortFunc(b, netip.Addr.Compare)
	return slices.Equal(a, b)
}

// first is the first of a family; no address if there is none.
func first(addrs []netip.Addr, of func(netip.Addr) bool) netip.Addr {
	if i := slices.IndexFunc(addrs, of); i >= 0 {
		return addrs[i]
	}
	return netip.Addr{}
}

func compare(a, b mesh.Lookup) int {
	if c := cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Family, b.Family), cmp.Compare(a.Resolvers, b.Resolvers)); c != 0 || a.UseTCP == b.UseTCP {
		return c
	}
	if b.UseTCP {
		return -1
	}
	return 1
}
