package main

import (
	"bytes"
	"context"
	_ "embed" // the unit and the configuration
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

//go:embed dnsd.service
var vmUnit []byte

//go:embed vm.yaml
var vmConfig []byte

// machine is one without pods, whose own processes dnsd serves. It has no runtime and no plugin: dnsd's
// program, its configuration and its unit are all.
type machine struct {
	root string // of its files
	// live is false for the files of a machine that does not run, a disk image: it finds everything
	// enabled when it starts.
	live bool
	log  *slog.Logger
}

// Where things are; a unit of the administrator's own goes before ours, or beside it in dnsd.service.d.
const (
	vmProgramPath = "/usr/local/bin/dnsd"
	vmConfigPath  = "/etc/nodens/dnsd.yaml"
	vmUnitPath    = "/etc/systemd/system/dnsd.service"
	vmWantedPath  = "/etc/systemd/system/multi-user.target.wants/dnsd.service"
	vmUnitName    = "dnsd.service"
)

func vmCommand() *cobra.Command {
	var remove bool
	var root, program string
	cmd := &cobra.Command{
		Use:   "vm",
		Short: "Serve the processes of this machine, which has no pods: install dnsd as a systemd unit",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m := machine{root: "/", live: true, log: logger()}
			if root != "" {
				m.root, m.live = root, false
			}
			if remove {
				return m.remove(cmd.Context())
			}
			dnsd, err := os.ReadFile(program)
			if err != nil {
				return fmt.Errorf("read dnsd to install: %w; --program says where it is", err)
			}
			return m.install(cmd.Context(), dnsd)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&remove, "remove", false, "take it off again")
	f.StringVar(&root, "root", "", "the files of a machine that does not run, such as a disk image")
	f.StringVar(&program, "program", sibling("dnsd"), "the dnsd to install")
	return cmd
}

func (m *machine) path(p string) string { return filepath.Join(m.root, p) }

// errNoSystemd comes before anything is written.
var errNoSystemd = errors.New("systemd does not run here: have whatever starts services here run dnsd run --config " + vmConfigPath +
	" (example: install/vm.yaml), or name the files of a machine that is to start with it by --root")

// begin makes sure that nobody else sees to this machine, and that it can be done.
func (m *machine) begin() (end func(), err error) {
	if !m.live {
		return func() {}, nil
	}
	if _, err := os.Stat(m.path("/run/systemd/system")); err != nil { // sd_booted(3)
		return nil, errNoSystemd
	}
	c, err := alone(m.path("/run/nodens/installers"))
	if err != nil {
		return nil, err
	}
	return c.release, nil
}

// install puts everything in place and has systemd start it, now and whenever the machine starts. It can
// be repeated, which is an upgrade, in which no query is lost. A configuration that is there stays as it is.
func (m *machine) install(ctx context.Context, dnsd []byte) error {
	end, err := m.begin()
	if err != nil {
		return err
	}
	defer end()
	if err := m.configure(); err != nil {
		return err
	}
	for _, f := range []struct {
		path string
		file file
	}{{vmProgramPath, file{data: dnsd, mode: 0o755}}, {vmUnitPath, file{data: vmUnit, mode: 0o644}}} {
		if err := m.put(f.path, f.file); err != nil {
			return err
		}
	}
	if !m.live {
		return m.enable()
	}
	if err := systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	running := systemctl(ctx, "is-active", "--quiet", vmUnitName) == nil
	if err := systemctl(ctx, "enable", "--now", vmUnitName); err != nil {
		return fmt.Errorf("%w; journalctl -u dnsd says why", err)
	}
	if running { // another program, or another configuration: a new dnsd takes over
		if err := reload(ctx); err != nil {
			return err
		}
	}
	m.log.Info("dnsd serves this machine", "configuration", m.path(vmConfigPath), "look", "dnsd status")
	return nil
}

// configure writes a configuration, unless there is one that says what is wanted.
func (m *machine) configure() error {
	have, err := os.ReadFile(m.path(vmConfigPath))
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(m.path("/etc/nodens/manifests"), 0o755); err != nil {
			return fmt.Errorf("make the folder of manifests: %w", err)
		}
		return m.put(vmConfigPath, file{data: vmConfig, mode: 0o644})
	}
	var c struct {
		CaptureHost bool `json:"captureHost"`
	}
	if err == nil {
		err = yaml.Unmarshal(have, &c)
	}
	if err != nil {
		return fmt.Errorf("read the configuration that is there: %s: %w", m.path(vmConfigPath), err)
	}
	if !c.CaptureHost {
		return fmt.Errorf("%s is there and does not say captureHost: true, without which no process of this machine is served: add the line, or move the file away", m.path(vmConfigPath))
	}
	return nil
}

