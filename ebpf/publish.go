package ebpf

import (
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// publish writes a service's new set, if it differs, beside the old one and flips the word.
func (s *Services) publish(name string, service Service, c *Changes, now time.Time) (err error) {
	ids, weights, err := s.backends(service.Backends, c, now)
	var standby []uint32
	if err == nil {
		standby, _, err = s.backends(service.standby(), c, now)
	}
	taken := slices.Concat(ids, standby)
	defer func() { // what was taken for a set that did not come about
		if err != nil {
			s.unuse(taken, now)
		}
	}()
	if err != nil {
		return err
	}
	set, slots := layout(service.Policy, ids, weights, standby)
	set.Lasting = flag(service.Lasting)
	index, known := s.names[name]
	if known && s.equal(index, set, slots) {
		s.unuse(taken, now)
		return nil
	}
	at, err := s.pools.slots.take(uint32(len(slots)), now)
	if err != nil {
		return err
	}
	id, err := s.pools.sets.take(1, now)
	if err != nil {
		s.pools.slots.release(at)
		return err
	}
	if !known {
		taken, err := s.pools.services.take(1, now)
		if err != nil {
			s.pools.slots.release(at)
			s.pools.sets.release(id)
			return err
		}
		index = taken.base
		s.names[name], s.live[index] = index, true
		// Nodes that start together must not all begin with the same backend.
		s.tables.cursors.rows[index] = rand.Uint64N(1 << 32)
	}
	copy(s.tables.slots.rows[at.base:], slots)
	set.Base += at.base
	set.Members += at.base
	s.tables.sets.rows[id.base] = set
	if known {
		for id := range s.members(index) {
			s.parted = s.parted || !slices.Contains(taken, id)
		}
		s.restSet(index, now)
	}
	word := &s.tables.words.rows[index]
	atomic.StoreUint64(word, (*word>>32+1)<<32|uint64(id.base))
	c.Services++
	return nil
}

// tellLeft lets Left receive, if backends have left.
func (s *Services) tellLeft() {
	if !s.parted {
		return
	}
	s.parted = false
	select {
	case s.left <- struct{}{}:
	default: // it has been told before and not yet listened
	}
}

// standby are the service's backends on standby, those it uses left out.
func (s Service) standby() []Backend {
	if len(s.Standby) == 0 {
		return nil
	}
	used := make(map[netip.AddrPort]bool)
	for _, b := range s.Backends {
		used[unmap(b.Addr)] = true
	}
	var standby []Backend
	for _, addr := range s.Standby {
		if !used[unmap(addr)] {
			standby = append(standby, Backend{Addr: addr})
		}
	}
	return standby
}

// backends gives each distinct address its number, in the order of addresses, and counts one use of it.
func (s *Services) backends(all []Backend, c *Changes, now time.Time) (ids, weights []uint32, err error) {
	total := make(map[netip.AddrPort]uint64)
	for _, b := range all {
		if !b.Addr.Addr().IsValid() {
			return nil, nil, errors.New("a backend without an address")
		}
		total[unmap(b.Addr)] += uint64(max(b.Weight, 1))
	}
	for _, addr := range slices.SortedFunc(maps.Keys(total), netip.AddrPort.Compare) {
		id, ok := s.ids[addr]
		if !ok {
			taken, err := s.pools.backends.take(1, now)
			if err != nil {
				return ids, nil, err
			}
			id = taken.base
			s.writeBackend(id, addr)
			c.Backends++
		} else if s.uses[id] == 0 {
			s.pools.backends.revive(id)
		}
		s.uses[id]++
		ids = append(ids, id)
		weights = append(weights, uint32(min(total[addr], 1<<32-1)))
	}
	return ids, weights, nil
}

// writeBackend gives a number to an address. Sockets that were connected to the one before notice by the
// incarnation, which therefore changes first.
func (s *Services) writeBackend(id uint32, addr netip.AddrPort) {
	row := &s.tables.backends.rows[id]
	atomic.AddUint32(&row.Incarnation, 1)
	s.tables.states.rows[id] = nodensBackendState{}
	row.Addr, row.Port = address(addr.Addr()), swap(addr.Port())
	s.ids[addr] = id
}

// unuse counts uses down and lets backends rest that nobody uses.
func (s *Services) unuse(ids []uint32, now time.Time) {
	for _, id := range ids {
		if s.uses[id]--; s.uses[id] == 0 {
			delete(s.uses, id)
			s.pools.backends.rest(run{id, 1}, now)
		}
	}
}

// restSet retires what a service has published.
func (s *Services) restSet(index uint32, now time.Time) {
	s.pools.sets.rest(run{s.setOf(index), 1}, now)
	s.pools.slots.rest(s.slotsOf(index), now)
	s.unuse(slices.Collect(maps.Keys(s.members(index))), now)
}
