package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"
)

// reloading is how long a runtime may take to read its folder again.
const reloading = 2 * time.Second

// dropsIn says whether nodens goes into a file of the network's own folder and not into its list, which is
// then left to whoever owns it. That is so where a runtime that may read such folders says what it has
// loaded; where nobody says, it stays as it was found to be.
func (n *netd) dropsIn(net *network, known *loaded) bool {
	if net.list.inlined || n.refused == net.list.name {
		return false
	}
	if known != nil {
		return known.readsDropIns()
	}
	_, err := n.disk.Read(n.dropPath(net.list.name))
	return err == nil && len(net.list.ours) == 0
}

// drop puts the entry into the network's folder. It goes out of the list when the runtime has shown that
// it reads the folder: until then a pod gets nodens twice, which is once, rather than not at all. If it has
// not by then, the list is where it stays.
func (n *netd) drop(ctx context.Context, net *network, known *loaded) (change, error) {
	name, path := net.list.name, n.dropPath(net.list.name)
	var wrote change
	if f, err := n.disk.Read(path); err != nil || !sameJSON(f.data, n.entry) {
		if err := n.disk.Mkdir(filepath.Dir(path)); err != nil {
			return change{}, fmt.Errorf("make the network's folder: %w", err)
		}
		if err := place(n.disk, path, file{data: append(slices.Clone(n.entry), '\n'), mode: 0o600}); err != nil {
			return change{}, err
		}
		if err := n.poke(); err != nil {
			return change{}, err
		}
		wrote.path = path
		known = n.ask(ctx)
	}
	if known == nil {
		return wrote, nil
	}
	if !n.reads(ctx, name, len(net.list.ours), known) {
		n.refused = name
		if err := n.unDrop(name); err != nil {
			return change{}, err
		}
		back, err := n.write(net, net.list.with(n.entry))
		back.notes = append(back.notes, fmt.Sprintf("containerd %s has not loaded %s, so nodens is in the list", known.version, path))
		return back, err
	}
	data, err := net.list.without()
	if err != nil {
		return wrote, fmt.Errorf("%s: %w", net.path, err)
	}
	if patched, err := n.write(net, data); err != nil || patched.path != "" {
		return patched, err
	}
	return wrote, nil
}

// reads waits until the runtime has loaded nodens more often than the list has it.
func (n *netd) reads(ctx context.Context, network string, listed int, known *loaded) bool {
	ctx, cancel := context.WithTimeout(ctx, reloading)
	defer cancel()
	tick := time.NewTicker(reloading / 20)
	defer tick.Stop()
	for known == nil || known.has(network) <= listed {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
			known = n.ask(ctx)
		}
	}
	return true
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

// poke makes containerd read the folder again: it watches the folder, but not those below it, and
// reloads when something in it is removed.
func (n *netd) poke() error {
	path := filepath.Join(n.dir, ".poke"+tempMark)
	if err := n.disk.Create(path, file{mode: 0o600}); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the runtime read %s again: %w", n.dir, err)
	}
	return n.remove(path)
}
