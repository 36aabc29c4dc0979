package ebpf

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// memory is the rows of an array map, shared with the kernel: the first of them, as many as are asked for.
// All have their place, so that rows stays what it is, but one beyond those must not be touched.
type memory[T any] struct {
	rows   []T
	raw    []byte
	fd     int
	mapped int // bytes, whole pages
}

func mapMemory[T any](m *ebpf.Map) (*memory[T], error) {
	size := pages(int(m.MaxEntries()) * int(unsafe.Sizeof(*new(T))))
	raw, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s into memory: %w", m, err)
	}
	return &memory[T]{rows: unsafe.Slice((*T)(unsafe.Pointer(&raw[0])), m.MaxEntries()), raw: raw, fd: m.FD(), mapped: size}, nil
}

// hold maps the first n rows and unmaps the others, which stay as they are. An array map is mapped page by
// page when it is, not when it is touched: all of ours, whatever there is in them, are tens of megabytes.
func (m *memory[T]) hold(n uint32) error {
	size := min(pages(int(n)*int(unsafe.Sizeof(*new(T)))), len(m.raw))
	var err error
	switch at, base := min(size, m.mapped), unsafe.Pointer(unsafe.SliceData(m.raw)); {
	case size < m.mapped:
		_, err = unix.MmapPtr(-1, 0, unsafe.Add(base, at), uintptr(m.mapped-size), unix.PROT_NONE,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE|unix.MAP_FIXED)
	case size > m.mapped:
		_, err = unix.MmapPtr(m.fd, int64(at), unsafe.Add(base, at), uintptr(size-m.mapped), unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_SHARED|unix.MAP_FIXED)
	}
	if err != nil {
		return fmt.Errorf("map %d rows into memory: %w", n, err)
	}
	m.mapped = size
	return nil
}

// reach makes hold enough for the first n rows, and for some more, so that it has not to be done for each.
func (m *memory[T]) reach(n uint32) error {
	if int(n)*int(unsafe.Sizeof(*new(T))) <= m.mapped {
		return nil
	}
	return m.hold(n + n/4)
}

func pages(bytes int) int {
	page := unix.Getpagesize()
	return (bytes + page - 1) / page * page
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
	if t := d.tables; t != nil {
		const all = 1 << 30 // what is there is to be read back
		return t, errors.Join(t.words.hold(all), t.services.hold(all), t.sets.hold(all), t.slots.hold(all),
			t.backends.hold(all), t.states.hold(all))
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
