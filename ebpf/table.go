package ebpf

import (
	"cmp"
	"hash/fnv"
	"math"
	"math/big"
	"net/netip"
	"slices"
)

// A hash table says for each part of all the hashes clients can have which backend is theirs. It has some
// hundred entries for each backend, so that none is far from its share, and few enough for many
// services to have one: all slots of the node are 2^20.
const (
	leastTable = 1021  // entries
	mostTable  = 65537 // Envoy's usual Maglev table; who asks for more gets this
	perBackend = 100
	// How many points of a ring the backend that weighs most has, and how many there are about at most.
	ringPoints, mostPoints = 128, 4 * mostTable
)

// hashTable makes the cycle of a hashing policy: for each entry the index of a backend. It depends on
// addresses and weights alone, so that all nodes send a client to the same place.
func hashTable(policy Policy, addrs []netip.AddrPort, weights []uint32, asked uint32) []int {
	if len(addrs) == 0 {
		return nil
	}
	size := min(max(leastTable, asked, uint32(min(len(addrs)*perBackend, mostTable))), mostTable)
	keys := make([]uint64, len(addrs))
	for i, a := range addrs {
		h := fnv.New64a()
		_, _ = h.Write(a.Addr().AsSlice()) // cannot fail
		_, _ = h.Write([]byte{byte(a.Port() >> 8), byte(a.Port())})
		keys[i] = scramble(h.Sum64())
	}
	if policy == RingHash {
		return ring(keys, weights, size)
	}
	return maglev(keys, weights, prime(size))
}

// maglev fills a table whose size is prime as Google's balancer does (Eisenbud and others, NSDI 2016,
// 3.4): backends claim entries in turn, each in an order of its own, those that weigh less not in every
// round.
func maglev(keys []uint64, weights []uint32, size uint32) []int {
	type walk struct{ at, skip, credit uint32 }
	walks := make([]walk, len(keys))
	for i, key := range keys {
		walks[i] = walk{at: uint32(key % uint64(size)), skip: uint32(scramble(key)%uint64(size-1)) + 1}
	}
	heaviest := slices.Max(weights)
	table := slices.Repeat([]int{-1}, int(size))
	for left := size; ; {
		for i := range walks {
			w := &walks[i]
			if w.credit += weights[i]; w.credit < heaviest {
				continue
			}
			w.credit -= heaviest
			for table[w.at] >= 0 {
				w.at = (w.at + w.skip) % size
			}
			table[w.at] = i
			if left--; left == 0 {
				return table
			}
		}
	}
}

// ring looks up the owners of evenly spaced places on a consistent-hash ring (Karger and others, STOC
// 1997): who has the next point owns a place, and a backend that goes leaves all others what they have.
func ring(keys []uint64, weights []uint32, size uint32) []int {
	type point struct {
		at    uint64
		index int
	}
	var points []point
	heaviest, each := uint64(slices.Max(weights)), uint64(min(ringPoints, max(1, mostPoints/len(keys))))
	for i, key := range keys {
		n := max(1, (each*uint64(weights[i])+heaviest/2)/heaviest)
		for k := range n {
			points = append(points, point{scramble(key + k*0x9e3779b97f4a7c15), i})
		}
	}
	slices.SortFunc(points, func(a, b point) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.index, b.index)) })
	table := make([]int, size)
	next := 0
	for i := range table {
		for at := uint64(i) * (math.MaxUint64 / uint64(size)); next < len(points) && points[next].at < at; {
			next++
		}
		table[i] = points[next%len(points)].index
	}
	return table
}

// scramble makes every bit of a number depend on all others (the finalizer of SplitMix64).
func scramble(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// prime is the first prime from n on.
func prime(n uint32) uint32 {
	for !big.NewInt(int64(n)).ProbablyPrime(0) { // exact below 2^64
		n++
	}
	return n
}
