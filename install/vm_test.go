package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/config"
)

// files are the regular files and links below a folder.
func files(t *testing.T, root string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, strings.TrimPrefix(path, root))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// An image gets all that its machine needs to start with dnsd, and is empty again without it.
func TestVMImage(t *testing.T) {
	m := machine{root: t.TempDir(), log: quiet}
	for range 2 {
		if err := m.install(t.Context(), []byte("#!/bin/true\n")); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{vmConfigPath, vmWantedPath, vmUnitPath, vmProgramPath}
	slices.Sort(want)
	if have := files(t, m.root); !slices.Equal(have, want) {
		t.Errorf("%v, want %v", have, want)
	}
	c, err := config.Read(m.path(vmConfigPath)) // as dnsd does
	if err != nil || !c.CaptureHost {
		t.Errorf("dnsd's configuration: %+v, %v", c, err)
	}
	if exe, err := exec.LookPath("systemctl"); err == nil { // more than the link, where somebody can say so
		if out, err := exec.CommandContext(t.Context(), exe, "--root="+m.root, "is-enabled", vmUnitName).CombinedOutput(); err != nil {
			t.Errorf("systemctl is-enabled: %v: %s", err, out)
		}
	}
	if err := m.remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if have := files(t, m.root); len(have) > 0 {
		t.Errorf("%v is left", have)
	}
	if err := m.remove(t.Context()); err != nil {
		t.Errorf("there was nothing to remove: %v", err)
	}
}

// standIn is a systemctl, for want of a machine whose services a test may change. It notes what it is told,
// as the dnsd that is installed does.
const standIn = `#!/bin/sh
echo "${0##*/} $*" >>"$CALLS"
case $* in
is-active*) test -e "$CALLS.on" ;;
enable*) : >"$CALLS.on" ;;
disable*) rm "$CALLS.on" ;;
reload*) echo "$RELOADED" >"$CALLS.state" ;;
show*) cat "$CALLS.state" 2>/dev/null || echo MainPID=1 ;;
esac
`

// running is a machine with systemd, and what it has been told since the last time.
func running(t *testing.T) (m *machine, told func() string) {
	t.Helper()
	m = &machine{root: t.TempDir(), live: true, log: quiet}
	bin := t.TempDir()
	calls := filepath.Join(bin, "calls")
	for _, err := range []error{
		os.MkdirAll(m.path("/run/systemd/system"), 0o755),
		os.WriteFile(filepath.Join(bin, "systemctl"), []byte(standIn), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("CALLS", calls)
	t.Setenv("RELOADED", "MainPID=2")
	return m, func() string {
		text, err := os.ReadFile(calls)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		_ = os.Remove(calls)
		return strings.ReplaceAll(string(text), m.root, "")
	}
}

// A machine that runs is served at once; a second time is an upgrade; the programs leave the kernel after
// dnsd and before its file.
func TestVMRuns(t *testing.T) {
	m, told := running(t)
	const asked = "systemctl show --property=MainPID,StatusText dnsd.service\n"
	for _, step := range []struct {
		do   func() error
		want string
	}{
		{func() error { return m.install(t.Context(), []byte(standIn)) },
			"systemctl daemon-reload\nsystemctl is-active --quiet dnsd.service\nsystemctl enable --now dnsd.service\n"},
		{func() error { return m.install(t.Context(), []byte(standIn+"# newer\n")) },
			"systemctl daemon-reload\nsystemctl is-active --quiet dnsd.service\nsystemctl enable --now dnsd.service\n" +
				asked + "systemctl reload dnsd.service\n" + asked},
		{func() error { return m.remove(t.Context()) },
			"systemctl disable --now dnsd.service\ndnsd detach --config /etc/nodens/dnsd.yaml\nsystemctl daemon-reload\n"},
		{func() error { return m.remove(t.Context()) }, "systemctl daemon-reload\n"},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if have := told(); have != step.want {
			t.Errorf("told\n%swant\n%s", have, step.want)
		}
	}
	if have := files(t, m.root); len(have) > 0 {
		t.Errorf("%v is left", have)
	}
}

// A new dnsd that does not take over is no success, though the old one serves on.
func TestVMSaysThatTheNewOneFailed(t *testing.T) {
	m, _ := running(t)
	if err := m.install(t.Context(), []byte(standIn)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("RELOADED", "MainPID=1\nStatusText=not renewed: the new process has ended: exit status 1")
	if err := m.install(t.Context(), []byte(standIn)); err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("%v, want to be told why", err)
	}
}

// What cannot be is refused before anything is written, with a remedy.
func TestVMRefuses(t *testing.T) {
	m, told := running(t)
	stays, err := stake(m.path("/run/nodens/installers"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.install(t.Context(), []byte(standIn)); !errors.Is(err, errBusy) {
		t.Errorf("beside an installer: %v", err)
	}
	stays.release()

	if err := os.MkdirAll(m.path("/etc/nodens"), 0o755); err != nil {
		t.Fatal(err)
	}
	const theirs = "clusterDomain: corp.example\n"
	if err := os.WriteFile(m.path(vmConfigPath), []byte(theirs), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.install(t.Context(), []byte(standIn)); err == nil || !strings.Contains(err.Error(), "captureHost: true") {
		t.Errorf("with a configuration that captures nothing: %v", err)
	}
	if have := files(t, m.root); told() != "" || !slices.Equal(have, []string{vmConfigPath}) {
		t.Errorf("%v", have)
	}
	// With that line it is kept, also when nodens goes.
	if err := os.WriteFile(m.path(vmConfigPath), []byte(theirs+"captureHost: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.install(t.Context(), []byte(standIn)), m.remove(t.Context())); err != nil {
		t.Error(err)
	}
	if have := files(t, m.root); !slices.Equal(have, []string{vmConfigPath}) {
		t.Errorf("%v", have)
	}

	if err := os.RemoveAll(m.path("/run/systemd")); err != nil {
		t.Fatal(err)
	}
	told()
	for _, err := range []error{m.install(t.Context(), []byte(standIn)), m.remove(t.Context())} {
		if !errors.Is(err, errNoSystemd) || !strings.Contains(err.Error(), "--root") {
			t.Errorf("without systemd: %v", err)
		}
	}
	if have := files(t, m.root); told() != "" || !slices.Equal(have, []string{vmConfigPath}) {
		t.Errorf("%v", have)
	}
}

// The units are what systemd takes them for, and keep no other service from starting.
func TestUnits(t *testing.T) {
	for _, unit := range []string{"dnsd.service", "nodens-install.service"} {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "Before=") || strings.HasPrefix(line, "RequiredBy=") {
				t.Errorf("%s: %s makes others wait until it is ready", unit, strings.TrimSpace(line))
			}
		}
		starts := ""
		for line := range strings.Lines(string(text)) {
			if found, ok := strings.CutPrefix(line, "ExecStart=/usr/local/bin/"); ok {
				starts = strings.TrimSpace(found)
			}
		}
		program, args, _ := strings.Cut(starts, " ")
		if program != "dnsd" && program != "nodens-install" {
			t.Errorf("%s starts %q", unit, starts)
		}
		if program == "nodens-install" {
			if cmd, rest, err := command().Find(strings.Fields(args)); err != nil || cmd.Name() != "install" || len(rest) > 0 {
				t.Errorf("%s starts %q: %v", unit, starts, err)
			}
		}
		verify(t, unit, program)
	}
}

// verify asks systemd, where it is installed, what it thinks of a unit.
func verify(t *testing.T, unit, program string) {
	t.Helper()
	exe, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return
	}
	root := t.TempDir()
	m := machine{root: root, log: quiet}
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]file{"/etc/systemd/system/" + unit: {data: text, mode: 0o644}}
	for _, target := range []string{"sysinit", "basic", "shutdown", "network", "multi-user"} {
		there["/usr/lib/systemd/system/"+target+".target"] = file{data: []byte("[Unit]\n"), mode: 0o644}
	}
	for _, exe := range []string{"/usr/local/bin/" + program, "/bin/kill"} {
		there[exe] = file{data: []byte("#!/bin/sh\n"), mode: 0o755}
	}
	for path, f := range there {
		if err := m.put(path, f); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), exe, "--root="+root, "--man=no", "verify", "/etc/systemd/system/"+unit).CombinedOutput()
	if err != nil || strings.Contains(string(out), unit+":") {
		t.Errorf("systemd-analyze verify %s: %v\n%s", unit, err, out)
	}
}
