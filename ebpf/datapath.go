// Package ebpf turns the sockets of enrolled pods, their DNS queries to dnsd's listeners inside the pod and
// their connections to virtual addresses to one of the backends behind them, answers queries in the kernel
// where dnsd has told it how, and does none of it when in doubt.
//
// The C files hold the decisions, everything else loads them and fills their maps. Programs and maps are
// pinned, so that they outlive whoever attached them; dnsd is the only writer of the maps. Linux 5.15 is
// enough, on arm64 5.18; [Datapath.Features] names what a newer kernel would add.
package ebpf

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel,bpfeb -type agreed -type address -type endpoint -type policy -type growth -type pod_flags -type count -type health -type range -type translation -type answer_flags -type target nodens nodens.c -- -O2 -Wall -Wextra -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// DefaultPinPath is where a node's datapath is pinned.
const DefaultPinPath = "/sys/fs/bpf/nodens"

// ErrSchema is wrapped when the pinned maps have another layout than this build's; [Upgrade] replaces
// them.
var ErrSchema = errors.New("the pinned maps have another layout than this build's")

// Options says where a datapath lives. The zero value is the node's.
type Options struct {
	// CgroupPath is the cgroup2 directory whose processes, and those below it, are seen. "" is the root
	// of the hierarchy.
	CgroupPath string
	// PinPath is a directory on a bpffs, made when absent. "" is DefaultPinPath.
	PinPath string

	maxEntries map[string]uint32 // smaller maps, for tests
	noTCX      bool              // as before Linux 6.6, for tests
}

// Datapath is an attached datapath: its maps, open. The caller owns it and must Close it; that leaves
// the datapath itself attached. Methods may be called concurrently, but not after Close.
type Datapath struct {
	maps      nodensMaps
	heartbeat *memory[uint64]
	cgroup    string
	pin       string
	noTCX     bool
	seenBy    string           // how the last step of attaching made sure
	staged    *ebpf.Collection // programs that are not at work yet, or nil

	mapping sync.Mutex
	tables  *tables // nil until Services needs them
}