// put makes a file what it should be.
func (m *machine) put(path string, want file) error {
	path = m.path(path)
	have, err := node{}.Read(path)
	if err == nil && have.mode == want.mode && bytes.Equal(have.data, want.data) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := place(node{}, path, want); err != nil {
		return err
	}
	m.log.Info("in place", "file", path)
	return nil
}

// enable does what systemctl enable does, on a machine that does not run.
func (m *machine) enable() error {
	link := m.path(vmWantedPath)
	err := os.MkdirAll(filepath.Dir(link), 0o755)
	if err == nil {
		err = os.Symlink(vmUnitPath, link)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("enable dnsd: %w", err)
	}
	return nil
}

// remove undoes install. A configuration that is not as it was written stays, and what dnsd remembers of
// its virtual addresses, for the next time.
func (m *machine) remove(ctx context.Context) error {
	end, err := m.begin()
	if err != nil {
		return err
	}
	defer end()
	if m.live {
		if err := m.stop(ctx); err != nil {
			return err
		}
	}
	for _, path := range []string{vmWantedPath, vmUnitPath, vmProgramPath} {
		if err := os.Remove(m.path(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what was installed: %w", err)
		}
	}
	if m.live {
		if err := systemctl(ctx, "daemon-reload"); err != nil {
			return err
		}
	}
	if have, err := os.ReadFile(m.path(vmConfigPath)); err == nil && bytes.Equal(have, vmConfig) {
		if err := os.Remove(m.path(vmConfigPath)); err != nil {
			return fmt.Errorf("remove what was installed: %w", err)
		}
	}
	_ = os.Remove(m.path("/etc/nodens/manifests")) // both fail where there is something of the user's
	_ = os.Remove(m.path("/etc/nodens"))
	m.log.Info("dnsd is off this machine", "left", "/var/lib/nodens, and /etc/nodens where it was changed")
	return nil
}

// stop ends dnsd and takes its programs off the kernel, which outlive it.
func (m *machine) stop(ctx context.Context) error {
	if _, err := os.Stat(m.path(vmUnitPath)); err == nil {
		if err := systemctl(ctx, "disable", "--now", vmUnitName); err != nil {
			return err
		}
	}
	program := m.path(vmProgramPath)
	if _, err := os.Stat(program); err != nil {
		m.log.Warn("dnsd is not there to take its programs off the kernel; they go with a restart of the machine", "file", program)
		return nil
	}
	args := []string{"detach"}
	if _, err := os.Stat(m.path(vmConfigPath)); err == nil {
		args = append(args, "--config", m.path(vmConfigPath))
	}
	return run(ctx, program, args...)
}

// renewing is how long a new dnsd may take to take over from the one that runs.
const renewing = 90 * time.Second

// reload has a new dnsd take over, and returns when that is the unit's process.
func reload(ctx context.Context) error {
	before, said, err := unitState(ctx)
	if err == nil {
		err = systemctl(ctx, "reload", vmUnitName)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, renewing)
	defer cancel()
	for {
		process, status, err := unitState(ctx)
		switch {
		case err == nil && process != before:
			return nil
		case err == nil && status != said && strings.HasPrefix(status, "not renewed"):
			return fmt.Errorf("the dnsd that was there goes on: %s; journalctl -u dnsd says why", status)
		}
		select {
		case <-ctx.Done():
			return errors.New("the dnsd that was there goes on, the new one has not taken over; journalctl -u dnsd says why")
		case <-time.After(time.Second / 4):
		}
	}
}

// unitState is the unit's process, and what dnsd says of itself.
func unitState(ctx context.Context) (process, status string, err error) {
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=MainPID,StatusText", vmUnitName).Output()
	if err != nil {
		return "", "", fmt.Errorf("ask systemd for dnsd's process: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key {
		case "MainPID":
			process = value
		case "StatusText":
			status = value
		}
	}
	return process, status, nil
}

func systemctl(ctx context.Context, args ...string) error { return run(ctx, "systemctl", args...) }

// run runs a program; its error has what the program said.
func run(ctx context.Context, program string, args ...string) error {
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
