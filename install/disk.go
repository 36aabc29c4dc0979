package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// disk is what is done to the node's folders, one system call or two at a time, so that a test can cut
// the power between any of them.
type disk interface {
	// List returns the names of a folder's files and folders, sorted.
	List(dir string) ([]string, error)
	Read(path string) (file, error)
	// Create makes a new file; its contents may be lost until Sync. Its owner is who makes it where another
	// may not be had.
	Create(path string, f file) error
	Sync(path string) error
	Mkdir(dir string) error // there already is fine
	Rename(from, to string) error
	Remove(path string) error
	// SyncDir makes the folder's names as they are now survive a loss of power.
	SyncDir(dir string) error
}

// file is a regular file: what is in it, its permissions and its owner; of one that was read, also when it
// was written.
type file struct {
	data     []byte
	mode     fs.FileMode
	uid, gid int
	written  time.Time
}

// tempMark is in the name of every temporary file. Such a name begins with a dot and ends in none of the
// suffixes a runtime looks for, so half a file is never loaded.
const tempMark = ".nodens-tmp"

// place puts a file where path says, at once and for good: a reader, or whoever starts after a loss of
// power, finds the old one or the new one whole. The temporary file is in the same folder, also because
// containerd notices a rename within its folder and not one into it.
func place(d disk, path string, f file) error {
	dir, base := filepath.Split(path)
	temp := filepath.Join(dir, fmt.Sprintf(".%s%s%08x", base, tempMark, rand.Uint32()))
	err := d.Create(temp, f)
	if err == nil {
		err = d.Sync(temp)
	}
	if err == nil {
		err = d.Rename(temp, path)
	}
	if err != nil {
		_ = d.Remove(temp) // best effort: the next start sweeps
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := d.SyncDir(dir); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// sweep removes temporary files an installer left when it was killed.
func sweep(d disk, dir string) {
	names, _ := d.List(dir) // a folder that cannot be read is reported by who needs it
	for _, name := range names {
		if strings.HasPrefix(name, ".") && strings.Contains(name, tempMark) {
			_ = d.Remove(filepath.Join(dir, name))
		}
	}
}

// node is the disk of this machine.
type node struct{}

func (node) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	slices.Sort(names)
	return names, nil
}

func (node) Read(path string) (file, error) {
	info, err := os.Stat(path)
	if err != nil {
		return file{}, err
	}
	if !info.Mode().IsRegular() {
		return file{}, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	f := file{mode: info.Mode().Perm(), written: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.uid, f.gid = int(st.Uid), int(st.Gid)
	}
	f.data, err = os.ReadFile(path)
	return f, err
}

func (node) Create(path string, f file) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(f.data)
	if err == nil {
		err = out.Chmod(f.mode) // not subject to the umask
	}
	if err == nil && (f.uid != os.Geteuid() || f.gid != os.Getegid()) {
		// Without CAP_CHOWN the file is root's, whom every runtime reads as. Better than none.
		if err = out.Chown(f.uid, f.gid); errors.Is(err, syscall.EPERM) {
			err = nil
		}
	}
	return errors.Join(err, out.Close())
}

func (node) Mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (node) Sync(path string) error   { return syncPath(path) }
func (node) SyncDir(dir string) error { return syncPath(dir) }
func (node) Remove(path string) error { return os.Remove(path) }
func (node) Rename(a, b string) error { return os.Rename(a, b) }

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
