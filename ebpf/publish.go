package ebpf

import (
	"cmp"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// member is a backend of a service by its number.
type member struct {
	id     uint32
	addr   netip.AddrPort
	weight uint32
	always bool
}

// published is what a service with a hash table was last made of; equal ones need not be laid out to be
// compared.
type published struct {
	settings         nodensSet
	table            uint32
	members, standby []member
}

func (p published) equal(q published) bool {
	return p.settings == q.settings && p.table == q.table && slices.Equal(p.members, q.members) &&
		slices.Equal(p.standby, q.standby)
}

// remember spares the next publish of a service with a hash table the making of it.
func (s *Services) remember(index uint32, service Service, p published) {
	if service.Policy == RingHash || service.Policy == Maglev {
		s.published[index] = p
	} else {
		delete(s.published, index)
	}
}

// publish writes a service's new set, if it differs, beside the old one and flips the word.
func (s *Services) publish(name string, service Service, c *Changes, now time.Time) (err error) {
	if err := service.check(); err != nil {
		return err
	}
	members, err := s.members(service.Backends, c, now)
	var standby []member
	if err == nil {
		standby, err = s.members(service.standby(), c, now)
	}
	taken := append(ids(members), ids(standby)...)
	defer func() { // what was taken for a set that did not come about
		if err != nil {
			s.unuse(taken, now)
		}
	}()
	if err != nil {
		return err
	}
	want := published{service.set(), service.TableSize, members, standby}
	index, known := s.names[name]
	if last, ok := s.published[index]; known && ok && last.equal(want) {
		s.unuse(taken, now)
		return nil
	}
	set, slots := layout(service, members, standby)
	if known && s.equal(index, set, slots) {
		s.remember(index, service, want)
		s.unuse(taken, now)
		return nil
	}
	at, id, err := s.takeSet(uint32(len(slots)), now)
	if err != nil {
		return err
	}
	if !known {
		if index, err = s.newService(name, now); err != nil {
			s.pools.slots.release(at)
			s.pools.sets.release(id)
			return err
		}
	}
	copy(s.tables.slots.rows[at.base:], slots)
	set.Base += at.base
	set.Members += at.base
	s.tables.sets.rows[id.base] = set
	if known {
		s.move.note(s.membersOf(index), taken)
		s.restSet(index, now)
	}
	word := &s.tables.words.rows[index]
	atomic.StoreUint64(word, (*word>>32+1)<<32|uint64(id.base))
	s.remember(index, service, want)
	c.Services++
	return nil
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

// takeSet takes the rows a set with n slots needs.
func (s *Services) takeSet(n uint32, now time.Time) (slots, set run, err error) {
	if slots, err = s.pools.slots.take(n, now); err != nil {
		return run{}, run{}, err
	}
	if set, err = s.pools.sets.take(1, now); err != nil {
		s.pools.slots.release(slots)
	}
	return slots, set, err
}

// newService gives a name its index.
func (s *Services) newService(name string, now time.Time) (uint32, error) {
	taken, err := s.pools.services.take(1, now)
	if err != nil {
		return 0, err
	}
	index := taken.base
	s.names[name], s.live[index] = index, true
	state := &s.tables.services.rows[index]
	// Sockets that were counted for the service before notice by the incarnation, which is never 0.
	if atomic.AddUint32(&state.Incarnation, 1) == 0 {
		atomic.AddUint32(&state.Incarnation, 1)
	}
	atomic.StoreUint32(&state.Active, 0)
	atomic.StoreUint64(&state.Refused, 0)
	// Nodes that start together must not all begin with the same backend.
	atomic.StoreUint64(&state.Cursor, rand.Uint64N(1<<32))
	return index, nil
}

// members gives each distinct address its number, and counts one use of it. They are sorted by number.
func (s *Services) members(all []Backend, c *Changes, now time.Time) ([]member, error) {
	type share struct {
		weight uint64
		always bool
	}
	total := make(map[netip.AddrPort]share)
	for _, b := range all {
		if !b.Addr.Addr().IsValid() {
			return nil, errors.New("a backend without an address")
		}
		t := total[unmap(b.Addr)]
		total[unmap(b.Addr)] = share{t.weight + uint64(max(b.Weight, 1)), t.always || b.Always}
	}
	members := make([]member, 0, len(total))
	for _, addr := range slices.SortedFunc(maps.Keys(total), netip.AddrPort.Compare) {
		id, ok := s.ids[addr]
		if !ok {
			taken, err := s.pools.backends.take(1, now)
			if err != nil {
				return members, err
			}
			id = taken.base
			s.writeBackend(id, addr)
			c.Backends++
		} else if s.uses[id] == 0 {
			s.pools.backends.revive(id)
		}
		s.uses[id]++
		members = append(members, member{id, addr, uint32(min(total[addr].weight, 1<<32-1)), total[addr].always})
	}
	slices.SortFunc(members, func(a, b member) int { return cmp.Compare(a.id, b.id) })
	return members, nil
}

func ids(members []member) []uint32 {
	all := make([]uint32, len(members))
	for i, m := range members {
		all[i] = m.id
	}
	return all
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
	s.unuse(s.membersOf(index), now)
	delete(s.published, index)
}
