package ebpf

import (
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
)

// answerers are the programs of the object that answer DNS on the interfaces of pods, not at the cgroup.
var answerers = []string{nodensProgAnswerInside, nodensProgAnswerOutside}

const answersDir = "answers"

// Answers are the DNS answers the kernel gives by itself. Declared names are all there; what follows from
// them for one client, by its search list, is learned from dnsd's own replies. Apply belongs to one
// goroutine, the rest may be called by any.
type Answers struct {
	d               *Datapath
	pin             string
	inside, outside *ebpf.Program
	answering       *memory[nodensAnswering]
	version         atomic.Uint64 // of the row written last

	starting sync.Mutex
	started  bool

	mu   sync.Mutex
	seed maphash.Seed
	rows map[nodensName]*held // what the kernel holds
	pass uint64               // of Apply, counted
	// hidden are names of which somebody's own row could not be written in the last pass.
	hidden map[wireName]bool
}

// Authority is what stands in the SOA record of negative answers: the bytes from its type on, with the
// places of pointers to the zone's name, which also owns it.
type Authority struct {
	Record   []byte
	Pointers [2]int
}

// Answers loads what answers in the kernel; Attach puts it to work. It fails on kernels that cannot.
func (d *Datapath) Answers(a Authority) (*Answers, error) {
	spec, err := loadNodens()
	if err != nil {
		return nil, err
	}
	soa := nodensAuthority{Size: uint8(len(a.Record))}
	if len(a.Record) > len(soa.Record) {
		return nil, fmt.Errorf("a SOA record of %d bytes: there is room for %d", len(a.Record), len(soa.Record))
	}
	copy(soa.Record[:], a.Record)
	soa.Pointers = [3]uint8{0, uint8(a.Pointers[0]), uint8(a.Pointers[1])}
	if err := spec.Variables[nodensVarAuthority].Set(soa); err != nil {
		return nil, fmt.Errorf("set %s: %w", nodensVarAuthority, err)
	}
	maps := d.pinned()
	delete(maps, nodensMapQueries) // of a Datapath that does not answer
	for name, m := range maps {
		spec.Maps[name].MaxEntries = m.MaxEntries() // for tests, whose maps are smaller
	}
	var programs struct {
		Inside  *ebpf.Program `ebpf:"answer_inside"`
		Outside *ebpf.Program `ebpf:"answer_outside"`
	}
	if err := spec.LoadAndAssign(&programs, &ebpf.CollectionOptions{MapReplacements: maps}); err != nil {
		return nil, fmt.Errorf("load the programs that answer DNS: %w", err)
	}
	s := &Answers{d: d, pin: filepath.Join(d.pin, answersDir), inside: programs.Inside, outside: programs.Outside,
		seed: maphash.MakeSeed(), rows: make(map[nodensName]*held)}
	if s.answering, err = mapMemory[nodensAnswering](d.maps.Answering); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.shareSecret()
	s.version.Store(uint64(monotonic()))
	if err := s.readBack(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// StopAnswering takes the programs that answer DNS off every pod, whoever put them there: without somebody
// who keeps the answers equal to the names, they would go on with what was true once. Absent is fine.
func (d *Datapath) StopAnswering() error {
	cookies, err := attached(filepath.Join(d.pin, answersDir))
	errs := []error{err, stopAnswering(d.pin)}
	for _, cookie := range cookies {
		errs = append(errs, d.forgetOutcomes(cookie))
	}
	return errors.Join(errs...)
}

// stopAnswering puts the programs that answer out of work and takes those that lead to them off, whatever
// maps they are at work with.
func stopAnswering(pinPath string) error {
	errs := []error{putOutOfWork(filepath.Join(pinPath, mapsDir, nodensMapAnswerers))}
	dir := filepath.Join(pinPath, answersDir)
	entries, err := os.ReadDir(dir)
	if !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range entries {
		errs = append(errs, detach(filepath.Join(dir, e.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take the programs that answer DNS off: %w", err)
	}
	return nil
}

// putOutOfWork empties a pinned map of programs, which filters may lead to that nobody takes off.
func putOutOfWork(pin string) error {
	programs, err := ebpf.LoadPinnedMap(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", pin, err)
	}
	errs := []error{}
	for i := range programs.MaxEntries() {
		if err := programs.Delete(i); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("empty %s: %w", pin, err))
		}
	}
	return errors.Join(append(errs, programs.Close())...)
}

// Close lets go of the programs. Those attached stay at work.
func (s *Answers) Close() error {
	return errors.Join(s.inside.Close(), s.outside.Close(), s.answering.Close())
}

// Forget makes everything learned so far wrong that is not of this generation of the table, as what is
// learned from now on must be. To be called before dnsd answers from another table.
func (s *Answers) Forget(generation uint64) {
	atomic.StoreUint64(&s.answering.rows[0].Generation, generation)
}

// Leave leaves every query to dnsd for so long, even if it is not there. For who wants to see them all; to
// be called again and again.
func (s *Answers) Leave(d time.Duration) {
	atomic.StoreUint64(&s.answering.rows[0].SilentUntil, uint64(monotonic()+d))
}

// Leaving says whether every query is left to dnsd at present.
func (s *Answers) Leaving() bool {
	return time.Duration(atomic.LoadUint64(&s.answering.rows[0].SilentUntil)) > monotonic()
}
