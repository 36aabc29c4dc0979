package mesh

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/nodens-dns/nodens/dnsd/replace"
)

// vipsVersion is the layout of the file; a file of another version is set aside like a broken one.
const vipsVersion = 1

// vipsFile is VIPs on disk.
type vipsFile struct {
	Version int               `json:"version"`
	V4      netip.Prefix      `json:"v4"`
	V6      netip.Prefix      `json:"v6"`
	Given   map[string]uint32 `json:"given"`
	Freed   []freedSlot       `json:"freed,omitempty"` // sorted by slot
}

// freedSlot is a slot whose host went away. It is kept until another host needs it, so that a host
// that comes back is found at its old address.
type freedSlot struct {
	Slot uint32    `json:"slot"`
	Host string    `json:"host"`
	At   time.Time `json:"at"`
}

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
		path:    path,
		v4:      v4.Masked(),
		v6:      v6.Masked(),
		slots:   uint32(1)<<min(32-v4.Bits(), 128-v6.Bits(), 31) - 2,
		given:   make(map[string]uint32),
		hosts:   make(map[uint32]string),
		freed:   make(map[uint32]time.Time),
		unsaved: make(map[string]bool),
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
	for _, f := range file.Freed {
		if v.loadable(f.Host, f.Slot) {
			v.freed[f.Slot], v.hosts[f.Slot] = f.At, f.Host
		}
	}
	if v.dirty {
		for host := range v.given {
			v.unsaved[host] = true
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
	return true
}

func (v *VIPs) report(format string, args ...any) {
	v.problems = append(v.problems, Problem{
		Source: "vips", Object: "file " + v.path, Reason: fmt.Sprintf(format, args...),
	})
}

// Save writes the pairs to disk if they changed since they were read or saved: to another file beside it
// first, then by rename, both flushed. After an error the old file is whole and Save can be repeated.
func (v *VIPs) Save() error {
	if v.path == "" || !v.dirty {
		return nil
	}
	file := vipsFile{Version: vipsVersion, V4: v.v4, V6: v.v6, Given: v.given}
	for _, slot := range slices.Sorted(maps.Keys(v.freed)) {
		file.Freed = append(file.Freed, freedSlot{slot, v.hosts[slot], v.freed[slot]})
	}
	data, err := json.Marshal(file)
	if err != nil {
		return fmt.Errorf("encode virtual addresses: %w", err)
	}
	if err := replace.File(v.path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("save virtual addresses: %w", err)
	}
	v.dirty = false
	clear(v.unsaved)
	return nil
}
