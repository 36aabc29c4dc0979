package tenure

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// errTaken says that the folders are somebody else's.
var errTaken = errors.New("another dnsd works in")

// locks are the folders a dnsd works in, held against others. The right goes with the descriptors: who gets
// them by another process holds the folders, too, until both have let go.
type locks []*os.File

// release lets go of the folders, unless another process holds them as well.
func (l locks) release() {
	for _, f := range l {
		_ = f.Close()
	}
}

// alone holds the folders against another dnsd until release: two writers of one set of maps, or of one
// file of addresses, would undo each other's work. The folders themselves are the locks, so that a
// killed dnsd leaves none behind. It does not wait; the error wraps errTaken if there is somebody.
func alone(dirs ...string) (locks, error) {
	var held locks
	for _, dir := range dirs {
		f, err := lockDir(dir, held)
		if err != nil {
			held.release()
			return nil, err
		}
		held = append(held, f)
	}
	return held, nil
}

// lockDir locks dir, unless it is one of those held already under another name.
func lockDir(dir string, held locks) (*os.File, error) {
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
		err = fmt.Errorf("%w %s: stop it first, or give this one folders of its own", errTaken, dir)
	} else if err != nil {
		err = fmt.Errorf("lock the folder %s: %w", dir, err)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// Hold keeps any dnsd from working in the folders until release. Those that are not there nobody works in. It does
// not wait for one that does.
func Hold(dirs ...string) (release func(), err error) {
	held, err := alone(slices.DeleteFunc(dirs, func(dir string) bool {
		_, err := os.Stat(dir)
		return errors.Is(err, os.ErrNotExist)
	})...)
	return held.release, err
}
