package lb

import (
	"math"
	"net/netip"
	"slices"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/ebpf"
)

// part is one address and what it gets of the connections, compared with the others.
type part struct {
	addr netip.AddrPort
	size uint64
}

// fine bounds the common multiple of localities' sums: beyond it, parts are rounded.
const fine = 1 << 20

// weigh returns the parts of one family's endpoints, sorted, an address that is there twice added up.
// With weighted, a locality's endpoints share its weight; else each endpoint speaks for itself.
func weigh(localities []mesh.AssignedLocality, weighted, is4 bool) []part {
	// A locality's weight times common over its sum is whole, so that no part has to be rounded.
	common := uint64(1)
	if weighted {
		for _, loc := range localities {
			if sum := sumOf(loc.Endpoints, is4); sum > 0 {
				common = min(common/gcd(common, sum)*sum, fine)
			}
		}
	}
	var parts []part
	for _, loc := range localities {
		factor := 1.0
		if weighted {
			factor = float64(loc.Weight) * float64(common) / float64(sumOf(loc.Endpoints, is4))
		}
		for _, e := range loc.Endpoints {
			if takes(e, is4) {
				size := math.Round(min(float64(e.Weight)*factor, 1<<52))
				parts = append(parts, part{e.Address, uint64(max(1, size))})
			}
		}
	}
	slices.SortFunc(parts, func(a, b part) int { return a.addr.Compare(b.addr) })
	return merge(parts)
}

// merge adds up neighbours of the same address, in place.
func merge(parts []part) []part {
	merged := parts[:0]
	for _, p := range parts {
		if n := len(merged); n > 0 && merged[n-1].addr == p.addr {
			merged[n-1].size += p.size
			continue
		}
		merged = append(merged, p)
	}
	return merged
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
		list[i] = ebpf.Backend{Addr: p.addr, Weight: uint32(max(1, math.Round(float64(p.size)*scale)))}
	}
	return list
}

// takes says whether an endpoint gets connections of a family.
func takes(e mesh.AssignedEndpoint, is4 bool) bool {
	return !e.Unhealthy && e.Address.Addr().Is4() == is4
}

// sumOf adds up the weights of one family's endpoints.
func sumOf(endpoints []mesh.AssignedEndpoint, is4 bool) uint64 {
	sum := uint64(0)
	for _, e := range endpoints {
		if takes(e, is4) {
			sum += uint64(e.Weight)
		}
	}
	return sum
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
