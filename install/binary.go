package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// binDir is a runtime's folder of plugins.
type binDir struct {
	disk disk
	dir  string
}

func (b *binDir) path() string { return filepath.Join(b.dir, pluginType) }

// put makes the plugin's file equal to program, by rename: one that runs now goes on as it was, and none
// is ever started half written. It says whether it wrote.
func (b *binDir) put(program []byte) (bool, error) {
	have, err := b.disk.Read(b.path())
	if err == nil && have.mode&0o111 != 0 && bytes.Equal(have.data, program) {
		return false, nil
	}
	err = place(b.disk, b.path(), file{data: program, mode: 0o755})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("%w; is %s the runtime's plugin folder? (%s)", err, b.dir, platforms)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return false, fmt.Errorf("%w; the folder must be writable by root, or hold the plugin already (%s)", err, platforms)
	}
	return err == nil, err
}

// holds says whether plugins of a network are here, one of them at least: a runtime may have several folders.
func (b *binDir) holds(plugins []string) error {
	names, err := b.disk.List(b.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not there; is it the runtime's plugin folder? (%s)", b.dir, platforms)
	}
	if err != nil {
		return fmt.Errorf("read the runtime's plugin folder: %w", err)
	}
	for _, p := range plugins {
		if slices.Contains(names, p) {
			return nil
		}
	}
	return fmt.Errorf("%s has none of the network's own plugins (%s): it is not where the runtime looks, and no pod would start (%s)",
		b.dir, strings.Join(plugins, ", "), platforms)
}

// there says whether the plugin's file is, whatever it holds.
func (b *binDir) there() bool {
	_, err := b.disk.Read(b.path())
	return err == nil
}

// platforms is where the folder is elsewhere.
const platforms = "GKE /home/kubernetes/bin, k3s /var/lib/rancher/k3s/data/cni, microk8s /var/snap/microk8s/current/opt/cni/bin, OpenShift /var/lib/cni/bin, Debian's packages /usr/lib/cni; set --bin-dir"

// is says whether the plugin's file holds program, or what is wrong with it.
func (b *binDir) is(program []byte) error {
	have, err := b.disk.Read(b.path())
	switch {
	case err != nil:
		return fmt.Errorf("the plugin is not there: %w", err)
	case have.mode&0o111 == 0:
		return fmt.Errorf("%s cannot be executed; its mode is %o", b.path(), have.mode)
	case !bytes.Equal(have.data, program):
		return fmt.Errorf("%s is another version", b.path())
	}
	return nil
}

func (b *binDir) remove() error {
	err := b.disk.Remove(b.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = b.disk.SyncDir(b.dir)
	}
	if err != nil {
		return fmt.Errorf("remove the plugin: %w", err)
	}
	return nil
}
