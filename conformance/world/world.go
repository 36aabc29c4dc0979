// Package world makes a small world for nodens to live in, on any Linux machine and without touching
// the rest of it: a node with a pod bridge, dnsd and the real CNI plugins, an internet with nameservers
// and services that say who they are, a mesh control plane, and pods with applications in them.
//
// The node and the internet are network namespaces; dnsd, the plugins and the applications run in a
// cgroup of their own, which is where the BPF programs are attached. All names derive from the world's
// ID, so several worlds live side by side. Close takes everything away; what a killed process could not
// take away is found by the next world, because the lock on its folder went with the process.
package world

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

// Prefix begins the name of everything a world makes.
const Prefix = "nodens-w"

// World is one node, one internet and one control plane. Its methods may be called concurrently unless
// they say otherwise.
type World struct {
	// ID is the suffix of all names: namespaces, cgroup, pins, CNI network, folder.
	ID string
	// Dir is the world's folder.
	Dir string
	// Node is where dnsd, the CNI plugins and the pod bridge are; Internet is everything beyond.
	Node, Internet *sandbox.NS
	// Zone is what the internet's nameservers know.
	Zone *Zone
	// ADS is the mesh control plane, at ADSAddress in the node.
	ADS *ControlPlane
	// West is another cluster's, which nobody has started.
	West *ControlPlane

	bin      Binaries
	config   map[string]any
	cgroup   *os.File
	unlock   func()
	internet *internet

	mu        sync.Mutex
	pods      map[string]*Pod
	dnsd      *process
	beside    *process // another dnsd
	installer *process
	etcd      *process
	dnsdPath  string // of a dnsd that is this world's alone
}

// Options are what differs between worlds.
type Options struct {
	// Bin is where the programs are.
	Bin Binaries
	// Label is written into the folder, so that Worlds can tell whose it is.
	Label string
	// Log gets the control plane's and the nameserver's own troubles; nil discards them.
	Log *slog.Logger
	// Config is what dnsd's configuration says beside the world's own; Configure can change it.
	Config map[string]any
}

func dirOf(id string) string { return filepath.Join(os.TempDir(), Prefix+id) }

