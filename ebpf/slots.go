package ebpf

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"
)

// pause is how long a row nothing names any more stays as it is: by then no program that had found it
// before still runs.
const pause = time.Second

var errFull = errors.New("full")

// run is a row, or several in a row, of an array map.
type run struct {
	base, n uint32
}

type resting struct {
	run
	since time.Time
}

// pool keeps account of an array map's rows: free, in use, or resting from use.
type pool struct {
	name    string
	size    uint32
	free    []run     // by base, with gaps between them
	resting []resting // the longest first
	// keep, if set, says of a row whose pause is over that it had better not be given away as long as
	// there are others; freed is told when a row is.
	keep  func(base uint32) bool
	freed func(base uint32)
	// reach, if set, makes the first rows of the map ready for use: all that were ever taken.
	reach func(n uint32) error
}

// newPool takes over a map as it is found: rows in use, rows that were once used and may have only just
// been left, and all others.
func newPool(name string, size int, used, touched func(i uint32) bool, now time.Time) *pool {
	p := &pool{name: name, size: uint32(size)}
	for i := range p.size {
		switch {
		case used(i):
		case touched(i):
			p.rest(run{i, 1}, now)
		case len(p.free) > 0 && p.free[len(p.free)-1].end() == i:
			p.free[len(p.free)-1].n++
		default:
			p.free = append(p.free, run{i, 1})
		}
	}
	return p
}

func (r run) end() uint32 { return r.base + r.n }

// take gives n rows in a row.
func (p *pool) take(n uint32, now time.Time) (run, error) {
	if n == 0 {
		return run{}, nil
	}
	fits := func(r run) bool { return r.n >= n }
	p.collect(now, p.keep)
	i := slices.IndexFunc(p.free, fits)
	if i < 0 && p.keep != nil {
		p.collect(now, nil)
		i = slices.IndexFunc(p.free, fits)
	}
	if i < 0 {
		return run{}, fmt.Errorf("map %s is %w (%d rows, %d wanted)", p.name, errFull, p.size, n)
	}
	got := run{p.free[i].base, n}
	if p.reach != nil {
		if err := p.reach(got.end()); err != nil {
			return run{}, err
		}
	}
	p.free[i].base, p.free[i].n = got.end(), p.free[i].n-n
	if p.free[i].n == 0 {
		p.free = slices.Delete(p.free, i, i+1)
	}
	return got, nil
}

// top is how many rows from the first on there are up to the last that is in use or rests from it.
func (p *pool) top() uint32 {
	if n := len(p.free); n > 0 && p.free[n-1].end() == p.size {
		return p.free[n-1].base
	}
	return p.size
}

// rest begins the pause of rows that nothing names from now on.
func (p *pool) rest(r run, now time.Time) {
	if r.n > 0 {
		p.resting = append(p.resting, resting{r, now})
	}
}

// revive takes a resting row into use again, as it is.
func (p *pool) revive(base uint32) {
	p.resting = slices.DeleteFunc(p.resting, func(r resting) bool { return r.base == base })
}

// collect frees the rows that have rested, but for those to keep.
func (p *pool) collect(now time.Time, keep func(base uint32) bool) {
	var stay []resting
	for i, r := range p.resting {
		if now.Sub(r.since) < pause {
			stay = append(stay, p.resting[i:]...)
			break
		}
		if keep != nil && keep(r.base) {
			stay = append(stay, r)
			continue
		}
		if p.freed != nil {
			p.freed(r.base)
		}
		p.release(r.run)
	}
	p.resting = stay
}

// release puts a run back in its place, joined with its neighbours.
func (p *pool) release(r run) {
	if r.n == 0 {
		return
	}
	i, _ := slices.BinarySearchFunc(p.free, r, func(a, b run) int { return cmp.Compare(a.base, b.base) })
	p.free = slices.Insert(p.free, i, r)
	if i+1 < len(p.free) && p.free[i].end() == p.free[i+1].base {
		p.free[i].n += p.free[i+1].n
		p.free = slices.Delete(p.free, i+1, i+2)
	}
	if i > 0 && p.free[i-1].end() == p.free[i].base {
		p.free[i-1].n += p.free[i].n
		p.free = slices.Delete(p.free, i, i+1)
	}
}

// resolution is how many slots weights are told apart by; more backends than half of it get two each.
const resolution = 256

// reduce brings weights to the smallest numbers of the same proportions, or nearly so where the exact
// ones would take too many slots. Everybody keeps at least 1.
func reduce(weights []uint32) []uint32 {
	var divisor, total uint64
	for i := range weights {
		w := uint64(max(weights[i], 1))
		divisor = gcd(divisor, w)
		total += w
	}
	reduced := make([]uint32, len(weights))
	limit := uint64(min(max(resolution, 2*len(weights)), math.MaxUint16))
	for i := range weights {
		w := uint64(max(weights[i], 1))
		if total/divisor <= limit {
			reduced[i] = uint32(w / divisor)
		} else {
			reduced[i] = uint32(max(1, (w*limit+total/2)/total))
		}
	}
	return reduced
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// spread is a cycle in which each index occurs weight times and as evenly as it can: the k-th time of
// many comes at (k + 1/2)/weight of the way.
func spread(weights []uint32) []int {
	type turn struct {
		index   int
		at, per uint64
	}
	var turns []turn
	for i, w := range weights {
		for k := range uint64(w) {
			turns = append(turns, turn{i, 2*k + 1, uint64(w)})
		}
	}
	slices.SortFunc(turns, func(a, b turn) int {
		return cmp.Or(cmp.Compare(a.at*b.per, b.at*a.per), cmp.Compare(a.index, b.index))
	})
	cycle := make([]int, len(turns))
	for i, t := range turns {
		cycle[i] = t.index
	}
	return cycle
}

// layout makes a set's slots, relative to its first: the cycle of backends as often as they weigh, or a
// hash table, then, unless that is the same, each backend once, then those on standby. Members are sorted
// by their numbers.
func layout(service Service, members, standby []member) (nodensSet, []nodensSlot) {
	weights := make([]uint32, len(members))
	for i, m := range members {
		weights[i] = m.weight
	}
	weights = reduce(weights)
	slot := func(i int) nodensSlot {
		return nodensSlot{Backend: members[i].id, Weight: uint16(weights[i]),
			Always: uint8(flag(members[i].always)), V4: uint8(flag(members[i].addr.Addr().Is4()))}
	}
	set := service.set()
	cycle := spread(weights)
	if service.Policy == RingHash || service.Policy == Maglev {
		addrs := make([]netip.AddrPort, len(members))
		for i, m := range members {
			addrs[i] = m.addr
		}
		cycle = hashTable(service.Policy, addrs, weights, service.TableSize)
	}
	set.Count, set.Size, set.Standby = uint32(len(cycle)), uint32(len(members)), uint32(len(standby))
	slots := make([]nodensSlot, 0, len(cycle)+len(members))
	for _, i := range cycle {
		slots = append(slots, slot(i))
	}
	if set.Count > set.Size {
		set.Members = set.Count
		for i := range members {
			slots = append(slots, slot(i))
		}
	}
	for _, m := range standby {
		slots = append(slots, nodensSlot{Backend: m.id, Weight: 1})
	}
	return set, slots
}
