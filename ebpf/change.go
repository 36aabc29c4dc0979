package ebpf

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"
)

// Change does what Apply does, for who knows what differs: frontends and services that are not named stay
// as they are, a frontend whose service is "" goes, and a service goes with its last frontend. It is only
// for after an Apply that could do all it was told.
func (s *Services) Change(frontends map[Frontend]string, services map[string]Service) (Changes, error) {
	var c Changes
	now := time.Now()
	want, gone, errs := s.changed(frontends)
	used := make(map[string]bool)
	for _, name := range want {
		used[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if _, known := s.names[name]; !known && !used[name] {
			continue
		}
		if err := s.publish(name, services[name], &c, now); err != nil {
			errs = append(errs, fmt.Errorf("service %s: %w", name, err))
		}
	}
	left := make(map[uint32]bool) // services that lose a frontend
	for _, rows := range []iter.Seq[nodensFrontend]{maps.Keys(want), slices.Values(gone)} {
		for row := range rows {
			if index, there := s.rows[row]; there {
				left[index] = true
			}
		}
	}
	errs = append(errs, s.writeRows(want, &c), s.deleteRows(gone, &c, now))
	for _, index := range s.rows {
		delete(left, index)
	}
	s.retire(left, &c, now)
	s.tell()
	return c, errors.Join(errs...)
}

// changed turns frontends into rows to write and rows to delete, with those that make addresses known.
func (s *Services) changed(frontends map[Frontend]string) (want map[nodensFrontend]string, gone []nodensFrontend, errs []error) {
	stay, drop := make(map[Frontend]string), make(map[nodensFrontend]bool)
	for f, name := range frontends {
		if name == nobody {
			drop[f.row()] = true
		} else {
			stay[f] = name
		}
	}
	want, errs = wanted(stay)
	others := make(map[nodensAddress]int) // rows that stay, of the addresses that lose some
	for row := range drop {
		others[row.Addr] = 0
	}
	if len(drop) > 0 {
		for row := range s.rows {
			if n, concerned := others[row.Addr]; concerned && rank(row) > 0 && !drop[row] {
				others[row.Addr] = n + 1
			}
		}
	}
	for row := range want {
		known := nodensFrontend{Addr: row.Addr}
		if _, there := s.rows[known]; there && want[known] == nobody && !drop[known] {
			delete(want, known) // it may be a frontend, too
		}
		if n, concerned := others[row.Addr]; concerned {
			others[row.Addr] = n + 1
		}
	}
	for addr, n := range others {
		known := nodensFrontend{Addr: addr}
		if index, there := s.rows[known]; n > 0 && drop[known] {
			delete(drop, known)
			want[known] = nobody
		} else if n == 0 && there && index == noService {
			drop[known] = true
		}
	}
	return want, slices.Collect(maps.Keys(drop)), errs
}
