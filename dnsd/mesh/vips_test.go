package mesh

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func openVIPs(t testing.TB, path string, v4 string) *VIPs {
	t.Helper()
	v, err := OpenVIPs(path, netip.MustParsePrefix(v4), testV6)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (p vipPair) String() string { return fmt.Sprintf("%s+%s", p.v4, p.v6) }

func save(t testing.TB, v *VIPs) {
	t.Helper()
	if err := v.Save(); err != nil {
		t.Fatal(err)
	}
}

// TestUnsaved holds what may be told to nobody: pairs that the file does not have.
func TestUnsaved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sub", "vips.json")
	v := openVIPs(t, path, "240.241.0.0/16")
	v.assign([]string{"a.test", "b.test"}, nil, false)
	if err := v.Save(); err == nil {
		t.Fatal("saved into a folder that is not there")
	}
	want := func(hosts ...string) {
		t.Helper()
		if got := slices.Sorted(maps.Keys(v.Unsaved())); !slices.Equal(got, hosts) {
			t.Errorf("unsaved are %q, want %q", got, hosts)
		}
	}
	want("a.test", "b.test")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	save(t, v)
	want()
	v = openVIPs(t, path, "240.241.0.0/16")
	v.assign([]string{"b.test", "c.test"}, nil, false)
	want("c.test")
	// On disk its pair rests: long enough, perhaps, by the time of a restart, to be another's.
	v.assign([]string{"a.test"}, nil, false)
	want("a.test")
	// In another range all have moved.
	v = openVIPs(t, path, "240.242.0.0/16")
	v.assign([]string{"a.test"}, nil, false)
	want("a.test")
	memory := openVIPs(t, "", "240.241.0.0/16")
	memory.assign([]string{"a.test"}, nil, false)
	if len(memory.Unsaved()) > 0 {
		t.Error("what is never saved has nothing unsaved")
	}
}

// TestPairs holds the addresses themselves: nodes of different builds have to agree on them.
func TestPairs(t *testing.T) {
	v := newVIPs(t)
	pairs := v.assign([]string{"news.google.com", "auto.internal", "a17061.example.com"}, nil, false)
	for host, want := range map[string]vipPair{
		"news.google.com":    {ip("240.241.250.149"), ip("2001:2::fa95")},
		"auto.internal":      {ip("240.241.4.252"), ip("2001:2::4fc")},
		"a17061.example.com": {ip("240.241.180.159"), ip("2001:2::b49f")},
	} {
		if pairs[host] != want {
			t.Errorf("%s has %v, want %v", host, pairs[host], want)
		}
		if v.holder(want.v4) != host || v.holder(want.v6) != host {
			t.Errorf("%v are held by %q and %q, want %s", want, v.holder(want.v4), v.holder(want.v6), host)
		}
	}
}

func TestEveryAddressButTheEnds(t *testing.T) {
	v := openVIPs(t, "", "240.241.0.0/28")
	var hosts []string
	for i := range 15 {
		hosts = append(hosts, fmt.Sprintf("host%d.test", i))
	}
	var got []netip.Addr
	for _, pair := range v.assign(hosts, nil, false) {
		got = append(got, pair.v4)
		if pair.v6 != address(testV6, v.slot(pair.v4)) {
			t.Errorf("%s and %s are not of one slot", pair.v4, pair.v6)
		}
	}
	slices.SortFunc(got, netip.Addr.Compare)
	if len(got) != 14 || got[0] != ip("240.241.0.1") || got[13] != ip("240.241.0.14") {
		t.Errorf("15 hosts got %v, want .1 to .14 once each", got)
	}
	for _, addr := range []string{"240.241.0.0", "240.241.0.15", "240.241.0.16", "2001:2::", "2001:2::f", "2001:2:0:1::1", "2001:2::1:0:1"} {
		if slot := v.slot(ip(addr)); slot != 0 {
			t.Errorf("%s counts as slot %d", addr, slot)
		}
	}
}

func TestBadPrefixes(t *testing.T) {
	for _, p := range [][2]string{
		{"240.241.0.0/31", "2001:2::/48"}, {"2001:2::/48", "2001:2::/48"}, {"240.241.0.0/16", "240.241.0.0/16"},
		{"240.241.0.0/16", "2001:2::/127"}, {"240.241.0.0/16", "::ffff:240.0.0.0/112"},
	} {
		if _, err := OpenVIPs("", netip.MustParsePrefix(p[0]), netip.MustParsePrefix(p[1])); err == nil {
			t.Errorf("%s and %s are accepted", p[0], p[1])
		}
	}
	if _, err := OpenVIPs("", netip.Prefix{}, netip.Prefix{}); err == nil {
		t.Error("no prefixes at all are accepted")
	}
}

