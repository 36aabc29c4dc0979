package lb

// health is how many endpoints one priority has, and how many of them are healthy.
type health struct{ healthy, total int }

// percent is the share of a priority that is healthy, with over percent of what is there counted.
func (h health) percent(over uint32) uint32 {
	if h.total == 0 {
		return 0
	}
	return uint32(min(100, uint64(over)*uint64(h.healthy)/uint64(h.total)))
}

// load is what one priority gets of the connections.
type load struct {
	percent uint32
	panic   bool // all its endpoints are used, healthy or not
}

// loads spreads connections over priorities as Envoy does ("Priority levels", "Panic threshold" in its
// documentation). Each priority takes as much as its health times the overprovisioning factor allows,
// and leaves the rest to those after it. What the healths add up to, below 100, is scaled to 100; only
// then is there a panic, in each priority of which less than the threshold is healthy. When all are in a
// panic they get what fits their sizes. Without anybody healthy and without a threshold all loads are 0.
func loads(priorities []health, over, threshold uint32) []load {
	all := make([]load, len(priorities))
	normalized := uint32(0)
	for _, h := range priorities {
		normalized = min(100, normalized+h.percent(over))
	}
	panics := 0
	for i, h := range priorities {
		all[i].panic = normalized < 100 && uint64(h.healthy)*100 < uint64(threshold)*uint64(max(h.total, 1))
		if all[i].panic {
			panics++
		}
	}
	if panics == len(priorities) {
		return bySize(all, priorities)
	}
	left, first := uint32(100), -1
	for i, h := range priorities {
		if h.percent(over) == 0 {
			continue
		}
		if first < 0 {
			first = i
		}
		all[i].percent = min(left, h.percent(over)*100/normalized)
		left -= all[i].percent
	}
	if first >= 0 {
		all[first].percent += left // what rounding lost
	}
	return all
}

// bySize gives each priority the load of its size.
func bySize(all []load, priorities []health) []load {
	total, left := 0, uint32(100)
	for _, h := range priorities {
		total += h.total
	}
	if total == 0 {
		return all
	}
	first := -1
	for i, h := range priorities {
		if first < 0 && h.total > 0 {
			first = i
		}
		all[i].percent = uint32(100 * h.total / total)
		left -= all[i].percent
	}
	all[first].percent += left
	return all
}
