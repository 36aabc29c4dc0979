package ebpf

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// ServiceState is a service as the kernel has it.
type ServiceState struct {
	Name      string // "" until an Apply has named it
	Service   Service
	Frontends []Frontend
	Backends  []BackendState // of Service.Backends and Service.Standby, by address
	Active    uint32         // connections that count against Service.MaxConnections
	Refused   uint64         // connections over it
}

// BackendState is a backend as the kernel has it. Its numbers are of the whole node, not of the one
// service; whether it is ejected is the service's own view.
type BackendState struct {
	Addr        netip.AddrPort
	Weight      uint32 // reduced; 0: on standby
	Active      uint32 // connected sockets
	Connections uint64 // ever placed on it
	Failures    uint64 // handshakes that failed
	// Ejected says that it rests since handshakes failed, until one succeeds. From EjectedUntil on one
	// connection at a time tries.
	Ejected      bool
	EjectedUntil time.Time
}

// Dump reads every service, in the order of their names.
func (s *Services) Dump() []ServiceState {
	frontends := make(map[uint32][]Frontend)
	for _, row := range slices.SortedFunc(maps.Keys(s.rows), compareRows) {
		frontends[s.rows[row]] = append(frontends[s.rows[row]], row.frontend())
	}
	names := make(map[uint32]string)
	for name, index := range s.names {
		names[index] = name
	}
	var all []ServiceState
	for index := range s.live {
		state := ServiceState{Name: names[index], Frontends: frontends[index]}
		if s.tables.words.rows[index] != 0 {
			s.dump(index, &state)
		}
		all = append(all, state)
	}
	slices.SortFunc(all, func(a, b ServiceState) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), slices.CompareFunc(a.Frontends, b.Frontends,
			func(a, b Frontend) int { return compareRows(a.row(), b.row()) }))
	})
	return all
}

// dump reads what a published service is made of.
func (s *Services) dump(index uint32, state *ServiceState) {
	set := s.tables.sets.rows[s.setOf(index)]
	state.Service = set.service()
	state.Active = atomic.LoadUint32(&s.tables.services.rows[index].Active)
	state.Refused = atomic.LoadUint64(&s.tables.services.rows[index].Refused)
	for i, slot := range s.tables.slots.rows[set.Members : set.Members+set.Size+set.Standby] {
		b := s.backendState(set, slot.Backend)
		if i < int(set.Size) {
			b.Weight = uint32(slot.Weight)
			state.Service.Backends = append(state.Service.Backends, Backend{b.Addr, b.Weight, slot.Always != 0})
		} else {
			state.Service.Standby = append(state.Service.Standby, b.Addr)
		}
		state.Backends = append(state.Backends, b)
	}
	slices.SortFunc(state.Service.Backends, func(a, b Backend) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(state.Backends, func(a, b BackendState) int { return a.Addr.Compare(b.Addr) })
}

// backendState reads a backend as a service with that set sees it.
func (s *Services) backendState(set nodensSet, id uint32) BackendState {
	row := &s.tables.states.rows[id]
	until := set.ejectedUntil(row)
	return BackendState{
		Addr:         s.tables.backends.rows[id].addrPort(),
		Active:       atomic.LoadUint32(&row.Active),
		Connections:  atomic.LoadUint64(&row.Connections),
		Failures:     atomic.LoadUint64(&row.Failures),
		Ejected:      !until.IsZero(),
		EjectedUntil: until,
	}
}

// setOf is the set a service's word names.
func (s *Services) setOf(index uint32) uint32 { return uint32(s.tables.words.rows[index]) }

// slotsOf is where the slots of a published service are: the cycle, the members and those on standby.
func (s *Services) slotsOf(index uint32) run {
	set := s.tables.sets.rows[s.setOf(index)]
	return run{set.Base, max(set.Count, set.Members-set.Base+set.Size+set.Standby)}
}

// membersOf are the numbers of the backends of a published service, those on standby last.
func (s *Services) membersOf(index uint32) []uint32 {
	set := s.tables.sets.rows[s.setOf(index)]
	members := make([]uint32, 0, set.Size+set.Standby)
	for _, slot := range s.tables.slots.rows[set.Members : set.Members+set.Size+set.Standby] {
		members = append(members, slot.Backend)
	}
	return members
}

// equal compares a service's published set with one laid out from slot 0.
func (s *Services) equal(index uint32, set nodensSet, slots []nodensSlot) bool {
	if s.tables.words.rows[index] == 0 {
		return false
	}
	have, at := s.tables.sets.rows[s.setOf(index)], s.slotsOf(index)
	set.Base += have.Base
	set.Members += have.Base
	return have == set && slices.Equal(s.tables.slots.rows[at.base:at.end()], slots)
}

func (f Frontend) row() nodensFrontend {
	return nodensFrontend{Addr: address(f.Addr), Port: swap(f.Port), Protocol: uint8(f.Protocol), View: f.View}
}

func (row nodensFrontend) frontend() Frontend {
	return Frontend{Addr: row.Addr.addr(), Port: swap(row.Port), Protocol: Protocol(row.Protocol), View: row.View}
}

func (row nodensFrontend) String() string {
	f := row.frontend()
	return fmt.Sprintf("%s protocol %d view %x", netip.AddrPortFrom(f.Addr, f.Port), f.Protocol, f.View)
}

// rank is 0 for the row that makes an address known.
func rank(row nodensFrontend) int {
	if row == (nodensFrontend{Addr: row.Addr}) {
		return 0
	}
	return 1
}

func compareRows(a, b nodensFrontend) int {
	return cmp.Or(a.Addr.addr().Compare(b.Addr.addr()), cmp.Compare(swap(a.Port), swap(b.Port)),
		cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.View, b.View))
}

func (b nodensBackend) addrPort() netip.AddrPort {
	return netip.AddrPortFrom(b.Addr.addr(), swap(b.Port))
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