// New makes a world with nothing running in it but the internet and the control plane. It needs root.
func New(o Options) (*World, error) {
	if err := Sweep(); err != nil {
		return nil, err
	}
	w := &World{ID: randomID(), bin: o.Bin, config: o.Config, pods: map[string]*Pod{}}
	w.Dir = dirOf(w.ID)
	if err := w.claim(); err != nil {
		return nil, err
	}
	if err := w.furnish(o); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// claim makes the world's folder and locks it, with no moment in which Sweep could take it for an
// abandoned one.
func (w *World) claim() error {
	done, err := lockFile(census(), syscall.LOCK_EX)
	if err != nil {
		return err
	}
	defer done()
	if err := os.Mkdir(w.Dir, 0o755); err != nil {
		return err
	}
	w.unlock, err = lockFile(filepath.Join(w.Dir, "lock"), syscall.LOCK_EX|syscall.LOCK_NB)
	return err
}

// census is locked by whoever makes a world or looks for abandoned ones.
func census() string { return filepath.Join(os.TempDir(), "."+Prefix+"worlds.lock") }

// furnish makes everything that belongs to the world.
func (w *World) furnish(o Options) (err error) {
	owner := fmt.Sprintf("%s %d\n", o.Label, os.Getpid())
	if err := os.WriteFile(filepath.Join(w.Dir, "owner"), []byte(owner), 0o644); err != nil {
		return err
	}
	for _, dir := range []string{w.runDir(), w.stateDir(), w.ManifestDir(), w.netDir(), w.path("ipam")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if w.cgroup, err = makeCgroup(w.ID); err != nil {
		return err
	}
	if err := w.wire(); err != nil {
		return err
	}
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	w.Zone = newZone()
	if w.internet, err = openInternet(w.Internet, w.Node, w.Zone); err != nil {
		return err
	}
	w.ADS, w.West = newControlPlane(w.Node, ADSAddress, log), newControlPlane(w.Node, WestAddress, log)
	if err := w.ADS.Start(); err != nil {
		return err
	}
	if err := w.writeEnter(); err != nil {
		return err
	}
	if err := w.linkPlugins(); err != nil {
		return err
	}
	return w.writeConfig()
}

// Enter is a script that runs a command where a pod's application runs, for people to look around:
// "enter POD COMMAND ...".
func (w *World) Enter() string { return w.path("enter") }

func (w *World) writeEnter() error {
	script := fmt.Sprintf(`#!/bin/sh
# enter POD COMMAND ...: runs the command in the pod: its network, its resolv.conf, its cgroup.
pid=$(cat %q/"$1.pid") || exit 1
shift
echo $$ >%q/cgroup.procs
exec nsenter --target "$pid" --net --mount "$@"
`, w.Dir, w.Cgroup())
	return os.WriteFile(w.Enter(), []byte(script), 0o755)
}

func (w *World) path(elem ...string) string {
	return filepath.Join(append([]string{w.Dir}, elem...)...)
}
func (w *World) runDir() string   { return w.path("run") }
func (w *World) stateDir() string { return w.path("state") }
func (w *World) netDir() string   { return w.path("net.d") }

// LogFile is where dnsd writes its log.
func (w *World) LogFile() string { return w.path("dnsd.log") }

// AdminSocket is where the running dnsd answers its own commands.
func (w *World) AdminSocket() string { return filepath.Join(w.runDir(), "admin.sock") }

// ManifestDir is the folder dnsd's file source watches.
func (w *World) ManifestDir() string { return w.path("manifests") }

// AttachmentDir is where the plugin leaves its attachment files.
func (w *World) AttachmentDir() string { return filepath.Join(w.runDir(), "attachments") }

// Network is the CNI network's name.
func (w *World) Network() string { return Prefix + w.ID }

// Pins is the folder below the bpffs that holds the pins.
func (w *World) Pins() string { return filepath.Join("/sys/fs/bpf", Prefix+w.ID) }

// Cgroup is the cgroup the programs are attached to and everything of the world runs in.
func (w *World) Cgroup() string { return w.cgroup.Name() }

// Close ends everything in the world and removes it. It may be called twice.
func (w *World) Close() error {
	var errs []error
	if w.ADS != nil {
		w.ADS.Stop()
		w.West.Stop()
	}
	if w.internet != nil {
		w.internet.close()
	}
	w.mu.Lock()
	for _, p := range w.pods {
		p.stopApp()
		_ = p.NS.Close()
	}
	w.mu.Unlock()
	errs = append(errs, teardown(w.ID))
	if w.cgroup != nil {
		_ = w.cgroup.Close()
	}
	for _, ns := range []*sandbox.NS{w.Node, w.Internet} {
		if ns != nil {
			_ = ns.Close()
		}
	}
	if w.unlock != nil {
		w.unlock()
	}
	return errors.Join(errs...)
}

// teardown removes everything called after the ID. What is absent already is fine.
func teardown(id string) error {
	name := Prefix + id
	errs := []error{removeCgroup(id)}
	spaces, _ := filepath.Glob(filepath.Join("/run/netns", name+"-*"))
	for _, path := range spaces {
		errs = append(errs, unmountNetns(path))
	}
	errs = append(errs, os.RemoveAll(filepath.Join("/sys/fs/bpf", name)))
	cached, _ := filepath.Glob("/var/lib/cni/results/" + name + "-*")
	for _, path := range cached {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(append(errs, os.RemoveAll(dirOf(id)))...)
}

func unmountNetns(path string) error {
	if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Existing is a world found on this machine.
type Existing struct {
	ID, Label string
	// PID is the process that made it.
	PID int
}

// Worlds lists the worlds on this machine, those without a living owner included.
func Worlds() []Existing {
	dirs, _ := filepath.Glob(dirOf("*"))
	var found []Existing
	for _, dir := range dirs {
		e := Existing{ID: strings.TrimPrefix(filepath.Base(dir), Prefix)}
		if text, err := os.ReadFile(filepath.Join(dir, "owner")); err == nil {
			_, _ = fmt.Sscanf(string(text), "%s %d", &e.Label, &e.PID)
		}
		found = append(found, e)
	}
	return found
}

// Sweep removes the worlds whose owner is gone.
func Sweep() error {
	done, err := lockFile(census(), syscall.LOCK_EX)
	if err != nil {
		return err
	}
	defer done()
	var errs []error
	for _, e := range Worlds() {
		unlock, err := lockExisting(filepath.Join(dirOf(e.ID), "lock"), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, errLocked) || errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := teardown(e.ID); err != nil {
			errs = append(errs, fmt.Errorf("remove the abandoned world %s: %w", e.ID, err))
		}
		unlock()
	}
	return errors.Join(errs...)
}

// Until calls f every few milliseconds until it returns nil; after limit it returns f's last error.
func Until(limit time.Duration, f func() error) error {
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %w", limit, err)
		}
		<-tick.C
	}
}
