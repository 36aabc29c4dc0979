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
		bin: binDir{d, "/bin"}, net: netd{disk: d, dir: "/net", entry: []byte(testEntry)},
		program: []byte(program), log: quiet,
	}
}

// Whenever the power goes, the node comes back with a network, with a plugin that is whole, and with
// nothing the next start does not mend.
func TestPowerCut(t *testing.T) {
	for name, files := range map[string]map[string]file{
		"list": {"/net/10-pods.conflist": {data: []byte(testList), mode: 0o600}, "/bin/nodens": {data: []byte("old"), mode: 0o755}},
		"conf": {"/net/10-pods.conf": {data: []byte(testConf), mode: 0o644}},
	} {
		t.Run(name, func(t *testing.T) {
			for cut := 0; ; cut++ {
				p := newPlatter(files)
				p.steps = cut
				_, err := installOn(p, "new").settle()
				for _, after := range p.afterwards() {
					checkAfterCut(t, fmt.Sprintf("cut after %d steps", cut), after)
				}
				if err == nil {
					return
				}
				if !errors.Is(err, errPower) {
					t.Fatal(err)
				}
			}
		})
	}
}

func checkAfterCut(t *testing.T, when string, p *platter) {
	t.Helper()
	for path, i := range p.names {
		if strings.HasSuffix(path, ".conf") || strings.HasSuffix(path, ".conflist") {
			if !bytes.Contains(i.data, []byte(`"bridge"`)) || plain(i.data) == nil {
				t.Fatalf("%s: %s is %q", when, path, i.data)
			}
		}
	}
	if i, ok := p.names["/bin/nodens"]; ok && string(i.data) != "old" && string(i.data) != "new" {
		t.Fatalf("%s: the plugin is %q", when, i.data)
	}
	in := installOn(p, "new")
	sweep(p, "/bin")
	sweep(p, "/net")
	if _, err := in.settle(); err != nil {
		t.Fatalf("%s: the next start: %v", when, err)
	}
	if wrote, err := in.settle(); wrote || err != nil {
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