func TestAnnouncedAddressesAreNotGiven(t *testing.T) {
	v := openVIPs(t, "", "240.241.0.0/29")
	announced := map[netip.Addr]bool{ip("240.241.0.1"): true, ip("2001:2::2"): true, ip("192.0.2.1"): true}
	pairs := v.assign([]string{"a.test", "b.test", "c.test", "d.test", "e.test"}, announced, false)
	if len(pairs) != 4 {
		t.Errorf("%d of 6 slots were given, two of them announced by others, want 4", len(pairs))
	}
	for host, pair := range pairs {
		if announced[pair.v4] || announced[pair.v6] {
			t.Errorf("%s was given %v, which is announced", host, pair)
		}
	}
	// One that is in use already stays.
	announced[pairs["a.test"].v4] = true
	if again := v.assign([]string{"a.test"}, announced, true); again["a.test"] != pairs["a.test"] {
		t.Errorf("a.test moved from %v to %v", pairs["a.test"], again["a.test"])
	}
}

func TestFreedRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := openVIPs(t, "", "240.241.0.0/30") // two slots
		first := v.assign([]string{"a.test", "b.test"}, nil, false)
		v.assign([]string{"b.test"}, nil, false)
		if got, want := v.Usage(), (Usage{Used: 1, Resting: 1, Size: 2}); got != want {
			t.Errorf("usage %+v, want %+v", got, want)
		}
		time.Sleep(time.Minute)
		v.assign(nil, nil, false)

		time.Sleep(rest - time.Minute - time.Second)
		if got := v.assign([]string{"c.test"}, nil, true); len(got) != 0 {
			t.Errorf("c.test got %v before anything had rested", got["c.test"])
		}
		time.Sleep(time.Second)
		if got, want := v.Usage(), (Usage{Resting: 1, Size: 2}); got != want {
			t.Errorf("usage %+v, want %+v", got, want)
		}
		if got := v.assign([]string{"c.test"}, nil, true)["c.test"]; got != first["a.test"] {
			t.Errorf("c.test got %v, want a.test's %v, free for longest", got, first["a.test"])
		}
		if got := v.assign([]string{"a.test", "c.test"}, nil, true); len(got) != 1 {
			t.Errorf("a.test got %v while b.test's was resting and its own taken", got["a.test"])
		}
		if got := v.assign([]string{"b.test", "c.test"}, nil, true)["b.test"]; got != first["b.test"] {
			t.Errorf("b.test came back to %v, want its old %v", got, first["b.test"])
		}
	})
}

// TestPairsOverTime adds, deletes and announces at random, restarts now and then, and checks after
// every step that no host has moved and nobody got what was another's less than ten minutes ago.
func TestPairsOverTime(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 7))
			path := filepath.Join(t.TempDir(), "vips.json")
			v := openVIPs(t, path, "240.241.0.0/27") // 30 slots for 60 hosts
			type use struct {
				host string
				last time.Time
			}
			has := make(map[string]vipPair)
			used := make(map[netip.Addr]use)
			wanted := make(map[string]bool)
			for step := range 400 {
				for range rnd.IntN(6) {
					host := fmt.Sprintf("host%d.test", rnd.IntN(60))
					if wanted[host] || len(wanted) > 25 {
						delete(wanted, host)
					} else {
						wanted[host] = true
					}
				}
				keep := rnd.IntN(10) == 0
				hosts := make([]string, 0, len(wanted))
				for host := range wanted {
					hosts = append(hosts, host)
				}
				got := v.assign(hosts, nil, keep)
				for host, pair := range got {
					if old, ok := has[host]; ok && old != pair {
						t.Fatalf("seed %d step %d: %s moved from %v to %v", seed, step, host, old, pair)
					}
					if u, ok := used[pair.v4]; ok && u.host != host && time.Since(u.last) < rest {
						t.Fatalf("seed %d step %d: %s got %v, %s's until %s ago", seed, step, host, pair, u.host, time.Since(u.last))
					}
				}
				for host, pair := range has {
					if !wanted[host] && keep {
						got[host] = pair // not wanted, not freed
					}
				}
				has = got
				for host, pair := range has {
					used[pair.v4] = use{host, time.Now()}
				}
				if rnd.IntN(8) == 0 {
					save(t, v)
					v = openVIPs(t, path, "240.241.0.0/27")
				}
				time.Sleep(time.Duration(rnd.IntN(240)) * time.Second)
			}
			if len(v.problems) > 0 {
				t.Error(v.problems)
			}
		})
	}
}

