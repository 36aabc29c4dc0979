package ebpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// SetRanges says which addresses are this node's to give and nobody else's: a connection or datagram from
// an enrolled pod to one that has no frontend is refused, since its packets could only get lost. There is
// room for one range of each family; an invalid one is none.
func (d *Datapath) SetRanges(v4, v6 netip.Prefix) error {
	for row, prefix := range map[uint32]netip.Prefix{rangeV4: v4, rangeV6: v6} {
		want, have := rangeOf(prefix), nodensRange{}
		if d.maps.Ranges.Lookup(row, &have) == nil && have == want {
			continue // a change is not seen at once as a whole
		}
		if err := d.maps.Ranges.Put(row, want); err != nil {
			return fmt.Errorf("write the range %s: %w", prefix, err)
		}
	}
	return nil
}

const rangeV4, rangeV6 = 0, 1 // RANGE_V4, RANGE_V6

func rangeOf(p netip.Prefix) nodensRange {
	if !p.IsValid() {
		return nodensRange{}
	}
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	r := nodensRange{Addr: address(p.Masked().Addr())}
	for i := range r.Mask.Word {
		ones := min(max(bits-32*i, 0), 32)
		mask := binary.BigEndian.AppendUint32(nil, uint32(uint64(1<<32-1)<<(32-ones)))
		r.Mask.Word[i] = binary.NativeEndian.Uint32(mask)
	}
	return r
}
