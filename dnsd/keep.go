package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// keepEvery bounds how often a chatty source is written to disk; a kill loses at most this much news.
const keepEvery = time.Second

// keeper remembers on disk what each source last said, so that a daemon that starts while its control
// plane or its DNS servers are down goes on with the last good state.
type keeper struct {
	dir string
	log *slog.Logger
	new chan struct{} // holds one: something is dirty

	mu    sync.Mutex // guards dirty
	dirty map[string]mesh.Input
}

func newKeeper(dir string, log *slog.Logger) (*keeper, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for what sources said: %w", err)
	}
	return &keeper{dir: dir, log: log, new: make(chan struct{}, 1), dirty: map[string]mesh.Input{}}, nil
}

func (k *keeper) path(source string) string { return filepath.Join(k.dir, source+".json") }

// load returns what the source last said; a source that never spoke, or whose file is broken, is
// pending.
func (k *keeper) load(source string) (mesh.Input, error) {
	pending := mesh.Input{Source: source, Pending: true}
	data, err := os.ReadFile(k.path(source))
	if errors.Is(err, fs.ErrNotExist) {
		return pending, nil
	}
	if err != nil {
		return pending, err
	}
	var in mesh.Input
	if err := json.Unmarshal(data, &in); err != nil {
		return pending, fmt.Errorf("%s: %w", k.path(source), err)
	}
	if in.Source != source {
		return pending, fmt.Errorf("%s holds source %q", k.path(source), in.Source)
	}
	return in, nil
}

// save notes in for the next write; it never blocks on the disk.
func (k *keeper) save(in mesh.Input) {
	if in.Pending {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dirty[in.Source] = in
	select {
	case k.new <- struct{}{}:
	default: // it is known already
	}
}

// run writes what is noted, at once and then again every keepEvery, and once more when ctx is done.
func (k *keeper) run(ctx context.Context) error {
	defer k.flush()
	for {
		select {
		case <-k.new:
			k.flush()
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(keepEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

func (k *keeper) flush() {
	k.mu.Lock()
	dirty := k.dirty
	k.dirty = map[string]mesh.Input{}
	k.mu.Unlock()
	for source, in := range dirty {
		if err := k.write(in); err != nil {
			// Tried again with the next thing the source says, and when the daemon stops.
			k.log.Error("cannot keep what the source said; a restart would wait for it", "source", source, "error", err)
			k.mu.Lock()
			if _, newer := k.dirty[source]; !newer {
				k.dirty[source] = in
			}
			k.mu.Unlock()
		}
	}
}

// write replaces the source's file by rename, so that a reader sees the old whole or the new whole. The
// new one has a name of its own until then, always the same: what a kill leaves of it the next one
// overwrites.
func (k *keeper) write(in mesh.Input) error {
	data, err := json.Marshal(in)
	if err != nil {
		return err
	}
	tmp, err := os.OpenFile(k.path(in.Source)+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), k.path(in.Source))
	}
	if err != nil {
		_ = os.Remove(tmp.Name()) // what it takes of a full disk somebody else may need
	}
	return err
}
