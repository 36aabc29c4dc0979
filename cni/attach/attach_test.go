package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func sample(id string) Attachment {
	return Attachment{
		Version: Version, Network: "pods", ContainerID: id, IfName: "eth0",
		Netns: "/run/netns/" + id, NetnsInode: 4026532001, NetnsCookie: 7,
		PodNamespace: "default", PodName: "web-0", PodUID: "b0c1",
		Interface: "eth0",
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/24"), netip.MustParsePrefix("fd00::3/64")},
		DNS: DNS{
			Nameservers: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00::a")},
			Searches:    []string{"default.svc.cluster.local"}, Options: []string{"ndots:5"},
		},
		Annotations: map[string]string{"nodens.io/capture": "off"},
		Created:     time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC),
		Problem:     "lo is down",
	}
}

// write writes a and returns its file's path.
func write(t *testing.T, dir string, a Attachment) string {
	t.Helper()
	if err := Write(dir, a); err != nil {
		t.Fatal(err)
	}
	name, err := a.Key().file()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by", "write")
	a := sample("c1")
	unversioned := a
	unversioned.Version = 0
	path := write(t, dir, unversioned)
	for what, read := range map[string]func() (Attachment, error){
		"Read": func() (Attachment, error) { return Read(path) },
		"Find": func() (Attachment, error) { return Find(dir, a.Key()) },
	} {
		if got, err := read(); err != nil || !reflect.DeepEqual(got, a) {
			t.Errorf("%s = %+v, %v; want %+v", what, got, err, a)
		}
	}
	if list, errs := List(dir); len(errs) != 0 || !reflect.DeepEqual(list, []Attachment{a}) {
		t.Errorf("List = %+v, %v", list, errs)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", st.Mode(), err)
	}

	b := a
	b.Problem = ""
	write(t, dir, b)
	if got, err := Read(path); err != nil || got.Problem != "" {
		t.Errorf("after a second Write: problem %q, %v", got.Problem, err)
	}
	if got := names(t, dir); !reflect.DeepEqual(got, []string{"c1:eth0.json"}) {
		t.Errorf("folder holds %q", got)
	}
}

func TestKeysThatAreNoFileNames(t *testing.T) {
	dir := t.TempDir()
	for _, k := range []Key{
		{"", "eth0"}, {"c1", ""}, {"../c1", "eth0"}, {"c1", "../eth0"}, {"..", "."}, {".c1", "eth0"},
		{"c1:eth0", "x"}, {"c1", "a:b"}, {"c\x001", "eth0"}, {"a/b", "eth0"}, {strings.Repeat("c", 250), "eth0"},
	} {
		if err := Write(dir, Attachment{ContainerID: k.ContainerID, IfName: k.IfName}); err == nil {
			t.Errorf("Write took the key %q", k)
		}
		if err := Remove(dir, k); err == nil {
			t.Errorf("Remove took the key %q", k)
		}
		if _, err := Find(dir, k); err == nil {
			t.Errorf("Find took the key %q", k)
		}
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("folder holds %q", got)
	}
	// The longest ID a runtime is known to use has 64 digits; what CNI allows beside digits is fine too.
	write(t, dir, sample(strings.Repeat("c", 64)))
	write(t, dir, sample("cnitool-77383ca0_a.b"))
}

// Wherever the file was cut, the reader knows.
func TestTruncated(t *testing.T) {
	whole, err := os.ReadFile(write(t, t.TempDir(), sample("c1")))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "c1:eth0.json")
	for n := range len(whole) - len("}\n") {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Read(path)
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), remedy) {
			t.Fatalf("cut after %d bytes: %v; want an error with the path and what to do", n, err)
		}
	}
}

func TestListGoesOnAfterBrokenFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, sample("good1"))
	write(t, dir, sample("good2"))
	whole, err := os.ReadFile(write(t, t.TempDir(), sample("x")))
	if err != nil {
		t.Fatal(err)
	}
	broken := map[string]struct{ content, want string }{
		"cut:eth0.json":     {string(whole[:40]), remedy},
		"empty:eth0.json":   {"", remedy},
		"newer:eth0.json":   {`{"version":2,"containerID":["of another shape"]}`, "version 2"},
		"foreign:eth0.json": {`{"name":"bridge"}`, "not ours"},
		"copy:eth0.json":    {string(whole), "x:eth0.json"},
		"badip:eth0.json":   {`{"version":1,"containerID":"badip","ifname":"eth0","addresses":["10.0.0.256/24"]}`, remedy},
		"nokey.json":        {`{"version":1}`, remedy},
		"trailing:x.json":   {string(whole) + "{}", remedy},
		"huge:eth0.json":    {strings.Repeat(" ", maxFile) + string(whole), "longer"},
		"notes.txt":         {"hello", "not an attachment file"},
	}
	for name, b := range broken {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(b.content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder.json"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".c9:eth0.json.123"), whole[:10], 0o600); err != nil {
		t.Fatal(err)
	}

	list, errs := List(dir)
	if len(list) != 2 || list[0].ContainerID != "good1" || list[1].ContainerID != "good2" {
		t.Errorf("List = %+v; want the two good ones", list)
	}
	if len(errs) != len(broken)+1 {
		t.Errorf("%d errors for %d broken files: %v", len(errs), len(broken)+1, errs)
	}
	text := fmt.Sprint(errors.Join(errs...))
	for name, b := range broken {
		_, rest, found := strings.Cut(text, filepath.Join(dir, name))
		line, _, _ := strings.Cut(rest, "\n")
		if !found || !strings.Contains(line, b.want) {
			t.Errorf("%s: %q; want %q", name, line, b.want)
		}
	}
}

