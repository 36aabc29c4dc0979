package mesh

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// lookup returns what has to be asked for name.
func lookup(name string, dns *DNS) Lookup {
	resolvers := make([]string, len(dns.Resolvers))
	for i, r := range dns.Resolvers {
		resolvers[i] = r.String()
	}
	return Lookup{
		Name: name, Family: cmp.Or(dns.Family, Auto),
		Resolvers: strings.Join(resolvers, ","), UseTCP: dns.UseTCP,
	}
}

// withDefaults fills in what Schedule says of its zero fields.
func withDefaults(s Schedule) Schedule {
	backoff := s.FailureBase > 0
	s.RefreshRate = orDefault(s.RefreshRate, 5*time.Second)
	s.MinRefresh = orDefault(s.MinRefresh, time.Second)
	s.Jitter = max(s.Jitter, 0)
	s.FailureBase = orDefault(s.FailureBase, min(time.Second, s.RefreshRate))
	if backoff {
		s.FailureMax = orDefault(s.FailureMax, 10*s.FailureBase)
	} else {
		s.FailureMax = orDefault(s.FailureMax, s.RefreshRate)
	}
	s.FailureMax = max(s.FailureMax, s.FailureBase)
	return s
}

func orDefault(d, def time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return def
}

// watches returns the lookups sorted, each with its distinct schedules.
func watches(wanters map[Lookup][]*assigned) []Watch {
	watches := make([]Watch, 0, len(wanters))
	for l, all := range wanters {
		w := Watch{Lookup: l}
		for _, a := range all {
			for _, one := range a.wants {
				if one.lookup == l {
					w.Schedules = append(w.Schedules, one.schedule)
					w.Ordered = w.Ordered || one.ordered
				}
			}
		}
		slices.SortFunc(w.Schedules, compareSchedules)
		w.Schedules = slices.Compact(w.Schedules)
		watches = append(watches, w)
	}
	slices.SortFunc(watches, func(a, b Watch) int { return compareLookups(a.Lookup, b.Lookup) })
	return watches
}

// lookupsOf returns the distinct lookups of wants, sorted; nil if there are none.
func lookupsOf(wants []want) []Lookup {
	var lookups []Lookup
	for _, w := range wants {
		lookups = append(lookups, w.lookup)
	}
	slices.SortFunc(lookups, compareLookups)
	return slices.Compact(lookups)
}

func compareLookups(a, b Lookup) int {
	return cmp.Or(
		cmp.Compare(a.Name, b.Name), cmp.Compare(a.Family, b.Family),
		cmp.Compare(a.Resolvers, b.Resolvers), compareBools(a.UseTCP, b.UseTCP),
	)
}

func compareSchedules(a, b Schedule) int {
	return cmp.Or(
		cmp.Compare(a.RefreshRate, b.RefreshRate), compareBools(a.RespectTTL, b.RespectTTL),
		cmp.Compare(a.MinRefresh, b.MinRefresh), cmp.Compare(a.Jitter, b.Jitter),
		cmp.Compare(a.FailureBase, b.FailureBase), cmp.Compare(a.FailureMax, b.FailureMax),
	)
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
