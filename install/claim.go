package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// claim is an installer's place among those that run on a node. While a DaemonSet is updated there are
// two, each with another plugin to install; the newest that lives has the say, so that they do not undo
// each other's work. A claim is a file that its owner holds locked: a lock goes with its process, however
// that ends.
type claim struct {
	dir, name string
	held      *os.File
}

// stake makes the newest claim of a folder, which is made if need be.
func stake(dir string) (*claim, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of installers: %w", err)
	}
	f, err := os.CreateTemp(dir, ".claim-")
	if err != nil {
		return nil, fmt.Errorf("claim the node: %w", err)
	}
	// The time since the machine started cannot be set back, and the folder goes when it stops.
	var now unix.Timespec
	err = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now)
	c := &claim{dir: dir, name: fmt.Sprintf("%020d", now.Nano()), held: f}
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, c.name)) // locked before anybody sees it
	}
	if err != nil {
		_ = os.Remove(f.Name())
		_ = f.Close()
		return nil, fmt.Errorf("claim the node: %w", err)
	}
	return c, nil
}

// newest says whether no newer installer lives, and clears away what dead ones left.
func (c *claim) newest() (bool, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return false, fmt.Errorf("look for other installers: %w", err)
	}
	newest := true
	for _, e := range slices.Backward(entries) {
		if e.Name() == c.name || e.Name()[0] == '.' {
			continue
		}
		path := filepath.Join(c.dir, e.Name())
		lives, err := locked(path)
		switch {
		case err != nil:
			return false, fmt.Errorf("look for other installers: %w", err)
		case !lives:
			_ = os.Remove(path) // of two who see it, one removes it
		case e.Name() > c.name:
			newest = false
		}
	}
	return newest, nil
}

// locked says whether somebody holds the file; one that is gone, nobody holds.
func locked(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// release gives the claim up; whoever watches the folder sees it.
func (c *claim) release() {
	_ = os.Remove(filepath.Join(c.dir, c.name))
	_ = c.held.Close()
}
