package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"
)

// uninstaller takes nodens off a node in the order in which no pod is ever stuck: first out of the
// networks' lists, then the plugin's file becomes a stub that lets everything pass, and the stub goes
// when no sandbox was made with a list that named it. A runtime that cannot find a plugin it used can
// neither make pods nor take them down.
type uninstaller struct {
	bin   binDir
	net   netd
	cache string // where libcni keeps what it did for each sandbox
	stub  []byte
	log   *slog.Logger
}

// run returns when everything is gone. Without wait it returns an error that says what is still needed.
func (u *uninstaller) run(ctx context.Context, wait bool) error {
	wrote, err := u.net.unchain()
	for _, path := range wrote {
		u.log.Info("nodens is out of the list", "file", path)
	}
	if err != nil {
		return err
	}
	if _, err := u.bin.disk.Read(u.bin.path()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := u.bin.put(u.stub); err != nil {
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		needed, err := u.needed()
		if err != nil {
			return err
		}
		if needed == 0 {
			u.log.Info("nodens is off the node", "file", u.bin.path())
			return u.bin.remove()
		}
		if !wait {
			return fmt.Errorf("%d sandboxes were made with nodens in their list; %s lets them go and stays until then: run uninstall again (or with --wait) when they are gone", needed, u.bin.path())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// needed counts the sandboxes whose list, as the runtime keeps it, names the plugin.
func (u *uninstaller) needed() (int, error) {
	names, err := u.bin.disk.List(u.cache)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read what the runtime keeps of its sandboxes: %w", err)
	}
	n := 0
	for _, name := range names {
		f, err := u.bin.disk.Read(filepath.Join(u.cache, name))
		if err != nil {
			continue // gone meanwhile
		}
		k, ok := readKept(f.data)
		if !ok {
			continue
		}
		if l, err := k.list(); err == nil && len(l.ours) > 0 {
			n++
		}
	}
	return n, nil
}
