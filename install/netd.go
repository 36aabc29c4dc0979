package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
)

// netd is a runtime's folder of network configurations.
type netd struct {
	disk  disk
	dir   string
	entry []byte
	// ask returns what the runtime has loaded, nil where there is none that says so.
	ask func(context.Context) *loaded
	// refused is the network whose drop-in folder the runtime turned out not to read.
	refused string
}

// errWait means there is no network yet: on a node that starts, its plugin comes later.
var errWait = errors.New("there is no network configuration yet; waiting for the network's own plugin")

// network is the configuration the runtime loads.
type network struct {
	path string
	file file
	list *list // nil for a .conf, which has room for one plugin only
	// passed are the files before it that are no configuration.
	passed []error
}

// types are the network's own plugins.
func (n *network) types() (all []string) {
	if n.list == nil {
		return []string{typeOf(n.file.data)}
	}
	for i := range n.list.plugins {
		if t := typeOf(n.list.plugin(i)); t != pluginType {
			all = append(all, t)
		}
	}
	return all
}

// change is what was done to the folder.
type change struct {
	path  string   // the file written last; empty for nothing
	notes []string // what there is to say about it
}

// network returns the configuration the runtime loads: the first by name, as every runtime sorts. One
// that is no configuration is passed over, as CRI-O does; containerd stops there, and says so itself.
func (n *netd) network() (*network, error) {
	names, err := n.disk.List(n.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errWait
	}
	if err != nil {
		return nil, fmt.Errorf("read the runtime's network folder: %w", err)
	}
	var bad []error
	for _, name := range names {
		path := filepath.Join(n.dir, name)
		if !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(name)) {
			continue
		}
		found, err := n.read(path)
		if err == nil {
			found.passed = bad
			return found, nil
		}
		if errors.Is(err, fs.ErrPermission) { // to us; the runtime may read it
			return nil, hidden(err)
		}
		bad = append(bad, fmt.Errorf("%s: %w", path, err))
	}
	return nil, errors.Join(append([]error{errWait}, bad...)...)
}

func hidden(err error) error {
	return fmt.Errorf("%w; the file is another user's: give nodens-install CAP_DAC_OVERRIDE", err)
}

func (n *netd) read(path string) (*network, error) {
	f, err := n.disk.Read(path)
	if err != nil {
		return nil, err
	}
	found := &network{path: path, file: f}
	if filepath.Ext(path) == ".conflist" {
		found.list, err = parseList(f.data)
		return found, err
	}
	_, err = wrap(f.data)
	return found, err
}

// chain sees to it that the network the runtime loads ends in nodens, and says what it wrote. It writes
// nothing that is as it should be: others watch the folder too.
func (n *netd) chain(ctx context.Context, known *loaded) (change, error) {
	net, err := n.network()
	if err != nil {
		return change{}, err
	}
	switch {
	case net.list == nil:
		return n.promote(net)
	case n.dropsIn(net, known):
		return n.drop(ctx, net, known)
	}
	if err := n.unDrop(net.list.name); err != nil {
		return change{}, err
	}
	return n.write(net, net.list.with(n.entry))
}

// write replaces a network's list, keeping permissions and owner, if it is to be another.
func (n *netd) write(net *network, data []byte) (change, error) {
	if string(data) == string(net.file.data) {
		return change{}, nil
	}
	f := net.file
	f.data = data
	return n.place(net.path, f)
}

// place writes a file, and says so if it could not be given its owner.
func (n *netd) place(path string, f file) (change, error) {
	if err := place(n.disk, path, f); err != nil {
		return change{}, err
	}
	wrote := change{path: path}
	if have, err := n.disk.Read(path); err == nil && (have.uid != f.uid || have.gid != f.gid) {
		wrote.notes = append(wrote.notes, fmt.Sprintf(
			"%s belonged to %d:%d and now to %d:%d; to have that kept, give nodens-install CAP_CHOWN", path, f.uid, f.gid, have.uid, have.gid))
	}
	return wrote, nil
}

func (n *netd) remove(path string) error {
	if err := n.disk.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	if err := n.disk.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// unchain takes nodens out of every list of the folder, also out of those the runtime does not load now.
func (n *netd) unchain() (wrote []string, err error) {
	names, err := n.disk.List(n.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the runtime's network folder: %w", err)
	}
	var errs []error
	var unread []string // which what was kept may be needed for, once they are lists
	for _, name := range names {
		path := filepath.Join(n.dir, name)
		if filepath.Ext(name) != ".conflist" {
			continue
		}
		net, err := n.read(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case errors.Is(err, fs.ErrPermission):
			errs = append(errs, hidden(err))
			continue
		case err != nil:
			unread = append(unread, name)
			continue // no list of ours: we write none that cannot be read
		}
		done, err := n.leave(net)
		if err != nil {
			errs = append(errs, err)
		} else if done.path != "" {
			wrote = append(wrote, done.path)
		}
	}
	if errs == nil {
		errs = append(errs, n.forget(names, unread))
	}
	return wrote, errors.Join(errs...)
}

func (n *netd) leave(net *network) (change, error) {
	if err := n.unDrop(net.list.name); err != nil {
		return change{}, err
	}
	data, err := net.list.without()
	if err != nil {
		return change{}, fmt.Errorf("%s: %w", net.path, err)
	}
	if conf, ok := n.promoted(net.path, data); ok {
		return n.demote(net.path, conf)
	}
	return n.write(net, data)
}

// chained says whether the network the runtime loads has nodens, and where.
func (n *netd) chained() (where string, err error) {
	net, err := n.network()
	if err != nil {
		return "", err
	}
	if net.list == nil {
		return "", fmt.Errorf("%s holds a single plugin; it is to become a list", net.path)
	}
	where, have := net.path, []byte(nil)
	if f, err := n.disk.Read(n.dropPath(net.list.name)); err == nil && !net.list.inlined {
		where, have = n.dropPath(net.list.name), f.data
	} else if len(net.list.ours) > 0 {
		have = net.list.plugin(net.list.ours[0])
	}
	switch {
	case have == nil:
		return "", fmt.Errorf("%s, which the runtime loads, does not have nodens", net.path)
	case len(net.list.ours) > 1:
		return "", fmt.Errorf("%s has nodens %d times", net.path, len(net.list.ours))
	case stateDir(have) != stateDir(n.entry):
		return "", fmt.Errorf("%s notes pods in %s, and dnsd looks for them in %s (--state-dir)", where, stateDir(have), stateDir(n.entry))
	}
	return where, nil
}

// stateDir is where a plugin with this entry notes pods.
func stateDir(entry []byte) string {
	var e struct{ StateDir string }
	_ = json.Unmarshal(entry, &e) // one that is none has the default
	return cmp.Or(e.StateDir, defaultStateDir)
}
