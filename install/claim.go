package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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
	// The time since the machine started cannot be set back, and the folder goes when it stops.
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return nil, fmt.Errorf("claim the node: %w", err)
	}
	c := &claim{dir: dir, name: fmt.Sprintf("%020d", now.Nano())}
	if err := c.post(); err != nil {
		return nil, err
	}
	return c, nil
}

// post puts the claim's file where everybody looks, in its old place if it was there before.
func (c *claim) post() error {
	// The folder above is dnsd's, whose group may ask dnsd: whoever comes first makes it as dnsd does.
	err := os.MkdirAll(filepath.Dir(c.dir), 0o755)
	if err == nil {
		err = os.MkdirAll(c.dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("make the folder of installers: %w", err)
	}
	f, err := os.CreateTemp(c.dir, ".claim-")
	if err != nil {
		return fmt.Errorf("claim the node: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(c.dir, c.name)) // locked before anybody sees it
	}
	if err != nil {
		_ = os.Remove(f.Name())
		_ = f.Close()
		return fmt.Errorf("claim the node: %w", err)
	}
	if c.held != nil {
		_ = c.held.Close()
	}
	c.held = f
	return nil
}

// newest says whether no newer installer lives.
func (c *claim) newest() (bool, error) {
	_, newer, err := c.others()
	return !newer, err
}

// errBusy means that another installer has the node.
var errBusy = errors.New("another nodens-install is at work on this node and would undo this: stop it first (systemctl stop nodens-install, or where it runs; in a cluster apply install/uninstall.yaml)")

// alone makes a claim for work that nobody else's may cross; it fails while another installer lives. One
// that comes later finds the claim.
func alone(dir string) (*claim, error) {
	c, err := stake(dir)
	if err != nil {
		return nil, err
	}
	older, newer, err := c.others()
	if err == nil && (older || newer) {
		err = errBusy
	}
	if err != nil {
		c.release()
		return nil, err
	}
	return c, nil
}

// others says whether other installers live, clears away what dead ones left, and posts the claim again
// if somebody has cleared away that.
func (c *claim) others() (older, newer bool, err error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, false, fmt.Errorf("look for other installers: %w", err)
	}
	posted := false
	for _, e := range entries {
		if e.Name() == c.name || e.Name()[0] == '.' {
			posted = posted || e.Name() == c.name
			continue
		}
		path := filepath.Join(c.dir, e.Name())
		lives, err := locked(path)
		switch {
		case err != nil:
			return false, false, fmt.Errorf("look for other installers: %w", err)
		case !lives:
			_ = os.Remove(path) // of two who see it, one removes it
		case e.Name() > c.name:
			newer = true
		default:
			older = true
		}
	}
	if posted {
		return older, newer, nil
	}
	return older, newer, c.post()
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
