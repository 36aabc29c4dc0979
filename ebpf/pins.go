package ebpf

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const (
	mapsDir  = "maps"
	linksDir = "links"
	bpffs    = "/sys/fs/bpf"
)

// schemaPin is the schema map's pin. The version is in its name, so that a directory listing tells it.
var schemaPin = fmt.Sprintf("%s/schema-%d", mapsDir, nodensAgreedSCHEMA_VERSION)

// pins lists everything a complete datapath has below its pin path.
func pins() []string {
	all := []string{schemaPin}
	maps := reflect.TypeFor[nodensMaps]()
	for i := range maps.NumField() {
		if name := maps.Field(i).Tag.Get("ebpf"); name != nodensMapSchema && name != nodensMapQueries {
			all = append(all, filepath.Join(mapsDir, name))
		}
	}
	for _, hook := range hooks {
		all = append(all, filepath.Join(linksDir, hook))
	}
	return all
}

// foreign finds what another build has pinned: a schema of another version, or a map of another layout,
// should its author have forgotten to say so.
func (o Options) foreign() (string, bool) {
	found, _ := filepath.Glob(filepath.Join(o.PinPath, mapsDir, "schema-*")) // the pattern is a good one
	i := slices.IndexFunc(found, func(path string) bool { return filepath.Base(path) != filepath.Base(schemaPin) })
	if i >= 0 {
		return filepath.Base(found[i]), true
	}
	spec, err := o.spec()
	if err != nil {
		return "", false // who loads it will say so
	}
	for name, m := range spec.Maps {
		if m.Pinning != ebpf.PinByName {
			continue
		}
		pinned, err := ebpf.LoadPinnedMap(filepath.Join(o.PinPath, mapsDir, name), nil)
		if err != nil {
			continue
		}
		err = m.Compatible(pinned)
		_ = pinned.Close()
		if errors.Is(err, ebpf.ErrMapIncompatible) {
			return "a map " + name + " of another layout", true
		}
	}
	return "", false
}

func pinSchema(path string, schema *ebpf.Map) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := schema.Put(uint32(0), nodensAgreedSCHEMA_VERSION); err != nil {
		return fmt.Errorf("write the schema version: %w", err)
	}
	if err := schema.Pin(path); err != nil {
		return fmt.Errorf("pin %s: %w", path, err)
	}
	return nil
}

// lock makes the pin directory with what leads to it, mounts a bpffs if there is none, and holds the
// directory against other processes until unlock. The directory itself is the lock, so that none is
// left behind; who waited for one that has been removed meanwhile starts over.
func lock(pinPath string) (unlock func(), err error) {
	for {
		if err := makePinPath(pinPath); err != nil {
			return nil, err
		}
		dir, err := os.Open(pinPath)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("lock the datapath: %w", err)
		}
		if err := flock(dir); err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", pinPath, err), dir.Close())
		}
		held, err1 := dir.Stat()
		named, err2 := os.Stat(pinPath)
		if err1 == nil && err2 == nil && os.SameFile(held, named) {
			if err := makeSubdirs(pinPath); err != nil {
				return nil, errors.Join(err, dir.Close())
			}
			return func() { _ = dir.Close() }, nil
		}
		_ = dir.Close()
	}
}

func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			return err
		}
	}
}

func makePinPath(path string) error {
	if path == bpffs || strings.HasPrefix(path, bpffs+"/") {
		if on, err := onBPFFS(bpffs); err == nil && !on {
			if err := unix.Mount("bpffs", bpffs, "bpf", 0, "mode=0700"); err != nil {
				return fmt.Errorf("mount a bpffs at %s: %w", bpffs, err)
			}
		}
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make the pin directory: %w", err)
	}
	if on, err := onBPFFS(path); err != nil || !on {
		return errors.Join(fmt.Errorf("%s is not on a bpffs: nothing can be pinned there", path), err)
	}
	return nil
}

func makeSubdirs(path string) error {
	for _, dir := range []string{mapsDir, linksDir} {
		if err := os.MkdirAll(filepath.Join(path, dir), 0o700); err != nil {
			return fmt.Errorf("make the pin directory: %w", err)
		}
	}
	return nil
}

func onBPFFS(path string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, fmt.Errorf("statfs %s: %w", path, err)
	}
	return st.Type == unix.BPF_FS_MAGIC, nil
}

// cgroupRoot is where this mount namespace has its cgroup2 hierarchy, proc(5).
func cgroupRoot() (string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find the cgroup2 hierarchy: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		mount, fs, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(mount)
		if ok && strings.HasPrefix(fs, "cgroup2 ") && len(fields) > 4 {
			return fields[4], nil
		}
	}
	return "", errors.New("no cgroup2 hierarchy is mounted: socket programs attach to one")
}
