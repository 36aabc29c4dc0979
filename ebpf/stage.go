package ebpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
)

// Stage is [Upgrade] for a dnsd that relieves one which still works with the programs at the cgroup. Where the
// pinned maps are not of this build's schema, or not those the programs work with, those go on with the maps they
// have, and with what their dnsd does, while new ones are filled; [Datapath.Exchange] must follow. After an error,
// such as a kernel that refuses this build's programs, they do so too.
func Stage(o Options) (*Datapath, error) {
	o, unlock, err := o.hold()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, ok := o.foreign(); !ok && elsewhere(o) == nil {
		return install(o)
	}
	next, err := fresh(o)
	if err != nil {
		return nil, err
	}
	d, err := open(o)
	if err != nil {
		next.Close()
		return nil, err
	}
	d.staged = next
	return d, nil
}

// elsewhere says that programs are at work with other maps than the pinned ones, or nil: somebody is between
// staging and exchanging, or came no further, or has taken the pins away. One map stands for all, as in current,
// and the programs that ask whose a socket is, which are exchanged last, for the others.
func elsewhere(o Options) error {
	pods, err := pinnedID(filepath.Join(o.PinPath, mapsDir, nodensMapPods))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, hook := range []string{nodensProgConnect4, nodensProgConnect6, nodensProgSendmsg4, nodensProgSendmsg6} {
		prog := programAt(filepath.Join(o.PinPath, linksDir, hook), o.CgroupPath)
		if prog == nil {
			continue
		}
		info, err := prog.Info()
		_ = prog.Close()
		if err != nil {
			return fmt.Errorf("ask what %s works with: %w", hook, err)
		}
		if ids, ok := info.MapIDs(); ok && !slices.Contains(ids, pods) {
			return fmt.Errorf("%s at %s works with other maps than those at %s: only a dnsd that starts may exchange it", hook, o.CgroupPath, o.PinPath)
		}
	}
	return nil
}

// pinnedID is the ID of a pinned map, never 0.
func pinnedID(pin string) (ebpf.MapID, error) {
	pinned, err := ebpf.LoadPinnedMap(pin, nil)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", pin, err)
	}
	defer func() { _ = pinned.Close() }()
	info, err := pinned.Info()
	if err != nil {
		return 0, fmt.Errorf("ask whose map is at %s: %w", pin, err)
	}
	id, _ := info.ID()
	return id, nil
}

// Exchange puts staged programs to work, if there are any: each takes the place of the one before in one step,
// and works with the maps as they are now. It fails, and changes nothing, if somebody has replaced the maps
// since: what is at work is not d's any more.
func (d *Datapath) Exchange() error {
	o, unlock, err := Options{CgroupPath: d.cgroup, PinPath: d.pin}.hold()
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.current(); err != nil {
		return err
	}
	if d.staged == nil {
		return nil
	}
	if err := attachAll(o, d.staged); err != nil {
		return err
	}
	d.staged.Close()
	d.staged = nil
	if d.seenBy, err = d.probe(); err != nil {
		return fmt.Errorf("the datapath is attached at %s but does nothing: %w", d.cgroup, err)
	}
	return nil
}

// current says why the pinned maps are not d's, or nil. One stands for all: they are replaced together.
func (d *Datapath) current() error {
	pin := filepath.Join(d.pin, mapsDir, nodensMapPods)
	their, err := pinnedID(pin)
	if err != nil {
		return fmt.Errorf("somebody has taken away the pins of the maps: %w", err)
	}
	ours, err := d.maps.Pods.Info()
	if err != nil {
		return fmt.Errorf("ask which map is this dnsd's: %w", err)
	}
	if our, ok := ours.ID(); !ok || our != their {
		return fmt.Errorf("somebody has replaced the maps: %s is of ID %d, this dnsd's is %d", pin, their, our)
	}
	return nil
}

// replace is install where the maps are of another schema: fresh ones take their place.
func replace(o Options) (*Datapath, error) {
	next, err := fresh(o)
	if err != nil {
		return nil, err
	}
	defer next.Close()
	return finish(o, next)
}

// fresh loads the programs with maps of their own, and when the kernel has taken all of that, takes off what
// answers DNS, which would go on with the old maps for as long as its pod lives, and puts the pins of the new ones
// in place of what is pinned. The programs at the cgroup hold on to the old ones until their links are updated.
func fresh(o Options) (*ebpf.Collection, error) {
	spec, err := o.spec()
	if err != nil {
		return nil, err
	}
	var pinned []string
	for name, m := range spec.Maps {
		if m.Pinning == ebpf.PinByName {
			pinned, m.Pinning = append(pinned, name), ebpf.PinNone
		}
	}
	next, err := loadSpec(o, spec)
	if err != nil {
		return nil, err
	}
	if err := exchangePins(o.PinPath, next.Maps, pinned); err != nil {
		next.Close()
		return nil, fmt.Errorf("replace the maps: %w", err)
	}
	return next, nil
}

// exchangePins pins maps and their schema beside what is pinned and then in its place; after an error what was
// there is there.
func exchangePins(pinPath string, all map[string]*ebpf.Map, pinned []string) error {
	dir := filepath.Join(pinPath, mapsDir)
	made, old := dir+"-new", dir+"-old" // a bpffs has no names with dots
	if err := errors.Join(os.RemoveAll(made), os.RemoveAll(old), os.Mkdir(made, 0o700)); err != nil {
		return err
	}
	var err error
	for _, name := range pinned {
		err = errors.Join(err, all[name].Pin(filepath.Join(made, name)))
	}
	err = errors.Join(err, pinSchema(filepath.Join(made, filepath.Base(schemaPin)), all[nodensMapSchema]))
	if err == nil {
		err = stopAnswering(pinPath)
	}
	if err == nil {
		err = os.Rename(dir, old)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(made))
	}
	if err := os.Rename(made, dir); err != nil {
		return errors.Join(err, os.Rename(old, dir))
	}
	_ = os.RemoveAll(old) // what is left of it goes the next time
	return nil
}
