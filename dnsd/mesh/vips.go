package mesh

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"math/bits"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// rest is how long a freed address pair is given to nobody but its former host. It outlasts every
// answer we give and the caches of well-behaved clients, so nobody can still mean the former host.
const rest = 10 * time.Minute

// vipsVersion is the layout of the file; a file of another version is set aside like a broken one.
const vipsVersion = 1

// VIPs remembers which host has which virtual address pair. A pair belongs to a host name, never to
// an object; both addresses come from one slot, and slots are counted from the start of each prefix.
// Once given, a slot stays with its host for as long as the host is wanted and for ten minutes more.
//
// VIPs belongs to one goroutine: Compile gives and frees pairs, Save writes them down. Save before a
// plan is acted on, so that no address is handed out that a restart would forget.
type VIPs struct {
	path   string
	v4, v6 netip.Prefix
	slots  uint32 // usable slots are 1..slots: never the network or the broadcast address

	given    map[string]uint32
	freed    map[string]freedSlot
	hosts    map[uint32]string // the host of every slot ever given, in use or freed
	dirty    bool
	problems []Problem // about the file; part of every plan, since only a restart clears them
}

// freedSlot is a slot whose host went away. It is kept until another host needs it, so that a host
// that comes back is found at its old address.
type freedSlot struct {
	Slot uint32    `json:"slot"`
	At   time.Time `json:"at"` // wall clock: it must mean something after a restart
}

// vipsFile is VIPs on disk.
type vipsFile struct {
	Version int                  `json:"version"`
	V4      netip.Prefix         `json:"v4"`
	V6      netip.Prefix         `json:"v6"`
	Given   map[string]uint32    `json:"given"`
	Freed   map[string]freedSlot `json:"freed,omitempty"`
}

// vipPair is what a host without an address is given.
type vipPair struct{ v4, v6 netip.Addr }

// OpenVIPs reads the pairs given so far from path, or starts with none if there is no such file. With
// path "" nothing is ever written. The pairs come from v4 and v6, as many as the smaller one holds.
//
// A file that cannot be understood does not stop the daemon and is not lost: it is renamed aside and
// every later Plan carries a Problem that says so. Most hosts still find their old address then,
// because the first slot tried follows from the host's name. An error means that the prefixes cannot
// be used, or that the file can be neither read nor renamed.
func OpenVIPs(path string, v4, v6 netip.Prefix) (*VIPs, error) {
	if !v4.IsValid() || !v4.Addr().Is4() || v4.Bits() > 30 {
		return nil, fmt.Errorf("virtual addresses: %s is not an IPv4 prefix of /30 or larger", v4)
	}
	if !v6.IsValid() || !v6.Addr().Is6() || v6.Addr().Is4In6() || v6.Bits() > 126 {
		return nil, fmt.Errorf("virtual addresses: %s is not an IPv6 prefix of /126 or larger", v6)
	}
	v := &VIPs{
		path:  path,
		v4:    v4.Masked(),
		v6:    v6.Masked(),
		slots: uint32(1)<<min(32-v4.Bits(), 128-v6.Bits(), 31) - 2,
		given: make(map[string]uint32),
		freed: make(map[string]freedSlot),
		hosts: make(map[uint32]string),
	}
	if path == "" {
		return v, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return v, nil
	}
	if err != nil {
		return nil, fmt.Errorf("virtual addresses given so far: %w", err)
	}
	var file vipsFile
	if err := json.Unmarshal(data, &file); err != nil {
		return v, v.setAside(err)
	}
	if file.Version != vipsVersion {
		return v, v.setAside(fmt.Errorf("version %d, want %d", file.Version, vipsVersion))
	}
	v.load(file)
	return v, nil
}

// setAside renames a file that cannot be understood, for a person to look at.
func (v *VIPs) setAside(reason error) error {
	aside := v.path + time.Now().UTC().Format(".broken-20060102T150405Z")
	if err := os.Rename(v.path, aside); err != nil {
		return fmt.Errorf("virtual addresses: %s is broken (%w) and cannot be set aside: %w", v.path, reason, err)
	}
	v.dirty = true
	v.report("cannot be understood (%v) and was kept as %s; hosts may have got other addresses: "+
		"to go back, repair that file, stop dnsd, rename it to %s, start dnsd", reason, aside, v.path)
	return nil
}

