package ebpf

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
)

// Frontend is an address that stands for a service. Port 0 with AnyProtocol is every port not named by
// another frontend of the address; the backends' port is then the one asked for, if theirs is 0.
type Frontend struct {
	Addr     netip.Addr
	Port     uint16
	Protocol Protocol
	View     uint64 // whose it is, ViewOf; 0: everybody's, unless there is one of their own
}

// Policy is how a service picks a backend.
type Policy uint32

// The policies of Envoy's that the programs know. LeastRequest takes the less busy of two, by open
// connections. RingHash and Maglev send a pod, by its address, to the same backend always; when that one
// is gone or ejected, to another, and hardly any other pod elsewhere.
const (
	Random       = Policy(nodensPolicyRANDOM)
	RoundRobin   = Policy(nodensPolicyROUND_ROBIN)
	LeastRequest = Policy(nodensPolicyLEAST_REQUEST)
	RingHash     = Policy(nodensPolicyRING_HASH)
	Maglev       = Policy(nodensPolicyMAGLEV)
)

// Service is what stands behind frontends. With no backend of a frontend's family it refuses.
type Service struct {
	Policy   Policy
	Backends []Backend
	// Standby get no connection for now and keep those they have. One that is in Backends, too, is none.
	Standby []netip.AddrPort
	// Lasting connections stay with a backend that is in neither any more.
	Lasting bool
	// TableSize is the least number of entries of a RingHash or Maglev table. Without it, and in any
	// case, there are a hundred for each backend, but never more than 65537.
	TableSize uint32
	// Affinity is how long after its last connection or datagram a pod is sent where that went; 0: not.
	Affinity time.Duration
	// MaxConnections is how many TCP connections may be open at once; one more is refused. 0: any number.
	// Those that were open before there was a limit are not counted.
	MaxConnections uint32
	Outlier        Outlier
}

// Backend is where connections go. One address is one backend, in however many services.
type Backend struct {
	Addr   netip.AddrPort // port 0: the one the client asked for
	Weight uint32         // relative to the service's others; 0 counts as 1
	Always bool           // used even while it is ejected: there are too few others
}

// Changes counts what an Apply wrote; zero when the kernel was as it should be.
type Changes struct {
	Frontends int // rows written or deleted
	Services  int // sets published or retired
	Backends  int // rows written
}

// Services makes the kernel's balancing maps equal to what is wanted. It is their only writer, is not
// safe for concurrent use, and is good until its Datapath is closed.
type Services struct {
	frontends *ebpf.Map
	tables    *tables

	rows  map[nodensFrontend]uint32 // the frontends map
	live  map[uint32]bool           // indexes of services in use
	names map[string]uint32         // their indexes, as far as their names are known
	ids   map[netip.AddrPort]uint32 // backends, resting ones too
	uses  map[uint32]int            // services a backend is in
	// What services with hash tables were last made of, by index; nothing for those read back.
	published map[uint32]published
	pools     struct{ services, sets, slots, backends *pool }
	erased    time.Time // when rows were last deleted

	move  Move // since it was last told
	moves chan Move
}

