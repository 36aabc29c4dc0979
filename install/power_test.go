package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var errPower = errors.New("the power is gone")

// inode is a file's contents and what of them is on the platter.
type inode struct {
	file
	synced bool
}

// platter is a disk that loses its power after a number of steps. What was not synced may or may not
// have reached it: of names, any first part of what was done; of contents, all, half or nothing.
type platter struct {
	names   map[string]*inode
	durable map[string]*inode
	pending []func(map[string]*inode) // changes of names since the last SyncDir, in order
	steps   int                       // until the power goes; negative: never
}

func newPlatter(files map[string]file) *platter {
	p := &platter{names: map[string]*inode{}, steps: -1}
	for path, f := range files {
		p.names[path] = &inode{f, true}
	}
	p.durable = maps.Clone(p.names)
	return p
}

func (p *platter) step() error {
	if p.steps == 0 {
		return errPower
	}
	p.steps--
	return nil
}

func (p *platter) change(f func(map[string]*inode)) {
	f(p.names)
	p.pending = append(p.pending, f)
}

func (p *platter) List(dir string) ([]string, error) {
	var names []string
	for path := range p.names {
		if filepath.Dir(path) == filepath.Clean(dir) {
			names = append(names, filepath.Base(path))
		}
	}
	slices.Sort(names)
	return names, nil
}

func (p *platter) Read(path string) (file, error) {
	if i, ok := p.names[path]; ok {
		return i.file, nil
	}
	return file{}, fs.ErrNotExist
}

func (p *platter) Create(path string, f file) error {
	if err := p.step(); err != nil {
		return err
	}
	i := &inode{f, false}
	p.change(func(names map[string]*inode) { names[path] = i })
	return nil
}

func (p *platter) Sync(path string) error {
	if err := p.step(); err != nil {
		return err
	}
	p.names[path].synced = true
	return nil
}

func (p *platter) Mkdir(string) error { return p.step() }

func (p *platter) Rename(from, to string) error {
	if err := p.step(); err != nil {
		return err
	}
	p.change(func(names map[string]*inode) {
		names[to] = names[from]
		delete(names, from)
	})
	return nil
}

func (p *platter) Remove(path string) error {
	if err := p.step(); err != nil {
		return err
	}
	if _, ok := p.names[path]; !ok {
		return fs.ErrNotExist
	}
	p.change(func(names map[string]*inode) { delete(names, path) })
	return nil
}

func (p *platter) SyncDir(string) error {
	if err := p.step(); err != nil {
		return err
	}
	p.durable, p.pending = maps.Clone(p.names), nil
	return nil
}

// afterwards returns every state the disk may be found in when the power is back.
func (p *platter) afterwards() []*platter {
	var found []*platter
	for n := 0; n <= len(p.pending); n++ {
		names := maps.Clone(p.durable)
		for _, f := range p.pending[:n] {
			f(names)
		}
		for _, part := range []int{0, 1, 2} { // halves that were written
			state := map[string]file{}
			for path, i := range names {
				f := i.file
				if !i.synced {
					f.data = f.data[:len(f.data)*part/2]
				}
				state[path] = f
			}
			found = append(found, newPlatter(state))
		}
	}
	return found
}

const (
	testConf = `{"cniVersion": "0.4.0", "name": "pods", "type": "bridge", "id": 9007199254740993}`
	testList = "{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"pods\",\n  \"plugins\": [\n    {\"type\": \"bridge\", \"id\": 9007199254740993}\n  ]\n}\n"
)

func installOn(d disk, program string) *installer {
	return &installer{
		bin: binDir{d, "/bin"}, net: netd{disk: d, dir: "/net", entry: []byte(testEntry), ask: silent},
		program: []byte(program), log: quiet,
	}
}

// nodes are what an installation may begin with.
var nodes = map[string]map[string]file{
	"list": {"/net/10-pods.conflist": {data: []byte(testList), mode: 0o600}, "/bin/nodens": {data: []byte("old"), mode: 0o755}, "/bin/bridge": {}},
	"conf": {"/net/10-pods.conf": {data: []byte(testConf), mode: 0o644}, "/bin/bridge": {}},
	"conf and somebody's list": {
		"/net/10-pods.conf":     {data: []byte(testConf), mode: 0o644},
		"/net/10-pods.conflist": {data: []byte(strings.Replace(testList, "pods", "others", 1)), mode: 0o600},
		"/bin/bridge":           {},
	},
}

// Whenever the power goes, the node comes back with a network, with a plugin that is whole where a list
// names it, and with nothing the next start does not mend; and what it was can be had back.
func TestPowerCut(t *testing.T) {
	for name, files := range nodes {
		for _, dropIn := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, drop-in %v", name, dropIn), func(t *testing.T) {
				start := func(p *platter) *installer {
					in := installOn(p, "new")
					if dropIn {
						in.net.ask = reading(in, "2.1.0", true)
					}
					return in
				}
				cutEverywhere(t, func() *platter { return newPlatter(files) },
					func(p *platter) error { _, err := start(p).settle(t.Context()); return err },
					func(when string, p *platter) {
						checkAfterCut(t, when, start(p), p)
						checkUninstalled(t, when, p, files)
					})
			})
		}
	}
}