// load takes over what the file says. An entry that cannot be right costs its host the old address
// and nobody else's.
func (v *VIPs) load(file vipsFile) {
	if file.V4 != v.v4 || file.V6 != v.v6 {
		v.dirty = true
		v.report("was written for %s and %s; every address has moved to %s and %s, as configured",
			file.V4, file.V6, v.v4, v.v6)
	}
	for _, host := range slices.Sorted(maps.Keys(file.Given)) {
		if slot := file.Given[host]; v.loadable(host, slot) {
			v.given[host], v.hosts[slot] = slot, host
		}
	}
	for _, host := range slices.Sorted(maps.Keys(file.Freed)) {
		if f := file.Freed[host]; v.loadable(host, f.Slot) {
			v.freed[host], v.hosts[f.Slot] = f, host
		}
	}
}

func (v *VIPs) loadable(host string, slot uint32) bool {
	if slot < 1 || slot > v.slots {
		v.report("gives %s slot %d, outside 1 to %d; the host gets another", host, slot, v.slots)
		return false
	}
	if other, ok := v.hosts[slot]; ok {
		v.report("gives slot %d to both %s and %s; the second gets another", slot, other, host)
		return false
	}
	if _, ok := v.given[host]; ok {
		v.report("has %s both in use and freed; the first counts", host)
		return false
	}
	return true
}

func (v *VIPs) report(format string, args ...any) {
	v.problems = append(v.problems, Problem{
		Source: "vips", Object: "file " + v.path, Reason: fmt.Sprintf(format, args...),
	})
}

// Save writes the pairs to disk if they changed since they were read or saved: to a temporary file
// first, then by rename, both flushed. After an error the old file is whole and Save can be repeated.
func (v *VIPs) Save() error {
	if v.path == "" || !v.dirty {
		return nil
	}
	data, err := json.Marshal(vipsFile{vipsVersion, v.v4, v.v6, v.given, v.freed})
	if err != nil {
		return fmt.Errorf("encode virtual addresses: %w", err)
	}
	if err := replaceFile(v.path, append(data, '\n')); err != nil {
		return fmt.Errorf("save virtual addresses: %w", err)
	}
	v.dirty = false
	return nil
}

// replaceFile makes path hold data, and survives a crash at any moment with the old or the new whole.
func replaceFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename there is nothing left to remove
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// contains says whether addr is in a range that pairs are given from.
func (v *VIPs) contains(addr netip.Addr) bool { return v.v4.Contains(addr) || v.v6.Contains(addr) }

// holder returns the host that has addr at present, or "".
func (v *VIPs) holder(addr netip.Addr) string {
	host := v.hosts[v.slot(addr)]
	if _, ok := v.given[host]; !ok {
		return ""
	}
	return host
}

// assign gives every wanted host its pair: the one it has, the one it had, a slot nobody ever had,
// or the one that has been free for longest. Slots of announced addresses are not ours to give; a
// host keeps one it already has, though. Hosts that are not wanted lose theirs unless keep is set.
// A host missing from the result found every slot in use or resting.
func (v *VIPs) assign(wanted []string, announced map[netip.Addr]bool, keep bool) map[string]vipPair {
	taken := make(map[uint32]bool)
	for addr := range announced {
		if slot := v.slot(addr); slot != 0 {
			taken[slot] = true
		}
	}
	if !keep {
		v.free(wanted)
	}
	var fresh []string
	for _, host := range wanted {
		if _, ok := v.given[host]; ok {
			continue
		}
		if f, ok := v.freed[host]; ok && !taken[f.Slot] {
			v.give(host, f.Slot)
			continue
		}
		fresh = append(fresh, host)
	}
	slices.Sort(fresh)
	v.giveFresh(fresh, taken)

	pairs := make(map[string]vipPair, len(wanted))
	for _, host := range wanted {
		if slot, ok := v.given[host]; ok {
			pairs[host] = vipPair{v.address(v.v4, slot), v.address(v.v6, slot)}
		}
	}
	return pairs
}

