package ebpf

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// What SCHEMA_VERSION stands for. If this test fails, what is pinned has another layout than before: put the
// next version into types.h, once for all that a release changes, and what the test found here.
const (
	schemaVersion = 3
	schemaDigest  = "5f8f064aea491d8c"
)

func TestLayouts(t *testing.T) {
	spec, err := loadNodens()
	must(t, err)
	var all strings.Builder
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		if m := spec.Maps[name]; m.Pinning == ebpf.PinByName || name == nodensMapSchema {
			fmt.Fprintf(&all, "%s: %s, flags %x, %d rows, %s -> %s\n", name, m.Type, m.Flags, m.MaxEntries, laidOut(m.Key), laidOut(m.Value))
		}
	}
	got := fmt.Sprintf("%x", sha256.Sum256([]byte(all.String())))[:16]
	if nodensAgreedSCHEMA_VERSION != schemaVersion || got != schemaDigest {
		t.Errorf("schema %d is of %s, here stands %d of %s:\n%s", nodensAgreedSCHEMA_VERSION, got, schemaVersion, schemaDigest, &all)
	}
}

// laidOut writes a type with all that is in it: two are the same if a program cannot tell one from the other.
func laidOut(t btf.Type) string {
	switch t := t.(type) {
	case *btf.Struct:
		s := t.Name + "{"
		for _, m := range t.Members {
			s += fmt.Sprintf("%d %s %s; ", m.Offset, m.Name, laidOut(m.Type))
		}
		return s + "}"
	case *btf.Array:
		return fmt.Sprintf("[%d]%s", t.Nelems, laidOut(t.Type))
	case *btf.Enum:
		s := t.Name + "("
		for _, v := range t.Values {
			if v.Name != "SCHEMA_VERSION" {
				s += fmt.Sprintf("%s %d ", v.Name, v.Value)
			}
		}
		return s + ")"
	case *btf.Typedef:
		return laidOut(t.Type)
	case *btf.Int:
		return fmt.Sprintf("%d %s", t.Size, t.Encoding)
	case *btf.Volatile:
		return laidOut(t.Type)
	}
	return fmt.Sprint(t)
}

// A layout that changed without another version is found out, and replaced like that of another version.
func TestForgottenVersion(t *testing.T) {
	for name, upgrade := range map[string]func(Options) (*Datapath, error){"upgrade": Upgrade, "stage": Stage} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			ensure(t, o)
			pin := filepath.Join(o.PinPath, mapsDir, nodensMapOutcomes)
			old, err := ebpf.LoadPinnedMap(pin, nil)
			must(t, err)
			must(t, old.Unpin())
			must(t, old.Close())
			old, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 8, ValueSize: 32, MaxEntries: 8192, Flags: 1})
			must(t, err)
			must(t, old.Pin(pin))
			must(t, old.Close())
			if d, err := Ensure(o); err == nil {
				t.Error("nothing is wrong?")
				_ = d.Close()
			}
			d, err := upgrade(o)
			must(t, err)
			must(t, d.Exchange())
			must(t, d.Close())
		})
	}
}

// Whoever ended after the new maps were pinned and before the programs were exchanged has left links that
// look well and programs that work with other maps. Those go on, whatever pods come, until a dnsd has filled its own.
func TestHalfAnExchange(t *testing.T) {
	w, _ := dnsWorld(t)
	o := w.options
	next, err := fresh(o)
	must(t, err)
	next.Close()
	must(t, Attached(o))

	if _, err := Ensure(o); err == nil || !strings.Contains(err.Error(), "other maps") {
		t.Errorf("empty maps were put to work: %v", err)
	}
	asks(t, w, "dnsd0")
	staged, err := Stage(o)
	must(t, err)
	asks(t, w, "dnsd0")
	must(t, staged.Exchange())
	must(t, staged.Close())
	d, err := Ensure(o)
	must(t, err)
	must(t, d.Close())
}

// Pins that cannot be exchanged stay as they are.
func TestPinsThatStay(t *testing.T) {
	w, _ := dnsWorld(t)
	must(t, os.MkdirAll(filepath.Join(w.options.PinPath, answersDir, "0-lo", "in the way"), 0o700))
	before, err := os.ReadDir(filepath.Join(w.options.PinPath, mapsDir))
	must(t, err)
	if next, err := fresh(w.options); err == nil {
		next.Close()
		t.Error("what answers DNS was not taken off, and nobody said so")
	}
	must(t, w.current())
	after, err := os.ReadDir(filepath.Join(w.options.PinPath, mapsDir))
	must(t, err)
	if len(after) != len(before) {
		t.Errorf("pinned are %v, were %v", after, before)
	}
	d, err := Ensure(w.options)
	must(t, err)
	must(t, d.Close())
	asks(t, w, "dnsd0")
}
