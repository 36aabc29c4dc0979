package ebpf

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

func TestEnsure(t *testing.T) {
	o := options(t)
	if err := Attached(o); err == nil {
		t.Fatal("attached before anything was")
	}
	d := ensure(t, o)
	must(t, Attached(o))
	again, err := Ensure(o)
	must(t, err)
	must(t, d.PutPod(5, Pod{View: 1}))
	pods, err := again.Pods()
	must(t, err)
	if pods[5].View != 1 {
		t.Errorf("two openings do not see the same rows: %v", pods)
	}
	must(t, again.Close())
	for _, f := range d.Features() {
		t.Logf("%+v", f)
		if f.Name == "seen" && !strings.HasPrefix(f.Detail, "a socket") {
			t.Errorf("seen by %q, want a socket: this process is inside", f.Detail)
		}
	}
}

// A process outside the cgroup has to take the kernel's word.
func TestEnsureFromOutside(t *testing.T) {
	sandbox.Root(t)
	o := Options{CgroupPath: filepath.Join(sandbox.CgroupRoot(t), "nodens-toutside"), PinPath: sandbox.Pins(t)}
	must(t, os.Mkdir(o.CgroupPath, 0o755))
	t.Cleanup(func() { _ = os.Remove(o.CgroupPath) })
	d := ensure(t, o)
	if !strings.Contains(d.Features()[0].Detail, "not below") {
		t.Errorf("seen by %q", d.Features()[0].Detail)
	}
}

// Whatever is missing is said by name, and put back without losing rows.
func TestRepair(t *testing.T) {
	w := newWorld(t)
	w.enrol(t)
	for _, pin := range []string{schemaPin, "maps/pods", "maps/sets", "links/recvmsg4", "links/sock_ops", "links/sendmsg6"} {
		must(t, os.Remove(filepath.Join(w.options.PinPath, pin)))
		if err := Attached(w.options); err == nil || !strings.Contains(err.Error(), pin) {
			t.Errorf("without %s: %v", pin, err)
		}
		repair := Ensure
		if pin == "maps/pods" { // there is another while the programs work with theirs: a dnsd's affair
			_, err := Ensure(w.options)
			if err == nil || !strings.Contains(err.Error(), "other maps") {
				t.Errorf("without %s: %v", pin, err)
			}
			repair = Upgrade
		}
		d, err := repair(w.options)
		must(t, err)
		must(t, Attached(w.options))
		pods, err := d.Pods()
		must(t, err)
		if _, ok := pods[w.cookie]; !ok && pin != "maps/pods" {
			t.Errorf("the row is gone after %s was repaired", pin)
		}
		must(t, d.PutPod(w.cookie, Pod{LB: true, Addr4: pod4})) // for the one repair that has to lose it
		must(t, d.Close())
	}
	d, err := Ensure(w.options)
	must(t, err)
	defer func() { must(t, d.Close()) }()
	s, err := d.Services()
	must(t, err)
	apply(t, s, map[Frontend]string{{Addr: vip4}: "none"}, map[string]Service{"none": {}})
	if err := w.socket(t, unix.AF_INET, unix.SOCK_STREAM, 0).connect(netip.AddrPortFrom(vip4, 1)); err != unix.ECONNREFUSED {
		t.Errorf("connect: %v; the programs do not use the repaired maps", err)
	}
}

// A link whose cgroup is gone is still pinned, but does nothing.
func TestRepairOtherCgroup(t *testing.T) {
	o := options(t)
	gone := Options{CgroupPath: filepath.Join(o.CgroupPath, "gone"), PinPath: o.PinPath}
	must(t, os.Mkdir(gone.CgroupPath, 0o755))
	d, err := Ensure(gone)
	must(t, err)
	must(t, d.Close())
	must(t, os.Remove(gone.CgroupPath))
	ensure(t, o)
	must(t, verify(o))
}

func TestRemove(t *testing.T) {
	o := options(t)
	must(t, Remove(o))
	d, err := Ensure(o)
	must(t, err)
	must(t, Remove(o))
	must(t, Remove(o))
	must(t, d.Close())
	if _, err := os.Stat(o.PinPath); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins are left: %v", err)
	}
	cgroup, err := os.Open(o.CgroupPath)
	must(t, err)
	defer func() { _ = cgroup.Close() }()
	spec, err := loadNodens()
	must(t, err)
	for _, hook := range hooks {
		r, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: spec.Programs[hook].AttachType})
		must(t, err)
		if len(r.Programs) != 0 {
			t.Errorf("%s is still attached", hook)
		}
	}
}