// giveFresh finds slots for hosts that have none to come back to.
func (v *VIPs) giveFresh(hosts []string, taken map[uint32]bool) {
	var rested []freedSlot // sorted the first time it is needed: only when every slot was used once
	for _, host := range hosts {
		if slot := v.unused(host, taken); slot != 0 {
			v.give(host, slot)
			continue
		}
		if rested == nil {
			rested = v.rested(taken)
		}
		if len(rested) == 0 {
			return
		}
		v.give(host, rested[0].Slot)
		rested = rested[1:]
	}
}

// unused returns the first slot never given, from the one the host's name points to, or 0. Starting
// there makes nodes that never talk to each other agree on nearly all hosts.
func (v *VIPs) unused(host string, taken map[uint32]bool) uint32 {
	if uint32(len(v.hosts)) >= v.slots {
		return 0
	}
	h := fnv.New32a()
	h.Write([]byte(host))
	start := h.Sum32() % v.slots
	for i := range v.slots {
		slot := 1 + uint32((uint64(start)+uint64(i))%uint64(v.slots))
		if _, used := v.hosts[slot]; !used && !taken[slot] {
			return slot
		}
	}
	return 0
}

// rested returns the freed slots that have rested, the longest free first.
func (v *VIPs) rested(taken map[uint32]bool) []freedSlot {
	now := time.Now()
	slots := []freedSlot{}
	for _, f := range v.freed {
		if !taken[f.Slot] && now.Sub(f.At) >= rest {
			slots = append(slots, f)
		}
	}
	slices.SortFunc(slots, func(a, b freedSlot) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Slot, b.Slot))
	})
	return slots
}

func (v *VIPs) give(host string, slot uint32) {
	delete(v.freed, v.hosts[slot])
	// A host whose old slot was announced away leaves that slot unowned: it is the announcer's now.
	if f, ok := v.freed[host]; ok {
		delete(v.hosts, f.Slot)
		delete(v.freed, host)
	}
	v.given[host], v.hosts[slot] = slot, host
	v.dirty = true
}

// free lets go of every host that is not wanted; their slots begin to rest.
func (v *VIPs) free(wanted []string) {
	want := make(map[string]bool, len(wanted))
	for _, host := range wanted {
		want[host] = true
	}
	for host, slot := range v.given {
		if !want[host] {
			delete(v.given, host)
			v.freed[host] = freedSlot{slot, time.Now().UTC().Round(0)}
			v.dirty = true
		}
	}
}

// slot returns the slot of an address, or 0 if it is not one of ours to give.
func (v *VIPs) slot(addr netip.Addr) uint32 {
	var prefix netip.Prefix
	switch {
	case v.v4.Contains(addr):
		prefix = v.v4
	case v.v6.Contains(addr):
		prefix = v.v6
	default:
		return 0
	}
	a, base := addr.As16(), prefix.Addr().As16()
	hi, borrow := bits.Sub64(binary.BigEndian.Uint64(a[8:]), binary.BigEndian.Uint64(base[8:]), 0)
	upper, _ := bits.Sub64(binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(base[:8]), borrow)
	if upper != 0 || hi > uint64(v.slots) {
		return 0
	}
	return uint32(hi)
}

// address returns the slot's address in prefix; the low 64 bits cannot overflow, since a prefix
// begins with at least as many zeros as slots need.
func (v *VIPs) address(prefix netip.Prefix, slot uint32) netip.Addr {
	if prefix.Addr().Is4() {
		a := prefix.Addr().As4()
		binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+slot)
		return netip.AddrFrom4(a)
	}
	a := prefix.Addr().As16()
	binary.BigEndian.PutUint64(a[8:], binary.BigEndian.Uint64(a[8:])+uint64(slot))
	return netip.AddrFrom16(a)
}
