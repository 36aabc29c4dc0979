package ebpf

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

func tableOf(policy Policy, n int, weight func(i int) uint32, asked uint32) []int {
	addrs, weights := make([]netip.AddrPort, n), make([]uint32, n)
	for i := range n {
		addrs[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 8080)
		weights[i] = weight(i)
	}
	return hashTable(policy, addrs, weights, asked)
}

func equally(int) uint32 { return 1 }

// A table gives every backend its share, a Maglev table nearly exactly.
func TestHashTableShares(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy Policy
		n      int
		weight func(i int) uint32
		off    float64 // of the share, at most
	}{
		{"maglev", Maglev, 10, equally, 0.02},
		{"maglev, one", Maglev, 1, equally, 0},
		{"maglev, many", Maglev, 2000, equally, 0.07},
		{"maglev, weighted", Maglev, 10, func(i int) uint32 { return uint32(i + 1) }, 0.12},
		{"ring", RingHash, 10, equally, 0.3},
		{"ring, weighted", RingHash, 10, func(i int) uint32 { return uint32(i%3 + 1) }, 0.5},
	} {
		table := tableOf(c.policy, c.n, c.weight, 0)
		got, total := make([]float64, c.n), 0.0
		for _, i := range table {
			got[i]++
		}
		for i := range c.n {
			total += float64(c.weight(i))
		}
		for i := range c.n {
			want := float64(len(table)) * float64(c.weight(i)) / total
			if got[i] < want*(1-c.off)-1 || got[i] > want*(1+c.off)+1 {
				t.Errorf("%s: backend %d has %.0f entries of %d, want %.1f", c.name, i, got[i], len(table), want)
			}
		}
	}
}

// When one of n backends goes, those who had it move, of all others nobody on a ring, and few in a
// Maglev table.
func TestHashTableDisruption(t *testing.T) {
	for _, c := range []struct {
		policy Policy
		others float64 // who moves without need, at most
	}{{RingHash, 0}, {Maglev, 0.06}} {
		for _, gone := range []int{0, 4, 9} {
			before := tableOf(c.policy, 10, equally, 0)
			addrs := make([]netip.AddrPort, 0, 9)
			for i := range 10 {
				if i != gone {
					addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), 8080))
				}
			}
			after := hashTable(c.policy, addrs, slices.Repeat([]uint32{1}, 9), uint32(len(before)))
			if len(after) != len(before) {
				t.Fatalf("%d entries, before %d", len(after), len(before))
			}
			had, moved := 0, 0
			for i, old := range before {
				now := after[i]
				if now >= gone {
					now++
				}
				switch {
				case old == gone:
					had++
				case old != now:
					moved++
				}
			}
			if share := float64(had) / float64(len(before)); share < 0.07 || share > 0.13 {
				t.Errorf("policy %d: one of ten has %.3f of the clients", c.policy, share)
			}
			if share := float64(moved) / float64(len(before)); share > c.others {
				t.Errorf("policy %d without %d: %.3f of the clients move without need, want at most %.3f", c.policy, gone, share, c.others)
			}
		}
	}
}

// Tables are as large as asked for and as their backends need, and never so large that few fit.
func TestHashTableSize(t *testing.T) {
	for _, c := range []struct {
		policy Policy
		n      int
		asked  uint32
		want   int
	}{
		{Maglev, 3, 0, 1021}, {Maglev, 20, 0, 2003}, {Maglev, 3, 5000, 5003}, {Maglev, 3, 1 << 31, 65537},
		{Maglev, 1000, 0, 65537}, {RingHash, 3, 0, 1021}, {RingHash, 3, 2048, 2048}, {RingHash, 70000, 0, 65537},
		{Maglev, 0, 0, 0},
	} {
		if got := len(tableOf(c.policy, c.n, equally, c.asked)); got != c.want {
			t.Errorf("%d backends, asked for %d: %d entries, want %d", c.n, c.asked, got, c.want)
		}
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct{ weights, reduced []uint32 }{
		{[]uint32{5, 5, 5}, []uint32{1, 1, 1}},
		{[]uint32{0, 2}, []uint32{1, 2}},
		{[]uint32{300, 200, 100}, []uint32{3, 2, 1}},
		{[]uint32{1 << 31, 1}, []uint32{256, 1}},
		{[]uint32{9973, 9973, 1}, []uint32{128, 128, 1}},
		{nil, []uint32{}},
	} {
		if got := reduce(c.weights); !slices.Equal(got, c.reduced) {
			t.Errorf("reduce %v: %v, want %v", c.weights, got, c.reduced)
		}
	}
	if got := fmt.Sprint(spread([]uint32{3, 1, 2})); got != "[0 2 0 1 2 0]" {
		t.Errorf("spread %s", got)
	}
}