// Exchanging every program loses no query and no connection.
func TestUpgradeUnderLoad(t *testing.T) {
	w, _ := dnsWorld(t)
	stop, done := make(chan struct{}), sync.WaitGroup{}
	var asked int
	done.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			w.Beat()
			s := w.socket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0)
			for i, ns := range []netip.Addr{ns4a, ns4b, ns6} {
				if err := s.sendto(at53(ns)); err != nil {
					t.Error(err)
				}
				if answer, from, err := s.receive(); err != nil || from != at53(ns) || answer != "dnsd"+string(rune('0'+i)) {
					t.Errorf("query %d: %q from %s, %v", asked, answer, from, err)
				}
				asked++
			}
			s.close()
		}
	})
	for range 4 {
		d, err := Upgrade(w.options)
		must(t, err)
		w.Beat()
		must(t, d.Close())
	}
	close(stop)
	done.Wait()
	if asked < 30 {
		t.Errorf("only %d queries", asked)
	}
}

// Maps of another layout are not touched by Ensure, and replaced by Upgrade, with all hooks attached.
func TestSchema(t *testing.T) {
	o := options(t)
	old := o
	old.maxEntries = map[string]uint32{nodensMapPods: 7}
	d, err := Ensure(old)
	must(t, err)
	must(t, d.Close())
	must(t, os.Rename(filepath.Join(o.PinPath, schemaPin), filepath.Join(o.PinPath, mapsDir, "schema-0")))
	if err := Attached(o); err == nil || !strings.Contains(err.Error(), schemaPin) {
		t.Errorf("attached: %v", err)
	}
	if _, err := Ensure(o); !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "schema-0") {
		t.Fatalf("ensure: %v, want ErrSchema", err)
	}
	d, err = Upgrade(o)
	must(t, err)
	must(t, d.Close())
	must(t, Attached(o))
	ensure(t, o)
}

// Staged programs change nothing until they are exchanged, and then work with what was written meanwhile.
func TestStage(t *testing.T) {
	w, _ := dnsWorld(t)
	must(t, os.Rename(filepath.Join(w.options.PinPath, schemaPin), filepath.Join(w.options.PinPath, mapsDir, "schema-0")))
	for range 2 { // the first is given up
		d, err := Stage(w.options)
		must(t, err)
		asks(t, w, "dnsd0")
		if rows, err := d.Pods(); err != nil || len(rows) != 0 {
			t.Errorf("the new maps hold %v, %v", rows, err)
		}
		must(t, d.Close())
		must(t, os.Rename(filepath.Join(w.options.PinPath, schemaPin), filepath.Join(w.options.PinPath, mapsDir, "schema-0")))
	}
	d, err := Stage(w.options)
	must(t, err)
	d.Beat()
	must(t, d.Exchange())
	asks(t, w, "original") // the new maps have no pods
	must(t, d.Exchange())
	must(t, d.Close())
	must(t, verify(w.options))
	// Of this build's schema it is Upgrade.
	d, err = Stage(w.options)
	must(t, err)
	must(t, d.Exchange())
	must(t, d.Close())
}

// What the kernel refuses leaves everything as it was, and at work.
func TestStageThatFails(t *testing.T) {
	w, _ := dnsWorld(t)
	must(t, os.Rename(filepath.Join(w.options.PinPath, schemaPin), filepath.Join(w.options.PinPath, mapsDir, "schema-0")))
	refused := w.options
	refused.maxEntries = map[string]uint32{nodensMapPods: 1 << 31} // more than there is memory for
	for name, attach := range map[string]func(Options) (*Datapath, error){"Stage": Stage, "Upgrade": Upgrade} {
		if d, err := attach(refused); err == nil {
			must(t, d.Close())
			t.Fatalf("%s: a map of 2^31 rows was made", name)
		}
		if rows, err := ebpf.LoadPinnedMap(filepath.Join(w.options.PinPath, mapsDir, nodensMapPods), nil); err != nil {
			t.Errorf("%s has taken the maps away: %v", name, err)
		} else {
			must(t, rows.Close())
		}
	}
	asks(t, w, "dnsd0")
}

// Where the pins of the maps are gone, programs that are at work stay so until the new maps are filled.
func TestStageWithoutPins(t *testing.T) {
	w, _ := dnsWorld(t)
	must(t, os.RemoveAll(filepath.Join(w.options.PinPath, mapsDir)))
	d, err := Stage(w.options)
	must(t, err)
	asks(t, w, "dnsd0")
	d.Beat()
	must(t, d.Exchange())
	asks(t, w, "original") // the new maps have no pods
	must(t, d.Close())
}

