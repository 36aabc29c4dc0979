// Package kernels runs what needs a kernel on other kernels than this machine's: Debian's, booted in
// qemu on the files of this machine. Nothing of it is installed, and nothing that is done there stays.
package kernels

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:embed init.sh
var initScript []byte

// ending is printed when the script has ended well. Whatever else becomes of the machine, it is not.
const ending = "nodens: the script has ended well"

// longest is how long a machine may run; one that hangs would for ever.
const longest = 90 * time.Minute

// Kernel is an unpacked kernel of Debian's.
type Kernel struct {
	Version string // as uname -r has it
	dir     string
}

// Fetch unpacks the kernel that a package of Debian's depends on, such as linux-image-amd64, below a
// folder, unless it is there. It asks the package mirrors that apt is set up with.
func Fetch(ctx context.Context, meta, below string) (Kernel, error) {
	out, err := run(ctx, "", "apt-cache", "depends", meta)
	if err != nil {
		return Kernel{}, err
	}
	_, rest, _ := strings.Cut(out, "Depends: linux-image-")
	version, _, _ := strings.Cut(rest, "\n")
	if version == "" {
		return Kernel{}, fmt.Errorf("find the kernel behind %s: apt-cache names none (apt-get update?)", meta)
	}
	k := Kernel{Version: version, dir: filepath.Join(below, version)}
	if _, err := os.Stat(k.dir); err == nil {
		return k, nil
	}
	fresh := k.dir + ".new"
	if err := errors.Join(os.RemoveAll(fresh), os.MkdirAll(fresh, 0o755)); err != nil {
		return Kernel{}, fmt.Errorf("make room for Linux %s: %w", version, err)
	}
	if _, err := run(ctx, fresh, "apt-get", "download", "linux-image-"+version); err != nil {
		return Kernel{}, err
	}
	debs, _ := filepath.Glob(filepath.Join(fresh, "*.deb")) // the pattern is a good one
	if len(debs) != 1 {
		return Kernel{}, fmt.Errorf("download linux-image-%s: there are %d packages in %s, not one", version, len(debs), fresh)
	}
	if _, err := run(ctx, fresh, "dpkg-deb", "-x", debs[0], fresh); err != nil {
		return Kernel{}, err
	}
	if _, err := run(ctx, fresh, "depmod", "-b", fresh, version); err != nil {
		return Kernel{}, err
	}
	if err := errors.Join(os.Remove(debs[0]), os.Rename(fresh, k.dir)); err != nil {
		return Kernel{}, fmt.Errorf("unpack Linux %s: %w", version, err)
	}
	return k, nil
}

// Run boots the kernel and runs a script of bash's there, as root, in a folder that holds what work holds
// and can be written to. It returns what the machine printed, kernel messages in it, and an error unless
// the script ended well. The machine is emulated, as KVM is not to be had everywhere, and some ten times
// slower than this one.
func (k Kernel) Run(ctx context.Context, work, script string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	dir, err := os.MkdirTemp("", "nodens-kernel-*")
	if err != nil {
		return "", fmt.Errorf("make room for the machine: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	initrd, err := k.initrd(ctx, dir)
	if err != nil {
		return "", err
	}
	text := "export HOME=/root TMPDIR=/run PATH=" + os.Getenv("PATH") + "\ncd $(mktemp -d) && cp -rs /mnt/. .\n" +
		"if ( set -e\n" + script + "\n); then echo '" + ending + "'; fi\n"
	if err := os.WriteFile(filepath.Join(work, "run.sh"), []byte(text), 0o644); err != nil {
		return "", fmt.Errorf("write the script: %w", err)
	}
	share := func(path, tag string) string {
		return "local,path=" + path + ",mount_tag=" + tag + ",security_model=none,readonly=on,multidevs=remap"
	}
	out, err := run(ctx, dir, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-M", "q35", "-m", "3072", "-smp", "2",
		"-nographic", "-no-reboot", "-nic", "none", "-kernel", filepath.Join(k.dir, "boot", "vmlinuz-"+k.Version), "-initrd", initrd,
		"-virtfs", share("/", "root"), "-virtfs", share(k.modules(), "modules"), "-virtfs", share(work, "work"),
		"-append", "console=ttyS0 panic=-1 quiet")
	if err == nil && !strings.Contains(out, ending) {
		err = errors.New("the script failed, or the machine did")
	}
	if err != nil {
		return out, fmt.Errorf("on Linux %s: %w", k.Version, err)
	}
	return out, nil
}

func (k Kernel) modules() string { return filepath.Join(k.dir, "lib", "modules", k.Version) }

// initrd makes the archive the kernel starts from: busybox, and the modules without which there are no
// files of the host's.
func (k Kernel) initrd(ctx context.Context, dir string) (string, error) {
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "modules"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return "", fmt.Errorf("make the initrd: %w", err)
		}
	}
	files := map[string]string{"/bin/busybox": "bin/busybox"}
	for _, module := range []string{"virtio_pci", "9pnet_virtio", "9p", "overlay"} {
		out, err := run(ctx, dir, "modprobe", "--show-depends", "-d", k.dir, "-S", k.Version, module)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(out) {
			path, isFile := strings.CutPrefix(strings.TrimSpace(line), "insmod ")
			if _, seen := files[path]; isFile && !seen { // the order of their names is that of loading
				files[path] = fmt.Sprintf("modules/%02d-%s", len(files), filepath.Base(path))
			}
		}
	}
	for from, to := range files {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(root, to), data, 0o755)
		}
		if err != nil {
			return "", fmt.Errorf("make the initrd: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "init"), initScript, 0o755); err != nil {
		return "", fmt.Errorf("make the initrd: %w", err)
	}
	_, err := run(ctx, root, "sh", "-c", "find . | cpio --quiet -o -H newc > ../initrd")
	return filepath.Join(dir, "initrd"), err
}

func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(errs.Bytes()))
	}
	return string(out), nil
}