// Who lists again sees every change, and what has not changed as it was, without reading it.
func TestReader(t *testing.T) {
	dir := t.TempDir()
	var r Reader
	look := func(want ...string) []Attachment {
		t.Helper()
		list, errs := r.List(dir)
		var got []string
		for _, a := range list {
			got = append(got, a.ContainerID+" "+a.PodName)
		}
		if len(errs) > 0 || !slices.Equal(got, want) {
			t.Fatalf("%q, %v, want %q", got, errs, want)
		}
		return list
	}
	a, b := sample("c1"), sample("c2")
	a.PodName, b.PodName = "one", "two"
	write(t, dir, a)
	path := write(t, dir, b)
	first := look("c1 one", "c2 two")
	if again := look("c1 one", "c2 two"); &again[0].Addresses[0] != &first[0].Addresses[0] {
		t.Error("an attachment that has not changed is read again")
	}
	b.PodName = "owt" // as long, and written within the same moment
	write(t, dir, b)
	look("c1 one", "c2 owt")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	look("c1 one")
	if len(r.known) != 1 {
		t.Errorf("%d files are known", len(r.known))
	}
}

func TestListOfNothing(t *testing.T) {
	if list, errs := List(filepath.Join(t.TempDir(), "absent")); list != nil || errs != nil {
		t.Errorf("absent folder: %v, %v", list, errs)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs := List(file); len(errs) != 1 || !strings.Contains(errs[0].Error(), file) {
		t.Errorf("a file for a folder: %v", errs)
	}
	if err := Write(file, sample("c1")); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("Write to a file for a folder: %v", err)
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	k := Key{"c1", "eth0"}
	if err := Remove(filepath.Join(dir, "absent"), k); err != nil {
		t.Errorf("from an absent folder: %v", err)
	}
	path := write(t, dir, sample("c1"))
	write(t, dir, sample("c11"))
	if err := os.WriteFile(filepath.Join(dir, ".c1:eth0.json.77"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Remove(dir, k); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(t, dir); !reflect.DeepEqual(got, []string{"c11:eth0.json"}) {
		t.Errorf("folder holds %q", got)
	}
	if _, err := Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read of a removed file: %v", err)
	}
}

// Many writers of one key and of many, and readers all the while: nobody sees half a file.
func TestConcurrentWrites(t *testing.T) {
	dir := t.TempDir()
	a := sample("shared")
	path := write(t, dir, a)
	var writers, readers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := Read(path); err != nil {
					t.Error(err)
					return
				}
				if _, errs := List(dir); len(errs) != 0 {
					t.Error(errs)
					return
				}
			}
		})
	}
	for i := range 8 {
		writers.Go(func() {
			for j := range 10 {
				b := a
				b.Problem = strings.Repeat("x", 1000*j)
				if err := Write(dir, b); err != nil {
					t.Error(err)
				}
			}
			if err := Write(dir, sample(fmt.Sprint("own", i))); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
	if list, errs := List(dir); len(list) != 9 || len(errs) != 0 {
		t.Errorf("List = %d, %v; want 9", len(list), errs)
	}
	if got := names(t, dir); len(got) != 9 {
		t.Errorf("folder holds %q", got)
	}
}

func TestAlive(t *testing.T) {
	inode, err := NetnsInode("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(t.TempDir(), "unmounted")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		netns string
		inode uint64
		want  bool
	}{
		{"/proc/self/ns/net", inode, true},
		{"/proc/self/ns/net", inode + 1, false},
		{left, inode, false},
		{"/run/netns/never-was", inode, false},
		{"", inode, false},
	} {
		if got := (Attachment{Netns: c.netns, NetnsInode: c.inode}).Alive(); got != c.want {
			t.Errorf("Alive of %q, inode %d = %v", c.netns, c.inode, got)
		}
	}
}
