package ebpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
)

// Declared is a name and what it has. Host is in lower case with its final dot.
type Declared struct {
	Host    string
	View    uint64 // ViewOf who sees it
	A, AAAA []netip.Addr
	TTL     uint32 // seconds
	Zone    string // whose SOA record negative answers carry: the end of Host
	// Virtual IPv6 addresses are told only to pods with IPv6.
	Virtual bool
	// Elsewhere means that dnsd has to be asked, since this is not all.
	Elsewhere bool
}

// wireName is a name as it is in a packet, in lower case and followed by zeros.
type wireName = [len(nodensName{}.Wire)]uint8

// held is a row of the kernel's: its hash, and the pass in which it was last among the names.
type held struct{ hash, pass uint64 }

// ErrStale is wrapped when the kernel may answer what is not true any more: what was there can be neither
// changed nor taken away. Apply is to be called again.
var ErrStale = errors.New("the kernel may answer what is not true any more")

// Apply makes the kernel answer these names and, unless they are only part of them, no others. It writes
// what differs, and returns how many rows that were. Names that do not fit are left to dnsd. What cannot be
// written is in the error and does not keep the rest from being written; those names are left to dnsd, too,
// unless it wraps ErrStale.
func (s *Answers) Apply(all iter.Seq[Declared], partial bool) (written int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pass++
	before, shown := s.hidden, []Declared(nil)
	s.hidden = map[wireName]bool{}
	var errs []error
	put := func(n *Declared) {
		key, row, ok := n.row()
		if !ok {
			return
		}
		if n.View == 0 && (s.hidden[key.Wire] || before[key.Wire]) {
			shown = append(shown, *n)
			row.Flags |= nodensAnswerFlagsANSWER_ELSEWHERE
		}
		wrote, err := s.put(key, &row)
		if err != nil {
			errs = append(errs, fmt.Errorf("write name %s: %w", n.Host, err))
		}
		written += wrote
	}
	for n := range all {
		put(&n)
	}
	before, shown = nil, slices.DeleteFunc(shown, func(n Declared) bool { key, _, _ := n.row(); return s.hidden[key.Wire] })
	for _, n := range shown {
		put(&n)
	}
	for key, had := range s.rows {
		if partial || had.pass == s.pass {
			continue
		}
		if err := s.erase(key); err != nil {
			errs = append(errs, err)
			continue
		}
		written++
	}
	return written, errors.Join(errs...)
}

// put writes a row unless it is there. One that cannot be written is not answered from: not as it was, and not
// from everybody's in the place of a namespace's own.
func (s *Answers) put(key nodensName, row *nodensAnswer) (written int, err error) {
	hash, had := s.hash(row), s.rows[key]
	if had != nil {
		had.pass = s.pass
	}
	if had != nil && had.hash == hash {
		return 0, nil
	}
	row.Version = s.version.Add(1)
	if err := s.d.maps.Names.Put(key, row); err != nil {
		err = full(err, s.d.maps.Names, nodensMapNames)
		if key.View != 0 {
			return 0, errors.Join(err, s.erase(key), s.hide(key.Wire))
		}
		return 0, errors.Join(err, s.erase(key))
	}
	s.rows[key] = &held{hash, s.pass}
	return 1, nil
}

// hide keeps everybody's row of a name, now and in this pass, from those that have one of their own.
func (s *Answers) hide(name wireName) error {
	s.hidden[name] = true
	key := nodensName{Wire: name}
	if s.rows[key] == nil {
		return nil
	}
	_, err := s.put(key, &nodensAnswer{Flags: nodensAnswerFlagsANSWER_ELSEWHERE})
	return err
}

// erase takes a row away. Absent is fine.
func (s *Answers) erase(key nodensName) error {
	if err := s.d.maps.Names.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("%w: delete a name: %w", ErrStale, err)
	}
	delete(s.rows, key)
	return nil
}

// readBack finds out what the kernel holds, a thousand rows at a time.
func (s *Answers) readBack() error {
	var keys [1000]nodensName
	var rows [len(keys)]nodensAnswer
	var cursor ebpf.MapBatchCursor
	for {
		n, err := s.d.maps.Names.BatchLookup(&cursor, keys[:], rows[:], nil)
		for i := range n {
			s.rows[keys[i]] = &held{hash: s.hash(&rows[i])}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil // that was the end
		}
		if err != nil {
			return fmt.Errorf("read the names answered in the kernel: %w", err)
		}
	}
}

// row is the name as the kernel has it; false: it does not fit.
func (n *Declared) row() (key nodensName, row nodensAnswer, ok bool) {
	key.View = n.View
	if !wire(key.Wire[:], n.Host) {
		return key, row, false
	}
	row.Ttl = binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, n.TTL))
	if n.Virtual {
		row.Flags |= nodensAnswerFlagsANSWER_VIRTUAL
	}
	zone := len(n.Host) - len(n.Zone)
	if n.Elsewhere || len(n.A) > len(row.Addr4) || len(n.AAAA) > len(row.Addr6) || zone < 0 {
		// The row is there all the same: it hides everybody's from those who have one of their own.
		row.Flags |= nodensAnswerFlagsANSWER_ELSEWHERE
		return key, row, true
	}
	row.Zone = uint8(zone) // as far from the start as text as it is on the wire
	row.N4, row.N6 = uint8(len(n.A)), uint8(len(n.AAAA))
	for i, a := range n.A {
		row.Addr4[i] = a.As4()
	}
	for i, a := range n.AAAA {
		row.Addr6[i] = a.As16()
	}
	return key, row, true
}

// hash is of everything but the version.
func (s *Answers) hash(row *nodensAnswer) uint64 {
	without := *row
	without.Version = 0
	return maphash.Bytes(s.seed, unsafe.Slice((*byte)(unsafe.Pointer(&without)), unsafe.Sizeof(without)))
}

// wire writes a name the way it is in a packet, and reports whether it fits and is one.
func wire(to []byte, host string) bool {
	if len(host) < 2 || len(host)+1 > len(to) || host[len(host)-1] != '.' {
		return false
	}
	at := 0
	for label := range strings.SplitSeq(host[:len(host)-1], ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		to[at] = byte(len(label))
		copy(to[at+1:], label)
		at += len(label) + 1
	}
	return true
}