func TestSave(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vips.json")
	v := openVIPs(t, path, "240.241.0.0/16")
	save(t, v)
	if _, err := os.Stat(path); err == nil {
		t.Error("a file was written for nothing")
	}
	first := v.assign([]string{"a.test", "b.test"}, nil, false)
	save(t, v)
	before := stat(t, path)
	v.assign([]string{"a.test", "b.test"}, nil, false)
	save(t, v)
	if !os.SameFile(before, stat(t, path)) {
		t.Error("the file was written again though nothing had changed")
	}
	if again := openVIPs(t, path, "240.241.0.0/16").assign([]string{"b.test"}, nil, true); again["b.test"] != first["b.test"] {
		t.Errorf("b.test has %v after a restart, want %v", again["b.test"], first["b.test"])
	}
	if left, _ := filepath.Glob(path + "*"); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func stat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// TestSaveFails takes the folder away: the error names the file, and the next Save makes it good.
func TestSaveFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	path := filepath.Join(dir, "vips.json")
	v := openVIPs(t, path, "240.241.0.0/16")
	v.assign([]string{"a.test"}, nil, false)
	if err := v.Save(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("saving without a folder: %v", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	save(t, v)
	stat(t, path)
}

// TestBrokenFile starts from files that cannot be understood as a whole: each is kept for a person
// to look at, and reported in every plan.
func TestBrokenFile(t *testing.T) {
	for _, content := range []string{"", "{", `{"version":1,"v4":"240.241.0.0/16","v6":"2001:2::/48","given":{"a.te`, `[]`, `{"version":2}`, "\x00\x00\x00"} {
		path := filepath.Join(t.TempDir(), "vips.json")
		write(t, path, content)
		v := openVIPs(t, path, "240.241.0.0/16")
		if len(v.problems) != 1 || !strings.Contains(v.problems[0].Reason, path+".broken-") {
			t.Errorf("%q: problems %v, want one that says where the file went", content, v.problems)
		}
		if plan := Compile(nil, v); !slices.Equal(plan.Problems, v.problems) {
			t.Errorf("%q: the plan's problems are %v", content, plan.Problems)
		}
		aside, _ := filepath.Glob(path + ".broken-*")
		if len(aside) != 1 {
			t.Fatalf("%q: set aside as %v, want one file", content, aside)
		}
		if kept, err := os.ReadFile(aside[0]); err != nil || string(kept) != content {
			t.Errorf("%q: kept as %q, %v", content, kept, err)
		}
		save(t, v)
		if again := openVIPs(t, path, "240.241.0.0/16"); len(again.problems) > 0 {
			t.Errorf("%q: after a save: %v", content, again.problems)
		}
	}
}

// TestBadEntries has a file with entries that cannot be right among good ones.
func TestBadEntries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vips.json")
	write(t, path, `{"version":1,"v4":"240.241.0.0/16","v6":"2001:2::/48",
		"given":{"good.test":7,"zero.test":0,"last.test":65535,"twin.test":7},
		"freed":[{"slot":8,"host":"old.test","at":"2026-01-01T00:00:00Z"},{"slot":7,"host":"older.test","at":"2026-01-01T00:00:00Z"}]}`)
	v := openVIPs(t, path, "240.241.0.0/16")
	if len(v.problems) != 4 {
		t.Errorf("problems %v, want four", v.problems)
	}
	got := v.assign([]string{"good.test", "zero.test", "twin.test", "old.test"}, nil, false)
	if got["good.test"].v4 != ip("240.241.0.7") || got["old.test"].v4 != ip("240.241.0.8") {
		t.Errorf("good entries gave %v", got)
	}
	if len(got) != 4 {
		t.Errorf("%d hosts have addresses, want 4", len(got))
	}
}

// TestOtherPrefix has the operator configure another range: the slots stay, so that nothing but the
// range changes, and it is said.
func TestOtherPrefix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vips.json")
	v := openVIPs(t, path, "240.241.0.0/16")
	was := v.assign([]string{"a.test"}, nil, false)["a.test"]
	save(t, v)
	v = openVIPs(t, path, "240.250.0.0/16")
	is := v.assign([]string{"a.test"}, nil, false)["a.test"]
	if was.v6 != is.v6 || v.slot(is.v4) == 0 || len(v.problems) != 1 {
		t.Errorf("%v became %v, problems %v", was, is, v.problems)
	}
	save(t, v)
	if v = openVIPs(t, path, "240.250.0.0/16"); len(v.problems) > 0 {
		t.Errorf("after a save: %v", v.problems)
	}
}

// TestUnreadableFile has a folder where the file should be: there is nothing to set right without a person.
func TestUnreadableFile(t *testing.T) {
	if _, err := OpenVIPs(t.TempDir(), testV4, testV6); err == nil {
		t.Error("a folder was read as a file")
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// assign settles who is wanted, and returns the pairs they have then.
func (v *VIPs) assign(wanted []string, announced map[netip.Addr]bool, keep bool) map[string]vipPair {
	v.settle(func(host string) bool { return slices.Contains(wanted, host) },
		slices.DeleteFunc(slices.Clone(wanted), v.has), maps.Keys(announced), keep)
	pairs := make(map[string]vipPair, len(wanted))
	for _, host := range wanted {
		if pair, ok := v.pair(host); ok {
			pairs[host] = pair
		}
	}
	return pairs
}
