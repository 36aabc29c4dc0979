package ebpf

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// memory is the rows of an array map, shared with the kernel.
type memory[T any] struct {
	rows []T
	raw  []byte
}

func mapMemory[T any](m *ebpf.Map) (*memory[T], error) {
	size := int(m.MaxEntries()) * int(unsafe.Sizeof(*new(T)))
	page := unix.Getpagesize()
	raw, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s into memory: %w", m, err)
	}
	return &memory[T]{rows: unsafe.Slice((*T)(unsafe.Pointer(&raw[0])), m.MaxEntries()), raw: raw}, nil
}

// Close unmaps, if anything was mapped; the rows must not be touched afterwards.
func (m *memory[T]) Close() error {
	if m == nil {
		return nil
	}
	if err := unix.Munmap(m.raw); err != nil {
		return fmt.Errorf("unmap a map: %w", err)
	}
	return nil
}

// tables are the balancing arrays.
type tables struct {
	words    *memory[uint64]
	services *memory[nodensServiceState]
	sets     *memory[nodensSet]
	slots    *memory[nodensSlot]
	backends *memory[nodensBackend]
	states   *memory[nodensBackendState]
}

// mapTables maps the balancing arrays, once for a Datapath.
func (d *Datapath) mapTables() (*tables, error) {
	d.mapping.Lock()
	defer d.mapping.Unlock()
	if d.tables != nil {
		return d.tables, nil
	}
	var t tables
	var errs [6]error
	t.words, errs[0] = mapMemory[uint64](d.maps.Services)
	t.services, errs[1] = mapMemory[nodensServiceState](d.maps.ServiceStates)
	t.sets, errs[2] = mapMemory[nodensSet](d.maps.Sets)
	t.slots, errs[3] = mapMemory[nodensSlot](d.maps.Slots)
	t.backends, errs[4] = mapMemory[nodensBackend](d.maps.Backends)
	t.states, errs[5] = mapMemory[nodensBackendState](d.maps.BackendStates)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	d.tables = &t
	return d.tables, nil
}

// Close unmaps what was mapped.
func (t *tables) Close() error {
	return errors.Join(t.words.Close(), t.services.Close(), t.sets.Close(), t.slots.Close(), t.backends.Close(),
		t.states.Close())
}
