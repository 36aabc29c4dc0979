// Package keep remembers on disk what each source last said, so that a daemon that starts while its control
// plane or its DNS servers are down goes on with the last good state.
package keep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/replace"
)

// every bounds how often a chatty source is written to disk; a kill loses at most this much news.
const every = time.Second

// version is of the format. A file without one is of a dnsd that wrote none, in the same format.
const version = 1

// record is what a file holds.
type record struct {
	Version int
	Written time.Time
	mesh.Input
}

// Inputs is what the sources last said, in a folder with a file for each. It may be used from several
// goroutines.
type Inputs struct {
	dir string
	log *slog.Logger
	new chan struct{} // holds one: something is dirty

	mu    sync.Mutex // guards dirty
	dirty map[string]mesh.Input
}

// Open makes the folder if need be.
func Open(dir string, log *slog.Logger) (*Inputs, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for what sources said: %w", err)
	}
	return &Inputs{dir: dir, log: log, new: make(chan struct{}, 1), dirty: map[string]mesh.Input{}}, nil
}

func (i *Inputs) path(source string) string { return filepath.Join(i.dir, source+".json") }

// Load returns what the source last said; a source that never spoke, or whose file is broken or of a later
// format, is pending.
func (i *Inputs) Load(source string) (mesh.Input, error) {
	pending := mesh.Input{Source: source, Pending: true}
	data, err := os.ReadFile(i.path(source))
	if errors.Is(err, fs.ErrNotExist) {
		return pending, nil
	}
	if err != nil {
		return pending, err
	}
	var head struct{ Version int }
	if err := json.Unmarshal(data, &head); err != nil {
		return pending, fmt.Errorf("%s: %w", i.path(source), err)
	}
	if head.Version > version {
		return pending, fmt.Errorf("%s is of format %d, a later dnsd's; this one reads %d", i.path(source), head.Version, version)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return pending, fmt.Errorf("%s: %w", i.path(source), err)
	}
	if r.Source != source {
		return pending, fmt.Errorf("%s holds source %q", i.path(source), r.Source)
	}
	i.log.Info("until the source speaks, what it said before is used", "source", source, "written", r.Written)
	return r.Input, nil
}

// Forget removes what all sources said but these: one that is switched on again after months would
// begin with what was true then.
func (i *Inputs) Forget(but ...string) error {
	entries, err := os.ReadDir(i.dir)
	if err != nil {
		return fmt.Errorf("forget sources that are not configured: %w", err)
	}
	var errs []error
	for _, e := range entries {
		source, ours := strings.CutSuffix(strings.TrimSuffix(e.Name(), ".new"), ".json")
		if !ours || slices.Contains(but, source) {
			continue
		}
		if err := os.Remove(filepath.Join(i.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("forget a source that is not configured: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Save notes in for the next write; it never blocks on the disk.
func (i *Inputs) Save(in mesh.Input) {
	if in.Pending {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.dirty[in.Source] = in
	select {
	case i.new <- struct{}{}:
	default: // it is known already
	}
}

// Run writes what is noted, at once and then at most once a second, and once more when ctx is done.
func (i *Inputs) Run(ctx context.Context) error {
	defer i.Flush()
	for {
		select {
		case <-i.new:
			i.Flush()
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return nil
		}
	}
}

// Flush writes what is noted now. What cannot be written is logged, and noted again.
func (i *Inputs) Flush() {
	i.mu.Lock()
	dirty := i.dirty
	i.dirty = map[string]mesh.Input{}
	i.mu.Unlock()
	for source, in := range dirty {
		if err := i.write(in); err != nil {
			// Tried again with the next thing the source says, and when the daemon stops.
			i.log.Error("cannot keep what the source said; a restart would wait for it", "source", source, "error", err)
			i.mu.Lock()
			if _, newer := i.dirty[source]; !newer {
				i.dirty[source] = in
			}
			i.mu.Unlock()
		}
	}
}

func (i *Inputs) write(in mesh.Input) error {
	data, err := json.Marshal(record{Version: version, Written: time.Now().UTC(), Input: in})
	if err != nil {
		return err
	}
	return replace.File(i.path(in.Source), data, 0o600)
}
