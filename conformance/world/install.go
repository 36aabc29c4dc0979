package world

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The runtime's folder of plugins; unlike the Binaries, it is this world's own.
func (w *World) pluginDir() string { return w.path("cni-bin") }

// linkPlugins fills the runtime's folder of plugins.
func (w *World) linkPlugins() error {
	if err := os.Mkdir(w.pluginDir(), 0o755); err != nil {
		return err
	}
	for _, name := range []string{
		"bridge", "ptp", "macvlan", "ipvlan", "host-local", "portmap", "tuning", "bandwidth", "firewall", "nodens",
	} {
		if err := os.Symlink(w.Program(name), filepath.Join(w.pluginDir(), name)); err != nil {
			return err
		}
	}
	return nil
}

// Uninstalled makes the node one that nodens was never on: its only network is of the network's own
// plugins, and the runtime has no plugin of ours.
func (w *World) Uninstalled() error {
	if err := os.RemoveAll(w.netDir()); err != nil {
		return err
	}
	if err := os.Mkdir(w.netDir(), 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(map[string]any{
		"cniVersion": "1.0.0", "name": w.Network(), "plugins": []any{w.bridgeConf("10.244.0.10", "10.244.0.99", "")},
	}, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(w.WriteNetwork(text), os.Remove(filepath.Join(w.pluginDir(), "nodens")))
}

// installArgs are nodens-install's for this world.
func (w *World) installArgs(args []string) ([]string, error) {
	// What the caller says comes last, and counts. No runtime is the machine's own.
	args = slices.Concat(args[:1], []string{
		"--net-dir", w.netDir(), "--bin-dir", w.pluginDir(), "--plugin", w.Program("nodens"), "--state-dir", w.runDir(), "--runtime-socket", "",
	}, args[1:])
	switch args[0] {
	case "install":
		args = append(args, "--nameserver", Nameservers[0].String(), "--bpf-path", w.Pins(), "--cgroup", w.Cgroup())
	case "uninstall":
		cache, err := w.ownSandboxes()
		args = append(args, "--stub", w.Program("nodens-stub"), "--cache-dir", cache)
		return args, err
	}
	return args, nil
}

// ownSandboxes copies what cnitool remembers of this world's pods into a folder of its own: where it
// keeps it, every world's pods are together.
func (w *World) ownSandboxes() (string, error) {
	const kept = "/var/lib/cni/results"
	dir, err := os.MkdirTemp(w.Dir, "sandboxes-")
	if err != nil {
		return "", err
	}
	entries, err := os.ReadDir(kept)
	if errors.Is(err, fs.ErrNotExist) {
		return dir, nil
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), w.Network()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(kept, e.Name()))
		if err != nil {
			return dir, err
		}
		if err := os.WriteFile(filepath.Join(dir, e.Name()), text, 0o600); err != nil {
			return dir, err
		}
	}
	return dir, err
}

// Install runs nodens-install on the node.
func (w *World) Install(args ...string) (string, error) {
	args, err := w.installArgs(args)
	if err != nil {
		return "", err
	}
	return w.output(nil, w.Program("nodens-install"), args...)
}

// StartInstaller starts the nodens-install that stays; StopInstaller ends it with SIGTERM.
func (w *World) StartInstaller() error {
	args, err := w.installArgs([]string{"install"})
	if err != nil {
		return err
	}
	w.installer, err = w.launch(w.Node, w.path("install.log"), exec.Command(w.Program("nodens-install"), args...))
	return err
}

// StopInstaller is StartInstaller's counterpart.
func (w *World) StopInstaller() error {
	if w.installer == nil {
		return errors.New("no installer was started")
	}
	return w.installer.end(syscall.SIGTERM, 10*time.Second)
}

// InstallLog is what the installer that stays has written.
func (w *World) InstallLog() string {
	text, _ := os.ReadFile(w.path("install.log"))
	return string(text)
}