// Who was too slow, so that the other went on, with maps of its own, leaves those alone.
func TestExchangeTooLate(t *testing.T) {
	w, _ := dnsWorld(t)
	foreign := func() {
		must(t, os.Rename(filepath.Join(w.options.PinPath, schemaPin), filepath.Join(w.options.PinPath, mapsDir, "schema-0")))
	}
	foreign()
	late, err := Stage(w.options)
	must(t, err)
	foreign()
	next, err := Stage(w.options)
	must(t, err)
	if err := late.Exchange(); err == nil || !strings.Contains(err.Error(), "somebody has replaced the maps") {
		t.Errorf("exchange: %v", err)
	}
	asks(t, w, "dnsd0")
	must(t, late.Close())
	must(t, next.Exchange())
	must(t, next.Close())
}

// An exchange that fails in the middle leaves every hook with the program it had.
func TestExchangeThatFails(t *testing.T) {
	w, _ := dnsWorld(t)
	must(t, os.Rename(filepath.Join(w.options.PinPath, schemaPin), filepath.Join(w.options.PinPath, mapsDir, "schema-0")))
	atWork := func() (ids []ebpf.ProgramID) {
		for _, hook := range hooks {
			l, err := pinnedLink(filepath.Join(w.options.PinPath, linksDir, hook), w.options.CgroupPath)
			must(t, err)
			info, err := l.Info()
			must(t, err)
			ids = append(ids, info.Program)
			must(t, l.Close())
		}
		return ids
	}
	before := atWork()
	d, err := Stage(w.options)
	must(t, err)
	must(t, d.staged.Programs[nodensProgConnect6].Close())
	if err := d.Exchange(); err == nil {
		t.Error("a closed program was attached")
	}
	if after := atWork(); !slices.Equal(before, after) {
		t.Errorf("at work were %v, now %v", before, after)
	}
	asks(t, w, "dnsd0")
	must(t, d.Close())
}

// asks has the pod ask its first nameserver.
func asks(t *testing.T, w *world, want string) {
	t.Helper()
	w.Beat()
	s := w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	defer s.close()
	must(t, s.sendto(at53(ns4a)))
	s.expect(want, at53(ns4a))
}

// Concurrent callers, as of many pods' ADD, agree on one datapath.
func TestEnsureConcurrently(t *testing.T) {
	o := options(t)
	t.Cleanup(func() { must(t, Remove(o)) })
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			d, err := Ensure(o)
			if err != nil {
				t.Error(err)
				return
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	must(t, Attached(o))
}

// A program of another tool that was there first sees our translation, not we theirs.
func TestBeforeOthers(t *testing.T) {
	o := options(t)
	other, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}, License: "GPL"})
	must(t, err)
	defer func() { _ = other.Close() }()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: o.CgroupPath, Attach: ebpf.AttachCGroupInet4Connect, Program: other})
	must(t, err)
	defer func() { _ = l.Close() }()
	d := ensure(t, o)
	for _, f := range d.Features() {
		if f.Name == "order" && !f.Present {
			t.Skipf("Linux before 6.17: %s", f.Detail)
		}
	}
	cgroup, err := os.Open(o.CgroupPath)
	must(t, err)
	defer func() { _ = cgroup.Close() }()
	r, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: ebpf.AttachCGroupInet4Connect})
	must(t, err)
	info, err := other.Info()
	must(t, err)
	if id, _ := info.ID(); len(r.Programs) != 2 || r.Programs[1].ID != id {
		t.Errorf("programs %v, want the other, %d, last", r.Programs, id)
	}
}

// A tool that attached without allowing others keeps us out, and is blamed.
func TestExclusive(t *testing.T) {
	o := options(t)
	other, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}, License: "GPL"})
	must(t, err)
	defer func() { _ = other.Close() }()
	cgroup, err := os.Open(o.CgroupPath)
	must(t, err)
	defer func() { _ = cgroup.Close() }()
	must(t, link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(cgroup.Fd()), Program: other,
		Attach: ebpf.AttachCGroupInet4Connect}))
	t.Cleanup(func() { must(t, Remove(o)) })
	_, err = Ensure(o)
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "attach connect4") {
		t.Errorf("ensure: %v, want EPERM at connect4", err)
	}
	if Attached(o) == nil {
		t.Error("half attached counts as attached")
	}
}

func TestPinPath(t *testing.T) {
	sandbox.Root(t)
	_, err := Ensure(Options{CgroupPath: sandbox.CgroupRoot(t), PinPath: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "not on a bpffs") {
		t.Errorf("pins outside a bpffs: %v", err)
	}
}
