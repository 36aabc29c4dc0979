package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"time"
)

// uninstaller takes nodens off a node in the order in which no pod is ever stuck: first out of the
// networks' lists, then the plugin's file becomes a stub that lets everything pass, and the stub goes
// when no sandbox was made with a list that named it. A runtime that cannot find a plugin it used can
// neither make pods nor take them down.
type uninstaller struct {
	bin    binDir
	net    netd
	cache  string // where libcni keeps what it did for each sandbox
	stub   []byte
	claims string // as an installer's
	log    *slog.Logger
	said   string
	asked  int // rounds in which the runtime had nothing left to read and still would run the plugin
}

// reloads is how many rounds a runtime may take to read its folder again before somebody is to look at it.
const reloads = 5

// stay is how long an uninstaller stays.
type stay int

const (
	tillTried   stay = iota // not at all; that sandboxes need the stub is an error
	tillListed              // until the lists are done
	tillFree                // until no sandbox needs the stub, and it is gone
	tillStopped             // and then until it is told to end
)

// errInstalled means that somebody has installed nodens while it was to be taken off.
var errInstalled = errors.New("nodens-install install was started meanwhile: nodens stays on the node")

// run returns when what it is to stay for has come. It refuses to begin while an installer stays, which
// would put everything back behind it.
func (u *uninstaller) run(ctx context.Context, till stay) error {
	claim, err := alone(u.claims)
	if err != nil {
		return err
	}
	defer claim.release()
	err = u.work(ctx, claim, till)
	if till == tillStopped && (err == nil || ctx.Err() != nil) {
		<-ctx.Done()
		return nil // that is how it ends
	}
	return err
}

// work looks once a second at what is left to do, until there is nothing.
func (u *uninstaller) work(ctx context.Context, claim *claim, till stay) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		newest, err := claim.newest()
		if err != nil {
			return err
		}
		if !newest {
			return errInstalled
		}
		if done, err := u.round(ctx, till); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// round does what can be done now and says whether that is all.
func (u *uninstaller) round(ctx context.Context, till stay) (done bool, err error) {
	wrote, err := u.net.unchain()
	for _, path := range wrote {
		u.log.Info("nodens is out of the list", "file", path)
	}
	if err != nil {
		return false, err
	}
	needed, err := u.needed()
	if err != nil {
		return false, err
	}
	_, err = u.bin.disk.Read(u.bin.path())
	if there := !errors.Is(err, fs.ErrNotExist); there || len(needed) > 0 {
		if _, err := u.bin.put(u.stub); err != nil {
			return false, err
		}
	}
	switch {
	case till == tillListed:
		return true, nil
	case len(needed) > 0 && till == tillTried:
		return false, fmt.Errorf("%s; %s lets them go and stays until then: run uninstall again (or with --wait) when they are gone", needed, u.bin.path())
	case len(needed) > 0:
		u.say("waiting to remove the stub: "+needed.String(), "folder", u.cache)
		return false, nil
	case len(wrote) > 0:
		u.asked = 0
		return false, nil // the runtime may be at work with the list it had; a round later it has the new one
	}
	if still := u.loaded(ctx); still != nil {
		if u.asked++; u.asked < reloads {
			return false, nil
		}
		if till == tillTried {
			return false, fmt.Errorf("%w; %s stays until then: run uninstall again when it is done", still, u.bin.path())
		}
		u.say("waiting to remove the stub: " + still.Error())
		return false, nil
	}
	if err := u.bin.remove(); err != nil {
		return false, err
	}
	u.log.Info("nodens is off the node", "file", u.bin.path())
	return true, nil
}

// say logs what is waited for, once.
func (u *uninstaller) say(what string, args ...any) {
	if what != u.said {
		u.log.Info(what, args...)
		u.said = what
	}
}

// loaded is an error if the runtime says that it would still run the plugin.
func (u *uninstaller) loaded(ctx context.Context) error {
	known := u.net.ask(ctx)
	if known == nil || !samePath(known.PluginConfDir, u.net.dir) {
		return nil
	}
	for _, net := range known.Networks {
		if known.has(net.Config.Name) > 0 {
			return fmt.Errorf("containerd at %s still has nodens loaded in network %s, though no file says so: restart it", known.socket, net.Config.Name)
		}
	}
	return nil
}

// sandboxes are the names of libcni's files of those that need the plugin.
type sandboxes []string

func (s sandboxes) String() string {
	const named = 3
	if len(s) == 1 {
		return "1 sandbox was made with nodens in its list: " + s[0]
	}
	text := strings.Join(s[:min(len(s), named)], ", ")
	if len(s) > named {
		text += ", ..."
	}
	return fmt.Sprintf("%d sandboxes were made with nodens in their list: %s", len(s), text)
}

// needed are the sandboxes whose list, as the runtime keeps it, names the plugin. What was kept before
// the machine started and has no namespace any more, no runtime comes for.
func (u *uninstaller) needed() (sandboxes, error) {
	names, err := u.bin.disk.List(u.cache)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what the runtime keeps of its sandboxes: %w", err)
	}
	started, err := bootTime()
	if err != nil {
		return nil, err
	}
	var found sandboxes
	for _, name := range names {
		f, err := u.bin.disk.Read(filepath.Join(u.cache, name))
		if err != nil {
			continue // gone meanwhile
		}
		k, ok := readKept(f.data)
		if !ok || f.written.Before(started) && !k.alive(f.written) {
			continue
		}
		if l, err := k.list(); err == nil && len(l.ours) > 0 {
			found = append(found, name)
		}
	}
	return found, nil
}
