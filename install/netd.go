package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
)

// netd is a runtime's folder of network configurations.
type netd struct {
	disk disk
	dir  string
	// dropIn says to add a file to the network's own folder instead of an entry to its list: the list is
	// left to whoever owns it. Runtimes on libcni 1.3 and newer read it (containerd 2.1).
	dropIn bool
	entry  []byte
}

// errWait means there is no network yet: on a node that starts, its plugin comes later.
var errWait = errors.New("there is no network configuration yet; waiting for the network's own plugin")

// network is the configuration the runtime loads.
type network struct {
	path string
	file file
	list *list // nil for a .conf, which has room for one plugin only
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
			return found, nil
		}
		if errors.Is(err, fs.ErrPermission) { // to us; the runtime may read it
			return nil, fmt.Errorf("%w; the file is another user's: give nodens-install CAP_DAC_OVERRIDE", err)
		}
		bad = append(bad, fmt.Errorf("%s: %w", path, err))
	}
	return nil, errors.Join(append([]error{errWait}, bad...)...)
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
func (n *netd) chain() (change, error) {
	net, err := n.network()
	if err != nil {
		return change{}, err
	}
	switch {
	case net.list == nil:
		return n.promote(net)
	case n.dropIn && !net.list.inlined:
		return n.drop(net)
	}
	if err := n.unDrop(net.list.name); err != nil {
		return change{}, err
	}
	return n.write(net, net.list.with(n.entry))
}

// drop puts the entry into the network's folder, and takes it out of the list.
func (n *netd) drop(net *network) (change, error) {
	path := n.dropPath(net.list.name)
	var wrote change
	if f, err := n.disk.Read(path); err != nil || !sameJSON(f.data, n.entry) {
		if err := n.disk.Mkdir(filepath.Dir(path)); err != nil {
			return change{}, fmt.Errorf("make the network's folder: %w", err)
		}
		if err := place(n.disk, path, file{data: append(slices.Clone(n.entry), '\n'), mode: 0o600}); err != nil {
			return change{}, err
		}
		wrote.path = path
	}
	data, err := net.list.without()
	if err != nil {
		return wrote, fmt.Errorf("%s: %w", net.path, err)
	}
	if patched, err := n.write(net, data); err != nil || patched.path != "" {
		return patched, err // that made the runtime look
	}
	if wrote.path != "" {
		return wrote, n.poke()
	}
	return change{}, nil
}

func (n *netd) dropPath(network string) string {
	return filepath.Join(n.dir, network, "90-"+pluginType+".conf")
}

// unDrop removes the drop-in, and its folder if nobody else uses it.
func (n *netd) unDrop(network string) error {
	path := n.dropPath(network)
	if _, err := n.disk.Read(path); err != nil {
		return nil // not there, or not ours to judge
	}
	if err := n.remove(path); err != nil {
		return err
	}
	_ = n.disk.Remove(filepath.Dir(path)) // fails unless it is empty
	return n.poke()
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

// poke makes containerd read the folder again: it watches the folder, but not those below it, and
// reloads when something in it is removed.
func (n *netd) poke() error {
	path := filepath.Join(n.dir, ".poke"+tempMark)
	if err := n.disk.Create(path, file{mode: 0o600}); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the runtime read %s again: %w", n.dir, err)
	}
	return n.remove(path)
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
	for _, name := range names {
		path := filepath.Join(n.dir, name)
		if filepath.Ext(name) != ".conflist" {
			continue
		}
		net, err := n.read(path)
		if err != nil {
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
		errs = append(errs, n.forget(names))
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
	if _, err := n.disk.Read(n.dropPath(net.list.name)); err == nil && !net.list.inlined {
		return n.dropPath(net.list.name), nil
	}
	switch len(net.list.ours) {
	case 0:
		return "", fmt.Errorf("%s, which the runtime loads, does not have nodens", net.path)
	case 1:
		return net.path, nil
	}
	return "", fmt.Errorf("%s has nodens %d times", net.path, len(net.list.ours))
}
