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

// until is what an uninstaller stays for: nothing (what is left then is an error), or one of these.
type until struct{ lists, stub, stopped bool }

// run returns when what it is to stay for has come; unless that is only the lists, everything is gone then.
func (u *uninstaller) run(ctx context.Context, until until) error {
	wrote, err := u.net.unchain()
	for _, path := range wrote {
		u.log.Info("nodens is out of the list", "file", path)
	}
	if err != nil {
		return err
	}
	_, err = u.bin.disk.Read(u.bin.path())
	if !errors.Is(err, fs.ErrNotExist) {
		if _, err := u.bin.put(u.stub); err != nil {
			return err
		}
		if until.lists {
			return nil
		}
		err = u.retire(ctx, until.stub || until.stopped)
		if until.stopped && ctx.Err() != nil {
			return nil // that is how it ends
		}
		if err != nil {
			return err
		}
	}
	if until.stopped {
		<-ctx.Done()
	}
	return nil
}

// retire removes the stub when no sandbox needs it. Without wait it fails if one does.
func (u *uninstaller) retire(ctx context.Context, wait bool) error {
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