// Attached says whether a complete datapath of this build's schema is pinned: nil, or an error naming
// what is missing. It looks at file names only, cheap enough for every pod's ADD.
func Attached(o Options) error {
	var missing []string
	for _, pin := range pins() {
		if _, err := os.Stat(filepath.Join(o.pinPath(), pin)); err != nil {
			missing = append(missing, pin)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the datapath is not attached: %s lacks %s", o.pinPath(), strings.Join(missing, ", "))
	}
	return nil
}

// Ensure opens the pinned datapath, after attaching it or repairing whatever of it is missing, and makes
// sure that sockets see it. It blocks while another process changes the same pins. Pins of another
// schema are left as they are: the error wraps ErrSchema. So are programs at work with other maps than the
// pinned ones, which nobody may have filled: to exchange those is a dnsd's affair.
func Ensure(o Options) (*Datapath, error) {
	o, unlock, err := o.hold()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if v, ok := o.foreign(); ok {
		return nil, fmt.Errorf("%s holds %s: %w (%s)", o.PinPath, v, ErrSchema, schemaPin)
	}
	if err := elsewhere(o); err != nil {
		return nil, err
	}
	if Attached(o) == nil && verify(o) == nil {
		d, err := open(o)
		if err != nil {
			return nil, err
		}
		return d.check()
	}
	return install(o)
}

// Upgrade is Ensure that also exchanges every attached program for this build's, without a moment in
// which none is attached. Maps of another schema are replaced by empty ones; else they and all they
// hold stay.
func Upgrade(o Options) (*Datapath, error) {
	o, unlock, err := o.hold()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, ok := o.foreign(); ok {
		return replace(o)
	}
	return install(o)
}

// Remove detaches every program, the ones that turn sockets away first, and takes all pins away. Absent
// is fine.
func Remove(o Options) error {
	o.PinPath = o.pinPath()
	if _, err := os.Stat(o.PinPath); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	unlock, err := lock(o.PinPath)
	if err != nil {
		return err
	}
	defer unlock()
	for _, hook := range slices.Backward(hooks) {
		if err := detach(filepath.Join(o.PinPath, linksDir, hook)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(o.PinPath); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}

// Close lets go of the maps. Programs and maps stay pinned and at work.
func (d *Datapath) Close() error {
	var balancing error
	if d.staged != nil {
		d.staged.Close()
	}
	if d.tables != nil {
		balancing = d.tables.Close()
	}
	return errors.Join(balancing, d.heartbeat.Close(), d.maps.Close())
}

// install loads the programs against the pinned maps, makes what is not there, and brings every hook up
// to date in order. The schema pin comes last: with it the datapath is complete.
func install(o Options) (*Datapath, error) {
	next, err := load(o)
	if err != nil {
		return nil, err
	}
	defer next.Close()
	return finish(o, next)
}

// finish brings every hook up to date and says that the datapath is complete.
func finish(o Options, next *ebpf.Collection) (*Datapath, error) {
	if err := attachAll(o, next); err != nil {
		return nil, err
	}
	if err := pinSchema(filepath.Join(o.PinPath, schemaPin), next.Maps[nodensMapSchema]); err != nil {
		return nil, err
	}
	d, err := open(o)
	if err != nil {
		return nil, err
	}
	return d.check()
}

// load loads the programs against the pinned maps, and pins those that are not there.
func load(o Options) (*ebpf.Collection, error) {
	spec, err := o.spec()
	if err != nil {
		return nil, err
	}
	return loadSpec(o, spec)
}

func loadSpec(o Options, spec *ebpf.CollectionSpec) (*ebpf.Collection, error) {
	if err := spec.Variables[nodensVarCanSetRetval].Set(flag(haveSetRetval())); err != nil {
		return nil, fmt.Errorf("set %s: %w", nodensVarCanSetRetval, err)
	}
	next, err := ebpf.NewCollectionWithOptions(spec, o.collection())
	if err != nil {
		return nil, fmt.Errorf("load the datapath (Linux 5.15 is needed, on arm64 5.18): %w", explain(err))
	}
	return next, nil
}

// open opens the pinned maps.
func open(o Options) (*Datapath, error) {
	spec, err := o.spec()
	if err != nil {
		return nil, err
	}
	d := &Datapath{cgroup: o.CgroupPath, pin: o.PinPath, noTCX: o.noTCX}
	if err := spec.LoadAndAssign(&d.maps, new(o.collection())); err != nil {
		return nil, fmt.Errorf("open the datapath's maps: %w", explain(err))
	}
	if d.heartbeat, err = mapMemory[uint64](d.maps.Heartbeat); err != nil {
		return nil, errors.Join(err, d.maps.Close())
	}
	return d, nil
}

// check returns d if sockets see its programs, else closes it.
func (d *Datapath) check() (*Datapath, error) {
	how, err := d.probe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the datapath is attached at %s but does nothing: %w", d.cgroup, err), d.Close())
	}
	d.seenBy = how
	return d, nil
}

func (o Options) pinPath() string { return cmp.Or(o.PinPath, DefaultPinPath) }

// hold completes the options and keeps other processes from changing the same pins until unlock.
func (o Options) hold() (complete Options, unlock func(), err error) {
	if o, err = o.complete(); err != nil {
		return o, nil, err
	}
	unlock, err = lock(o.PinPath)
	return o, unlock, err
}

// complete fills in the defaults.
func (o Options) complete() (Options, error) {
	o.PinPath = o.pinPath()
	if o.CgroupPath == "" {
		root, err := cgroupRoot()
		if err != nil {
			return o, err
		}
		o.CgroupPath = root
	}
	return o, nil
}

func (o Options) spec() (*ebpf.CollectionSpec, error) {
	spec, err := loadNodens()
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Concat(iterators, answerers) {
		delete(spec.Programs, name)
	}
	for name, n := range o.maxEntries {
		spec.Maps[name].MaxEntries = n
	}
	return spec, nil
}

func (o Options) collection() ebpf.CollectionOptions {
	return ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: filepath.Join(o.PinPath, mapsDir)}}
}

func explain(err error) error {
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return fmt.Errorf("%w: %w", ErrSchema, err)
	}
	return err
}

func haveSetRetval() bool {
	return features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval) == nil
}

func flag(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}
