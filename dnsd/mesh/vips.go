package mesh

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// rest is how long a freed address pair is given to nobody but its former host. It outlasts every
// answer we give and the caches of well-behaved clients, so nobody can still mean the former host.
const rest = 10 * time.Minute

// VIPs remembers which host has which virtual address pair. A pair belongs to a host name, never to
// an object; both addresses come from one slot, and slots are counted from the start of each prefix.
// Once given, a slot stays with its host for as long as the host is wanted and for ten minutes more.
//
// VIPs belongs to one goroutine: Compile gives and frees pairs, Save writes them down. Save before a
// plan is acted on, so that no address is handed out that a restart would forget.
type VIPs struct {
	path   string
	v4, v6 netip.Prefix
	slots  uint32 // usable slots are 1..slots: never the network or the broadcast address

	given    map[string]uint32    // host to slot, in use
	hosts    map[uint32]string    // slot to its host, or to its last one if it is freed
	freed    map[uint32]time.Time // slots not in use, since when, by the wall clock
	unsaved  map[string]bool      // hosts given a pair that the file does not have as theirs
	waiting  bool                 // a host was left without a pair the last time
	dirty    bool
	problems []Problem // about the file; part of every plan, since only a restart clears them
}

// vipPair is what a host without an address is given.
type vipPair struct{ v4, v6 netip.Addr }

// Usage is how many of the pairs are where.
type Usage struct {
	Used    int // given to a host
	Resting int // were, less than ten minutes ago: for their former hosts only
	Size    int // that there are
}

// Usage counts the pairs as of the last Compile.
func (v *VIPs) Usage() Usage {
	u := Usage{Used: len(v.given), Size: int(v.slots)}
	now := time.Now()
	for _, at := range v.freed {
		if now.Sub(at) < rest {
			u.Resting++
		}
	}
	return u
}

// Due is when a host that was left without a pair may get one because another's has rested: Compile must
// be called again then, even if no source speaks. It is zero if no host waits, or none rests.
func (v *VIPs) Due() time.Time {
	var due time.Time
	now := time.Now()
	for _, at := range v.freed {
		if end := at.Add(rest); v.waiting && end.After(now) && (due.IsZero() || end.Before(due)) {
			due = end
		}
	}
	return due
}

// Unsaved returns the hosts whose pair a restart would forget: those given one since the last Save that
// worked. It is empty if there is no file.
func (v *VIPs) Unsaved() map[string]bool {
	if v.path == "" {
		return nil
	}
	return maps.Clone(v.unsaved)
}

// contains says whether addr is in a range that pairs are given from.
func (v *VIPs) contains(addr netip.Addr) bool { return v.v4.Contains(addr) || v.v6.Contains(addr) }

// holder returns the host that has addr at present, or "".
func (v *VIPs) holder(addr netip.Addr) string {
	slot := v.slot(addr)
	if _, ok := v.freed[slot]; ok {
		return ""
	}
	return v.hosts[slot]
}

// settle gives every fresh host, which is wanted and has no pair, one: the one it had, a slot nobody ever
// had, or the one that has been free for longest. Slots of announced addresses are not ours to give; a
// host keeps one it already has, though. Hosts that are not wanted lose theirs unless keep is set.
// A host without a pair afterwards found every slot in use or resting.
func (v *VIPs) settle(wanted func(host string) bool, fresh []string, announced iter.Seq[netip.Addr], keep bool) {
	if !keep {
		v.free(wanted)
	}
	v.waiting = false
	if len(fresh) == 0 {
		return
	}
	taken := make(map[uint32]bool)
	for addr := range announced {
		if slot := v.slot(addr); slot != 0 {
			taken[slot] = true
		}
	}
	slices.Sort(fresh)
	v.giveNew(v.giveBack(fresh, taken), taken)
}

// pair returns the addresses that a host has, if it has any.
func (v *VIPs) pair(host string) (pair vipPair, ok bool) {
	slot, ok := v.given[host]
	if !ok {
		return vipPair{}, false
	}
	return vipPair{address(v.v4, slot), address(v.v6, slot)}, true
}

func (v *VIPs) has(host string) bool {
	_, ok := v.given[host]
	return ok
}

// giveBack gives hosts that had a slot the last one they had, and returns the others.
func (v *VIPs) giveBack(hosts []string, taken map[uint32]bool) []string {
	former := make(map[string]uint32, len(v.freed))
	for slot, at := range v.freed {
		host := v.hosts[slot]
		last, ok := former[host]
		if !taken[slot] && (!ok || cmp.Or(at.Compare(v.freed[last]), cmp.Compare(last, slot)) > 0) {
			former[host] = slot
		}
	}
	return slices.DeleteFunc(hosts, func(host string) bool {
		slot, ok := former[host]
		if ok {
			v.give(host, slot)
		}
		return ok
	})
}

