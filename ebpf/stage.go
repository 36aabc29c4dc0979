package ebpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// Stage is [Upgrade] for a dnsd that relieves one which still works with the programs at the cgroup. Where the
// pinned maps are not of this build's schema, or not there, those programs go on with the maps they have, and
// with what their dnsd does, while new ones are filled; [Datapath.Exchange] must follow. After an error, such as
// a kernel that refuses this build's programs, everything is as it was.
func Stage(o Options) (*Datapath, error) {
	o, unlock, err := o.hold()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if !staging(o) {
		return install(o)
	}
	next, err := fresh(o)
	if err != nil {
		return nil, err
	}
	// Should this be as far as it goes, whoever comes next finds what it is.
	if err := pinSchema(o, next.Maps[nodensMapSchema]); err != nil {
		next.Close()
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

// staging says whether programs are at work with other maps than this build's: of another schema, or maps whose
// pins somebody has taken away who came no further.
func staging(o Options) bool {
	if _, ok := o.foreign(); ok {
		return true
	}
	_, err := os.Stat(filepath.Join(o.PinPath, schemaPin))
	links, _ := os.ReadDir(filepath.Join(o.PinPath, linksDir))
	return errors.Is(err, os.ErrNotExist) && len(links) > 0
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
	pinned, err := ebpf.LoadPinnedMap(pin, nil)
	if err != nil {
		return fmt.Errorf("somebody has taken away the pins of the maps: %w", err)
	}
	defer func() { _ = pinned.Close() }()
	theirs, err1 := pinned.Info()
	ours, err2 := d.maps.Pods.Info()
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("ask whose map is at %s: %w", pin, err)
	}
	their, _ := theirs.ID()
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

// fresh loads the programs with maps of their own, and when the kernel has taken all of that, puts the pins of
// these maps in place of what is pinned, and takes off what answers DNS: that would go on with the old maps for as
// long as its pod lives. The programs at the cgroup hold on to those until their links are updated.
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
	dir := filepath.Join(o.PinPath, mapsDir)
	err = errors.Join(stopAnswering(o.PinPath), emptyDir(dir))
	for _, name := range pinned {
		if err == nil {
			err = next.Maps[name].Pin(filepath.Join(dir, name))
		}
	}
	if err != nil {
		next.Close()
		return nil, fmt.Errorf("replace the maps: %w", err)
	}
	return next, nil
}
