package ebpf

import (
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
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

	mu   sync.Mutex
	seed maphash.Seed
	rows map[nodensName]*held // what the kernel holds
	pass uint64               // of Apply, counted
}

// Authority is what stands in the SOA record of negative answers: the bytes from its type on, with the
// places of pointers to the zone's name, which also owns it.
type Authority struct {
	Record   []byte
	Pointers [2]int
}

// Source is what the kernel answers from.
type Source int

// What there is: the names, and what dnsd has said.
const (
	Declaration Source = iota + 1
	Lesson
)

const typeA, typeAAAA = 1, 28 // RFC 1035, RFC 3596

// Question is what a client asked. Clients of the same Asker, not 0, get the same answers.
type Question struct {
	Host  string // in lower case, with its final dot
	Type  uint16
	Asker uint64
}

// Reply is what dnsd replied, behind the question and without OPT. Addresses, if there are any, come
// last: Count records of Step bytes each, from Fixed on.
type Reply struct {
	Records              []byte
	Answers, Authorities uint16
	Rcode                uint8
	Fixed, Step, Count   int
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
	for name, m := range maps {
		spec.Maps[name].MaxEntries = m.MaxEntries() // for tests, whose maps are smaller
	}
	var programs struct {
		Inside  *ebpf.Program `ebpf:"answer_inside"`
		Outside *ebpf.Program `ebpf:"answer_outside"`
	}
	if err := spec.LoadAndAssign(&programs, &ebpf.CollectionOptions{MapReplacements: maps}); err != nil {
		return nil, fmt.Errorf("load the programs that answer DNS (Linux 6.15 or later lets them tell whose packet it is): %w", err)
	}
	s := &Answers{d: d, pin: filepath.Join(d.pin, answersDir), inside: programs.Inside, outside: programs.Outside,
		seed: maphash.MakeSeed(), rows: make(map[nodensName]*held)}
	if s.answering, err = mapMemory[nodensAnswering](d.maps.Answering); err != nil {
		return nil, errors.Join(err, s.Close())
	}
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

// stopAnswering takes the programs below a pin path off, whatever maps they are at work with.
func stopAnswering(pinPath string) error {
	dir := filepath.Join(pinPath, answersDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, detach(filepath.Join(dir, e.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take the programs that answer DNS off: %w", err)
	}
	return nil
}

// haveAnswers says whether a program at an interface can tell whose packet it sees; where it can, tcx is
// older.
func haveAnswers() bool {
	return features.HaveProgramHelper(ebpf.SchedCLS, asm.FnGetNetnsCookie) == nil
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

// Learn makes the kernel repeat a reply of dnsd's for as long as the generation is the one of the table it
// was given from. What does not fit is not learned.
func (s *Answers) Learn(q Question, generation uint64, r Reply) error {
	key := nodensQuestion{Asker: q.Asker, Qtype: swap(q.Type)}
	if !wire(key.Wire[:], q.Host) || len(r.Records) > len(nodensReply{}.Records) || r.Count > int(nodensAgreedMOST_ROTATED) || q.Asker == 0 {
		return nil
	}
	row := nodensReply{
		Version: s.version.Add(1), Generation: generation, Size: uint16(len(r.Records)),
		Answers: swap(r.Answers), Authorities: swap(r.Authorities), Rcode: r.Rcode,
		Fixed: uint16(r.Fixed), Step: uint16(r.Step), Count: uint8(r.Count),
	}
	copy(row.Records[:], r.Records)
	if err := s.d.maps.Learned.Put(key, row); err != nil {
		return fmt.Errorf("write a reply: %w", err)
	}
	return nil
}

// Knows says whether the kernel answers a plain question of a pod, and from what it does: Declared and
// Learned like the counters; 0 where it leaves that to dnsd.
func (s *Answers) Knows(q Question, view uint64) (from Source, err error) {
	name := nodensName{View: view}
	if wire(name.Wire[:], q.Host) && (q.Type == typeA || q.Type == typeAAAA) {
		var row nodensAnswer
		err := s.d.maps.Names.Lookup(name, &row)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			name.View = 0
			err = s.d.maps.Names.Lookup(name, &row)
		}
		if err == nil && row.Flags&nodensAnswerFlagsANSWER_ELSEWHERE == 0 {
			return Declaration, nil
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return 0, fmt.Errorf("look %s up in the kernel: %w", q.Host, err)
		}
	}
	key, row := nodensQuestion{Asker: q.Asker, Qtype: swap(q.Type)}, nodensReply{}
	if q.Asker == 0 || !wire(key.Wire[:], q.Host) {
		return 0, nil
	}
	err = s.d.maps.Learned.Lookup(key, &row)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("look %s up in what the kernel has learned: %w", q.Host, err)
	}
	if err == nil && row.Generation == atomic.LoadUint64(&s.answering.rows[0].Generation) {
		return Lesson, nil
	}
	return 0, nil
}

// Outcomes counts a pod's queries by what became of them in the kernel. Declared and Learned were answered,
// Denied too: there is no such name. The others were left to dnsd: Unknown to the kernel, Unusual as
// questions, or asked while all were to Leave.
type Outcomes struct{ Declared, Learned, Denied, Unknown, Unusual, Watched uint64 }

// Outcomes reads a pod's counters; zero for one whose queries are not answered in the kernel.
func (s *Answers) Outcomes(cookie uint64) (Outcomes, error) {
	var row nodensOutcomes
	err := s.d.maps.Outcomes.Lookup(cookie, &row)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return Outcomes{}, fmt.Errorf("read how pod %d was answered: %w", cookie, err)
	}
	return Outcomes{row.Declared, row.Learned, row.Denied, row.Unknown, row.Unusual, row.Watched}, nil
}

// Attach puts the programs on lo and on the pod's interface of the network namespace the calling thread
// is in, or exchanges those that are there; they stay until Detach or the namespace's end. A light pod has
// no listeners, and only needs the one on its interface.
func (s *Answers) Attach(cookie uint64, ifindex uint32, light bool) error {
	if err := os.MkdirAll(s.pin, 0o700); err != nil {
		return fmt.Errorf("make the pin directory: %w", err)
	}
	const loopback = 1 // in every namespace
	if err := s.d.maps.Outcomes.Update(cookie, nodensOutcomes{}, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return fmt.Errorf("count for pod %d: %w", cookie, err)
	}
	outside := s.attach(s.outside, ifindex, s.pinOf(cookie, "pod"))
	if light {
		return errors.Join(outside, detach(s.pinOf(cookie, "lo")))
	}
	return errors.Join(outside, s.attach(s.inside, loopback, s.pinOf(cookie, "lo")))
}

// Try has the programs look at a packet, from its Ethernet header on, as if the network namespace the
// calling thread is in had sent it, and returns what it is turned into; nil where it is left to others. It
// is counted like any other. The reply lies in buf if that is long enough, and 2 KiB are.
func (s *Answers) Try(packet, buf []byte) ([]byte, error) {
	for _, prog := range []*ebpf.Program{s.inside, s.outside} {
		run := ebpf.RunOptions{Data: packet, DataOut: buf[:cap(buf)]}
		verdict, err := prog.Run(&run)
		if err != nil {
			return nil, fmt.Errorf("try a packet: %w", err)
		}
		switch int32(verdict) {
		case -1: // TCX_NEXT
		case 0, 7: // TCX_PASS, TCX_REDIRECT
			return run.DataOut, nil
		default:
			return nil, fmt.Errorf("try a packet: it would be thrown away (verdict %d)", verdict)
		}
	}
	return nil, nil
}

func (s *Answers) pinOf(cookie uint64, name string) string {
	return filepath.Join(s.pin, strconv.FormatUint(cookie, 10)+"-"+name)
}

func (s *Answers) attach(prog *ebpf.Program, ifindex uint32, pin string) error {
	if l, err := link.LoadPinnedLink(pin, nil); err == nil {
		info, err := l.Info()
		if err == nil && info.TCX() != nil && info.TCX().Ifindex == ifindex {
			return errors.Join(l.Update(prog), l.Close())
		}
		_ = l.Close()
	}
	_ = os.Remove(pin) // of an interface that is gone
	l, err := link.AttachTCX(link.TCXOptions{Interface: int(ifindex), Program: prog, Attach: ebpf.AttachTCXEgress})
	if err != nil {
		return fmt.Errorf("answer DNS on interface %d: %w", ifindex, err)
	}
	return errors.Join(l.Pin(pin), l.Close())
}

// Detach takes a pod's programs off. Absent is fine.
func (s *Answers) Detach(cookie uint64) error {
	var errs []error
	for _, name := range []string{"lo", "pod"} {
		if err := detach(s.pinOf(cookie, name)); err != nil {
			errs = append(errs, fmt.Errorf("take the programs that answer DNS off pod %d: %w", cookie, err))
		}
	}
	return errors.Join(append(errs, s.d.forgetOutcomes(cookie))...)
}

func (d *Datapath) forgetOutcomes(cookie uint64) error {
	if err := d.maps.Outcomes.Delete(cookie); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget how pod %d was answered: %w", cookie, err)
	}
	return nil
}

// Attached lists the pods that have pins, once for each.
func (s *Answers) Attached() ([]uint64, error) { return attached(s.pin) }

func attached(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list where DNS is answered: %w", err)
	}
	var cookies []uint64
	for _, e := range entries {
		text, _, _ := strings.Cut(e.Name(), "-")
		if cookie, err := strconv.ParseUint(text, 10, 64); err == nil {
			cookies = append(cookies, cookie)
		}
	}
	return slices.Compact(cookies), nil // in the order of their names
}
