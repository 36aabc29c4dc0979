package ebpf

import (
	"fmt"
	"path/filepath"
)

// Stage is [Upgrade] for a dnsd that relieves one which still holds its maps. Where those have another layout,
// the programs at the cgroup go on with them, and with what their dnsd does, while the new ones are filled;
// [Datapath.Exchange] must follow.
func Stage(o Options) (*Datapath, error) {
	if o, err := o.complete(); err != nil {
		return nil, err
	} else if _, ok := foreignSchema(o.PinPath); !ok {
		return Upgrade(o)
	}
	o, unlock, err := o.hold()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := dismantle(o.PinPath); err != nil {
		return nil, err
	}
	next, err := load(o)
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

// Exchange puts staged programs to work, if there are any: each takes the place of the one before in one step,
// and works with the maps as they are now.
func (d *Datapath) Exchange() error {
	if d.staged == nil {
		return nil
	}
	o, unlock, err := Options{CgroupPath: d.cgroup, PinPath: d.pin}.hold()
	if err != nil {
		return err
	}
	defer unlock()
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

// dismantle takes away the pins of maps of another schema. What answers DNS would go on with the old maps for
// as long as its pod lives. The programs at the cgroup hold on to them until their links are updated.
func dismantle(pinPath string) error {
	if err := stopAnswering(pinPath); err != nil {
		return err
	}
	return emptyDir(filepath.Join(pinPath, mapsDir))
}