// Services reads back what the kernel holds: backends keep their number and their count of open
// connections over a restart.
func (d *Datapath) Services() (*Services, error) {
	tables, err := d.mapTables()
	if err != nil {
		return nil, err
	}
	s := &Services{
		frontends: d.maps.Frontends,
		tables:    tables,
		rows:      make(map[nodensFrontend]uint32),
		live:      make(map[uint32]bool),
		names:     make(map[string]uint32),
		ids:       make(map[netip.AddrPort]uint32),
		uses:      make(map[uint32]int),
		published: make(map[uint32]published),
		moves:     make(chan Move, 1),
	}
	var row nodensFrontend
	var target nodensTarget
	rows := s.frontends.Iterate()
	for rows.Next(&row, &target) {
		index := target.Service
		s.rows[row] = index
		if index < uint32(len(tables.words.rows)) {
			s.live[index] = true
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read frontends: %w", err)
	}
	s.readBack(time.Now())
	return s, s.trim()
}

// trim keeps of the tables in memory what is in use or was, and has the pools ask for more.
func (s *Services) trim() error {
	t, p := s.tables, &s.pools
	p.services.reach = func(n uint32) error { return errors.Join(t.words.reach(n), t.services.reach(n)) }
	p.sets.reach = t.sets.reach
	p.slots.reach = t.slots.reach
	p.backends.reach = func(n uint32) error { return errors.Join(t.backends.reach(n), t.states.reach(n)) }
	return errors.Join(t.words.hold(p.services.top()), t.services.hold(p.services.top()), t.sets.hold(p.sets.top()),
		t.slots.hold(p.slots.top()), t.backends.hold(p.backends.top()), t.states.hold(p.backends.top()))
}

// readBack finds out which rows the services in use need.
func (s *Services) readBack(now time.Time) {
	t := s.tables
	sets, slots := make(map[uint32]bool), make(map[uint32]bool)
	for index := range s.live {
		if t.words.rows[index] == 0 {
			continue
		}
		sets[s.setOf(index)] = true
		taken := s.slotsOf(index)
		for i := range taken.n {
			slots[taken.base+i] = true
		}
		for _, id := range s.membersOf(index) {
			s.uses[id]++
		}
	}
	in := func(m map[uint32]bool) func(uint32) bool { return func(i uint32) bool { return m[i] } }
	s.pools.services = newPool(nodensMapServices, len(t.words.rows), in(s.live),
		func(i uint32) bool { return t.words.rows[i] != 0 }, now)
	s.pools.sets = newPool(nodensMapSets, len(t.sets.rows), in(sets),
		func(i uint32) bool { return t.sets.rows[i].Used != 0 }, now)
	s.pools.slots = newPool(nodensMapSlots, len(t.slots.rows), in(slots),
		func(i uint32) bool { return t.slots.rows[i].Weight != 0 }, now)
	s.pools.backends = newPool(nodensMapBackends, len(t.backends.rows),
		func(i uint32) bool { return s.uses[i] > 0 },
		func(i uint32) bool { return t.backends.rows[i].Incarnation != 0 }, now)
	// A backend that still has connections keeps its number: should it come back, they count.
	s.pools.backends.keep = func(id uint32) bool { return atomic.LoadUint32(&t.states.rows[id].Active) > 0 }
	s.pools.backends.freed = func(id uint32) { delete(s.ids, t.backends.rows[id].addrPort()) }
	for id := range uint32(len(t.backends.rows)) {
		if b := t.backends.rows[id]; b.Incarnation != 0 {
			if other, ok := s.ids[b.addrPort()]; !ok || s.uses[other] == 0 {
				s.ids[b.addrPort()] = id
			}
		}
	}
}

// Apply makes the kernel hold these frontends, each by the name of its service, and nothing else. It
// writes only what differs. A connection sees a service's old backends or its new ones, and a new
// address only when all its ports have something behind them; one that goes, goes before what is behind
// it. What cannot be done is in the error and does not keep the rest from being done; it may be
// called again.
func (s *Services) Apply(frontends map[Frontend]string, services map[string]Service) (Changes, error) {
	var c Changes
	now := time.Now()
	want, errs := wanted(frontends)
	s.recognise(want)
	used := make(map[string]bool)
	for _, name := range want {
		used[name] = true
	}
	delete(used, nobody)
	for _, name := range slices.Sorted(maps.Keys(used)) {
		service, ok := services[name]
		if !ok {
			errs = append(errs, fmt.Errorf("service %s: frontends name it, but it is not there", name))
			continue
		}
		if err := s.publish(name, service, &c, now); err != nil {
			errs = append(errs, fmt.Errorf("service %s: %w", name, err))
		}
	}
	errs = append(errs, s.writeRows(want, &c), s.deleteRows(s.surplus(want), &c, now))
	s.retire(s.unused(used), &c, now)
	s.tell()
	return c, errors.Join(errs...)
}

// nobody is the service of rows that only make an address known.
const nobody = ""

// wanted turns frontends into rows, with the row every address needs.
func wanted(frontends map[Frontend]string) (map[nodensFrontend]string, []error) {
	var errs []error
	want := make(map[nodensFrontend]string, len(frontends))
	for f, name := range frontends {
		if !f.Addr.IsValid() || (f.Port == 0) != (f.Protocol == AnyProtocol) || name == nobody {
			errs = append(errs, fmt.Errorf("frontend %+v of service %q: it needs an address, a service, and port and protocol or neither", f, name))
			continue
		}
		want[f.row()] = name
	}
	for row := range maps.Clone(want) {
		known := nodensFrontend{Addr: row.Addr}
		if _, ok := want[known]; !ok {
			want[known] = nobody
		}
	}
	return want, errs
}

// recognise gives a name to services read back from the kernel: a frontend's is the one it points to.
func (s *Services) recognise(want map[nodensFrontend]string) {
	taken := make(map[uint32]bool)
	for _, index := range s.names {
		taken[index] = true
	}
	for _, row := range slices.SortedFunc(maps.Keys(want), compareRows) {
		index, ok := s.rows[row]
		if _, known := s.names[want[row]]; known || !ok || !s.live[index] || taken[index] || want[row] == nobody {
			continue
		}
		s.names[want[row]] = index
		taken[index] = true
	}
}
