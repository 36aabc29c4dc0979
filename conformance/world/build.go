package world

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Binaries is a folder with every program a world runs: dnsd, the CNI plugin nodens, nodens-install and
// its stub, cnitool and the reference plugins.
type Binaries string

func (b Binaries) path(name string) string { return filepath.Join(string(b), name) }

// Program is the path of one of the programs the world runs.
func (w *World) Program(name string) string {
	if name == "dnsd" && w.dnsdPath != "" {
		return w.dnsdPath
	}
	return w.bin.path(name)
}

// module is what the programs are built from, with its own versions of everything, wherever Build is
// called from.
const module = "github.com/nodens-dns/nodens"

// Build builds the programs into dir. It must be called from inside the module, or from inside one whose
// go.mod replaces the module by a folder. Programs with the race detector in them are built if race is
// set, except the plugins, which run for milliseconds and must be static.
//
// A folder named by the environment variable BINDIR is used as it stands where it has a program already
// (an installed nodens, an older one), and dir is ignored.
func Build(ctx context.Context, dir string, race bool) (Binaries, error) {
	reuse := os.Getenv("BINDIR")
	if reuse != "" {
		dir = reuse
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	source, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("find the sources of %s: %w", module, err)
	}
	// Several test processes may want the same folder at once.
	unlock, err := lockFile(filepath.Join(dir, ".lock"), syscall.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer unlock()
	for _, p := range []struct {
		name, pkg string
		race      bool
	}{
		{"cnitool", "github.com/containernetworking/cni/cnitool", false},
		{"bridge", "github.com/containernetworking/plugins/plugins/main/bridge", false},
		{"host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local", false},
		{"ptp", "github.com/containernetworking/plugins/plugins/main/ptp", false},
		{"macvlan", "github.com/containernetworking/plugins/plugins/main/macvlan", false},
		{"ipvlan", "github.com/containernetworking/plugins/plugins/main/ipvlan", false},
		{"portmap", "github.com/containernetworking/plugins/plugins/meta/portmap", false},
		{"tuning", "github.com/containernetworking/plugins/plugins/meta/tuning", false},
		{"bandwidth", "github.com/containernetworking/plugins/plugins/meta/bandwidth", false},
		{"firewall", "github.com/containernetworking/plugins/plugins/meta/firewall", false},
		{"nodens", module + "/cni", false},
		{"dnsd", module + "/dnsd", race},
		{"nodens-install", module + "/install", race},
		{"nodens-stub", module + "/install/stub", false},
	} {
		out := filepath.Join(dir, p.name)
		if _, err := os.Stat(out); reuse != "" && err == nil {
			continue
		}
		if err := goBuild(ctx, strings.TrimSpace(string(source)), out, p.pkg, p.race); err != nil {
			return "", err
		}
	}
	return Binaries(dir), nil
}

func goBuild(ctx context.Context, source, out, pkg string, race bool) error {
	args := []string{"build", "-o", out}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if race {
		args = append(args, "-race")
		env = append(os.Environ(), "CGO_ENABLED=1")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir, cmd.Env = source, env
	text, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, text)
	}
	return nil
}

// errLocked means another process holds the lock.
var errLocked = errors.New("locked")

// lockFile takes an flock on a file, making it if needed; how is LOCK_EX, with or without LOCK_NB. The
// lock goes with the process, however that ends.
func lockFile(path string, how int) (unlock func(), err error) {
	return lockOpened(path, os.O_CREATE, how)
}

// lockExisting is lockFile for a file that may be gone, and must not come back by being looked for.
func lockExisting(path string, how int) (unlock func(), err error) {
	return lockOpened(path, 0, how)
}

func lockOpened(path string, flags, how int) (unlock func(), err error) {
	f, err := os.OpenFile(path, flags|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), how); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, errLocked)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}