// Taking nodens off may be cut as well, and is then done to the end: every file is what it was.
func TestPowerCutWhileUninstalling(t *testing.T) {
	for name, files := range nodes {
		for _, dropIn := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, drop-in %v", name, dropIn), func(t *testing.T) {
				installed := func() *platter {
					p := newPlatter(files)
					in := installOn(p, "new")
					if dropIn {
						in.net.ask = reading(in, "2.1.0", true)
					}
					if _, err := in.settle(t.Context()); err != nil {
						t.Fatal(err)
					}
					p.durable = maps.Clone(p.names)
					p.pending = nil
					return p
				}
				cutEverywhere(t, installed, func(p *platter) error { return takeOff(t, p) },
					func(when string, p *platter) { checkUninstalled(t, when, p, files) })
			})
		}
	}
}

// cutEverywhere does something on a fresh disk with the power cut after each of its steps, and has every
// state looked at that the disk may be in then.
func cutEverywhere(t *testing.T, fresh func() *platter, do func(*platter) error, check func(when string, p *platter)) {
	t.Helper()
	for cut := 0; ; cut++ {
		p := fresh()
		p.steps = cut
		err := do(p)
		for _, after := range p.afterwards() {
			when := fmt.Sprintf("cut after %d steps", cut)
			checkNetworks(t, when, after)
			check(when, after)
		}
		if err == nil {
			return
		}
		if !errors.Is(err, errPower) {
			t.Fatal(err)
		}
	}
}

// takeOff does an uninstaller's rounds until all is done.
func takeOff(t *testing.T, p *platter) error {
	t.Helper()
	u := uninstaller{bin: binDir{p, "/bin"}, net: netd{disk: p, dir: "/net", ask: silent}, cache: "/cache", stub: []byte("stub"), log: quiet}
	for range 5 {
		if done, err := u.round(t.Context(), tillFree); done || err != nil {
			return err
		}
	}
	t.Fatal("it comes to no end")
	return nil
}

// checkNetworks: there is a network, all of them are whole, and what they name is there.
func checkNetworks(t *testing.T, when string, p *platter) {
	t.Helper()
	if _, err := (&netd{disk: p, dir: "/net"}).network(); err != nil {
		t.Fatalf("%s: no network: %v", when, err)
	}
	named := false
	for path, i := range p.names {
		if ext := filepath.Ext(path); ext != ".conf" && ext != ".conflist" {
			continue
		}
		named = named || bytes.Contains(i.data, []byte(`"nodens"`))
		if plain(i.data) == nil || filepath.Dir(path) == "/net" && !bytes.Contains(i.data, []byte(`"bridge"`)) {
			t.Fatalf("%s: %s is %q", when, path, i.data)
		}
	}
	i, there := p.names["/bin/nodens"]
	if there && !slices.Contains([]string{"old", "new", "stub"}, string(i.data)) {
		t.Fatalf("%s: the plugin is %q", when, i.data)
	}
	if named && !there {
		t.Fatalf("%s: a list names the plugin, which is not there", when)
	}
}

func checkAfterCut(t *testing.T, when string, in *installer, p *platter) {
	t.Helper()
	sweep(p, "/bin")
	sweep(p, "/net")
	sweep(p, "/net/pods")
	for range 2 { // a list is made of a .conf first
		if _, err := in.settle(t.Context()); err != nil {
			t.Fatalf("%s: the next start: %v", when, err)
		}
	}
	if wrote, err := in.settle(t.Context()); wrote || err != nil {
		t.Fatalf("%s: the next start was not enough: %v", when, err)
	}
	if _, err := in.net.chained(); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	for path := range p.names {
		if strings.Contains(path, tempMark) {
			t.Fatalf("%s: %s was left", when, path)
		}
	}
}

// checkUninstalled takes nodens off and wants every file as it was, and no other.
func checkUninstalled(t *testing.T, when string, p *platter, files map[string]file) {
	t.Helper()
	if err := takeOff(t, p); err != nil {
		t.Fatalf("%s: uninstall: %v", when, err)
	}
	checkNetworks(t, when, p)
	sweep(p, "/net") // as the next start does
	sweep(p, "/net/pods")
	sweep(p, "/bin")
	for path, want := range files {
		if path == "/bin/nodens" {
			continue
		}
		have, err := p.Read(path)
		if err != nil || !bytes.Equal(have.data, want.data) || have.mode != want.mode {
			t.Fatalf("%s: uninstall left %s as %q, mode %o (%v); want %q", when, path, have.data, have.mode, err, want.data)
		}
	}
	for path := range p.names {
		if _, was := files[path]; !was || path == "/bin/nodens" {
			t.Fatalf("%s: uninstall left %s", when, path)
		}
	}
}
