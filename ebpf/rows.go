package ebpf

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// writeRows makes frontends point to their services. An address's own row comes last, so that it appears
// with all its ports at once.
func (s *Services) writeRows(want map[nodensFrontend]string, c *Changes) error {
	var missing []nodensFrontend
	for row, name := range want {
		index, ok := s.target(name)
		if have, there := s.rows[row]; ok && (!there || have != index) {
			missing = append(missing, row)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if time.Since(s.erased) < pause {
		waitForPrograms()
	}
	slices.SortFunc(missing, func(a, b nodensFrontend) int {
		return cmp.Or(-cmp.Compare(rank(a), rank(b)), compareRows(a, b))
	})
	for i, row := range missing {
		index, _ := s.target(want[row])
		if err := s.point(row, index); err != nil {
			return fmt.Errorf("write frontend %s (%d of %d not written): %w", row, len(missing)-i, len(missing),
				full(err, s.frontends, nodensMapFrontends))
		}
		if have, there := s.rows[row]; there && have != noService {
			s.move.Left = true
		}
		s.move.Came = s.move.Came || index != noService
		s.rows[row] = index
		if want[row] != nobody {
			c.Frontends++
		}
	}
	return nil
}

// point makes a row point to a service. One that is there is written in place (BPF_F_LOCK): the place of one
// that is replaced could be given to the next row while a program still reads it.
func (s *Services) point(row nodensFrontend, index uint32) error {
	return s.frontends.Update(row, nodensTarget{Service: index}, ebpf.UpdateLock)
}

// target is where a service's rows point; none while it could not be published.
func (s *Services) target(name string) (uint32, bool) {
	if name == nobody {
		return noService, true
	}
	index, ok := s.names[name]
	return index, ok
}

const noService = ^uint32(0) // NO_SERVICE

// surplus are the rows that are not wanted.
func (s *Services) surplus(want map[nodensFrontend]string) (rows []nodensFrontend) {
	for row := range s.rows {
		if _, ok := want[row]; !ok {
			rows = append(rows, row)
		}
	}
	return rows
}

// deleteRows deletes rows, an address's own first.
func (s *Services) deleteRows(rows []nodensFrontend, c *Changes, now time.Time) error {
	slices.SortFunc(rows, func(a, b nodensFrontend) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), compareRows(a, b))
	})
	for _, row := range rows {
		if err := s.frontends.Delete(row); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete frontend %s: %w", row, err)
		}
		if index, there := s.rows[row]; there && index != noService {
			c.Frontends++
			s.move.Left = true
		}
		delete(s.rows, row)
		s.erased = now
	}
	return nil
}

// unused are the services that no name and no row uses.
func (s *Services) unused(used map[string]bool) map[uint32]bool {
	unused := maps.Clone(s.live)
	for _, index := range s.rows {
		delete(unused, index)
	}
	for name, index := range s.names {
		if used[name] {
			delete(unused, index)
		}
	}
	return unused
}

// retire lets go of services.
func (s *Services) retire(unused map[uint32]bool, c *Changes, now time.Time) {
	maps.DeleteFunc(unused, func(index uint32, _ bool) bool { return !s.live[index] })
	for index := range unused {
		if s.tables.words.rows[index] != 0 {
			s.restSet(index, now)
		}
		s.pools.services.rest(run{index, 1}, now)
		delete(s.live, index)
		c.Services++
	}
	if len(unused) > 0 {
		maps.DeleteFunc(s.names, func(_ string, index uint32) bool { return unused[index] })
	}
}

// waitForPrograms returns when no program runs any more that was running before: the kernel may give a
// deleted row's place to a new one while a program still reads it. membarrier(2).
func waitForPrograms() {
	const global = 1 << 0 // MEMBARRIER_CMD_GLOBAL
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		time.Sleep(pause) // not with nohz_full
	}
}
