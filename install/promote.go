package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// keptMark ends the names of copies of files that a list of ours took the place of. No runtime loads such
// a name. They go when nodens is taken off, which puts back what they are copies of.
const keptMark = ".nodens-kept"

// promote makes a list of a single plugin's .conf. The list comes first and the .conf goes after it, so
// that there is a network at every moment; the network's own plugin may write the .conf again, which
// sorts before the list, and is then promoted again.
func (n *netd) promote(net *network) (change, error) {
	data, err := wrap(net.file.data)
	if err != nil {
		return change{}, fmt.Errorf("%s: %w", net.path, err)
	}
	l, err := parseList(data)
	if err != nil {
		return change{}, fmt.Errorf("%s as a list: %w", net.path, err)
	}
	path := strings.TrimSuffix(net.path, filepath.Ext(net.path)) + ".conflist"
	notes, err := n.setAside(path, net.path, data)
	if err != nil {
		return change{}, err
	}
	if err := place(n.disk, net.path+keptMark, net.file); err != nil {
		return change{}, err
	}
	f := net.file
	f.data = l.with(n.entry) // which a drop-in may take the place of, next
	wrote, err := n.place(path, f)
	if err != nil {
		return change{}, err
	}
	wrote.notes = append(notes, wrote.notes...)
	return wrote, n.remove(net.path)
}

// setAside keeps a copy of the list at path, which is to become the one made of conf, unless it is that
// or was made of an earlier conf.
func (n *netd) setAside(path, conf string, list []byte) (notes []string, err error) {
	there, err := n.disk.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what is to be replaced: %w", err)
	}
	if l, err := parseList(there.data); err == nil {
		plain, err := l.without()
		if err == nil && (bytes.Equal(plain, list) || n.madeOf(plain, conf)) {
			return nil, nil
		}
	}
	if err := place(n.disk, path+keptMark, there); err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("%s was another network's, which the runtime did not load, since %s comes before it: kept as %s, uninstall puts it back",
		path, conf, path+keptMark)}, nil
}

// madeOf says whether a list without nodens is what a kept .conf became.
func (n *netd) madeOf(list []byte, conf string) bool {
	kept, err := n.disk.Read(conf + keptMark)
	if err != nil {
		return false
	}
	wrapped, err := wrap(kept.data)
	return err == nil && bytes.Equal(wrapped, list)
}

// promoted returns the .conf that the list at path was made of, if nobody has changed it since.
func (n *netd) promoted(path string, list []byte) (conf string, ok bool) {
	for _, ext := range []string{".conf", ".json"} {
		conf := strings.TrimSuffix(path, ".conflist") + ext
		if n.madeOf(list, conf) {
			return conf, true
		}
	}
	return "", false
}

// demote undoes promote: first the .conf, which comes before the list, then what was in the list's place.
func (n *netd) demote(path, conf string) (change, error) {
	kept, err := n.disk.Read(conf + keptMark)
	if err != nil {
		return change{}, fmt.Errorf("read what is to come back: %w", err)
	}
	wrote := change{path: conf}
	if _, err := n.disk.Read(conf); errors.Is(err, fs.ErrNotExist) { // else its owner has written a newer one
		if wrote, err = n.place(conf, kept); err != nil {
			return change{}, err
		}
	}
	aside, err := n.disk.Read(path + keptMark)
	if errors.Is(err, fs.ErrNotExist) {
		return wrote, n.remove(path)
	}
	if err != nil {
		return change{}, fmt.Errorf("read what is to come back: %w", err)
	}
	_, err = n.place(path, aside)
	return wrote, err
}

// forget removes the copies, once everything is as it was, but for those of lists that could not be read: they may
// be whole again in a moment.
func (n *netd) forget(names, unread []string) error {
	for _, name := range names {
		original, kept := strings.CutSuffix(name, keptMark)
		list := strings.TrimSuffix(original, filepath.Ext(original)) + ".conflist"
		if kept && !slices.Contains(unread, list) {
			if err := n.remove(filepath.Join(n.dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}