// giveNew finds slots for hosts that have none to come back to.
func (v *VIPs) giveNew(hosts []string, taken map[uint32]bool) {
	holes := v.holes(taken)
	var rested []uint32 // found when first needed: only once every slot has been used
	for _, host := range hosts {
		if len(holes) > 0 {
			i := after(holes, v.first(host))
			v.give(host, holes[i])
			holes = slices.Delete(holes, i, i+1)
			continue
		}
		if slot := v.unused(host, taken); slot != 0 {
			v.give(host, slot)
			continue
		}
		if rested == nil {
			rested = v.rested(taken)
		}
		if len(rested) == 0 {
			v.waiting = true
			return
		}
		v.give(host, rested[0])
		rested = rested[1:]
	}
}

// first is the slot that a host's name points to. Starting there makes nodes that never talk to each other
// agree on nearly all hosts.
func (v *VIPs) first(host string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(host))
	return 1 + h.Sum32()%v.slots
}

// unused returns the first slot never given, from the host's first, or 0.
func (v *VIPs) unused(host string, taken map[uint32]bool) uint32 {
	if uint32(len(v.hosts)) >= v.slots {
		return 0
	}
	start := v.first(host) - 1
	for i := range v.slots {
		slot := 1 + uint32((uint64(start)+uint64(i))%uint64(v.slots))
		if _, used := v.hosts[slot]; !used && !taken[slot] {
			return slot
		}
	}
	return 0
}

// holes returns the slots never given, sorted, once there are so few that looking for each would take long.
func (v *VIPs) holes(taken map[uint32]bool) []uint32 {
	if uint32(len(v.hosts)) < v.slots-v.slots/8 {
		return nil
	}
	var holes []uint32
	for slot := uint32(1); slot <= v.slots; slot++ {
		if _, used := v.hosts[slot]; !used && !taken[slot] {
			holes = append(holes, slot)
		}
	}
	return holes
}

// after is where in holes the first from slot on is; they begin anew at the end.
func after(holes []uint32, slot uint32) int {
	i, _ := slices.BinarySearch(holes, slot)
	return i % len(holes)
}

// rested returns the freed slots that have rested, the longest free first.
func (v *VIPs) rested(taken map[uint32]bool) []uint32 {
	now := time.Now()
	slots := []uint32{}
	for slot, at := range v.freed {
		if !taken[slot] && now.Sub(at) >= rest {
			slots = append(slots, slot)
		}
	}
	slices.SortFunc(slots, func(a, b uint32) int {
		return cmp.Or(v.freed[a].Compare(v.freed[b]), cmp.Compare(a, b))
	})
	return slots
}

func (v *VIPs) give(host string, slot uint32) {
	delete(v.freed, slot)
	v.given[host], v.hosts[slot] = slot, host
	v.dirty, v.unsaved[host] = true, true
}

// free lets go of every host that is not wanted; their slots begin to rest.
func (v *VIPs) free(wanted func(host string) bool) {
	now := time.Now().UTC().Round(0) // Round: a monotonic reading means nothing after a restart
	for host, slot := range v.given {
		if !wanted(host) {
			delete(v.given, host)
			delete(v.unsaved, host)
			v.freed[slot] = now
			v.dirty = true
		}
	}
}

// slot returns the slot of an address, or 0 if it is not one of ours to give.
func (v *VIPs) slot(addr netip.Addr) uint32 {
	for _, prefix := range []netip.Prefix{v.v4, v.v6} {
		if !prefix.Contains(addr) {
			continue
		}
		// What is left of an address in the prefix is its number; slots fit in the low 32 bits.
		a := addr.As16()
		low := binary.BigEndian.Uint32(a[12:])
		base := prefix.Addr().As16()
		n := low - binary.BigEndian.Uint32(base[12:])
		if n <= v.slots && address(prefix, n) == addr {
			return n
		}
	}
	return 0
}

// address returns the slot's address in prefix. The low 32 bits cannot overflow: the prefix leaves
// as many of them zero as slots need.
func address(prefix netip.Prefix, slot uint32) netip.Addr {
	if prefix.Addr().Is4() {
		a := prefix.Addr().As4()
		binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+slot)
		return netip.AddrFrom4(a)
	}
	a := prefix.Addr().As16()
	binary.BigEndian.PutUint32(a[12:], binary.BigEndian.Uint32(a[12:])+slot)
	return netip.AddrFrom16(a)
}
