package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// alone holds the folders against another dnsd until unlock: two writers of one set of maps, or of one
// file of addresses, would undo each other's work. The folders themselves are the locks, so that a
// killed dnsd leaves none behind. It does not wait: who starts a second dnsd should hear of it.
func alone(dirs ...string) (unlock func(), err error) {
	var held []*os.File
	unlock = func() {
		for _, f := range held {
			_ = f.Close()
		}
	}
	for _, dir := range dirs {
		f, err := lockDir(dir, held)
		if err != nil {
			unlock()
			return nil, err
		}
		held = append(held, f)
	}
	return unlock, nil
}

// lockDir locks dir, unless it is one of those held already under another name.
func lockDir(dir string, held []*os.File) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock the folder: %w", err)
	}
	for _, other := range held {
		a, aerr := f.Stat()
		b, berr := other.Stat()
		if aerr == nil && berr == nil && os.SameFile(a, b) {
			return f, nil
		}
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("another dnsd works in %s: stop it first, or give this one folders of its own", dir)
	} else if err != nil {
		err = fmt.Errorf("lock the folder %s: %w", dir, err)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// existing leaves out the folders that are not there: nobody works in those.
func existing(dirs ...string) []string {
	return slices.DeleteFunc(dirs, func(dir string) bool {
		_, err := os.Stat(dir)
		return errors.Is(err, os.ErrNotExist)
	})
}
