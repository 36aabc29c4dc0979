package lb

import (
	"math"
	"net/netip"
	"slices"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/ebpf"
)

// group is endpoints that have one share of the connections together, each by its weight.
type group struct {
	endpoints []mesh.AssignedEndpoint
	// resting ones have no part in the share now and are in line for one as large as their equals':
	// the kernel finds out when they are well, and until then draws others.
	resting map[netip.AddrPort]bool
	share   uint64 // compared with other groups'
	always  bool   // even those that are ejected
}

// sum adds up the weights of those that have the share.
func (g group) sum() uint64 {
	present, resting := uint64(0), uint64(0)
	for _, e := range g.endpoints {
		if g.resting[e.Address] {
			resting += uint64(e.Weight)
		} else {
			present += uint64(e.Weight)
		}
	}
	if present == 0 {
		return resting
	}
	return present
}

// part is one address and what it gets of the connections, compared with the others.
type part struct {
	addr   netip.AddrPort
	size   uint64
	always bool
}

// fine bounds the common multiple of groups' sums: beyond it, parts are rounded.
const fine = 1 << 20

// weigh returns the parts of the groups' endpoints, sorted, an address that is there twice added up.
func weigh(groups []group) []part {
	// A group's share times common over its sum is whole, so that no part has to be rounded.
	common, divisor := uint64(1), uint64(0)
	for _, g := range groups {
		divisor = gcd(divisor, g.share)
		if sum := g.sum(); sum > 0 {
			common = min(common/gcd(common, sum)*sum, fine)
		}
	}
	var parts []part
	for _, g := range groups {
		factor := float64(g.share/divisor) * float64(common) / float64(max(g.sum(), 1))
		for _, e := range g.endpoints {
			size := math.Round(min(float64(e.Weight)*factor, 1<<52))
			parts = append(parts, part{e.Address, uint64(max(1, size)), g.always})
		}
	}
	slices.SortFunc(parts, func(a, b part) int { return a.addr.Compare(b.addr) })
	return simplify(merge(parts))
}

// merge adds up neighbours of the same address, in place.
func merge(parts []part) []part {
	merged := parts[:0]
	for _, p := range parts {
		if n := len(merged); n > 0 && merged[n-1].addr == p.addr {
			merged[n-1].size += p.size
			merged[n-1].always = merged[n-1].always || p.always
			continue
		}
		merged = append(merged, p)
	}
	return merged
}

// simplify divides by what all sizes have in common, in place.
func simplify(parts []part) []part {
	divisor := uint64(0)
	for _, p := range parts {
		divisor = gcd(divisor, p.size)
	}
	for i := range parts {
		parts[i].size /= divisor
	}
	return parts
}

// most bounds what a service's weights add up to; the kernel's side reduces them to what it can use.
const most = 1 << 30

// backends gives parts weights in their ratio.
func backends(parts []part) []ebpf.Backend {
	total := 0.0
	for _, p := range parts {
		total += float64(p.size)
	}
	scale := min(1, most/total)
	list := make([]ebpf.Backend, len(parts))
	for i, p := range parts {
		list[i] = ebpf.Backend{Addr: p.addr, Weight: uint32(max(1, math.Round(float64(p.size)*scale))), Always: p.always}
	}
	return list
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
