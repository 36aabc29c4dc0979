// Package kubernetes holds nodens to a real cluster of one node: Kubernetes from its own modules, the
// system's containerd, the image and the manifests as they are shipped.
//
// The node is a machine of its own (testdata/machine.sh): the tests run inside it, and with them goes all
// that they started and wrote.
package kubernetes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv("IN_MACHINE") != "" {
		os.Exit(m.Run())
	}
	code, err := outside()
	if err != nil {
		fmt.Fprintln(os.Stderr, "a machine to test in:", err)
		code = 1
	}
	os.Exit(code)
}

// outside builds what the tests need, makes the machine and runs this program in it.
func outside() (code int, err error) {
	folder, err := os.MkdirTemp("", "nodens-kubernetes-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	if err := build(folder); err != nil {
		return 1, err
	}
	for _, dir := range []string{"writes", "containerd"} {
		if err := os.Mkdir(filepath.Join(folder, dir), 0o755); err != nil {
			return 1, err
		}
	}
	cgroups, err := makeCgroups(filepath.Base(folder))
	defer func() { err = errors.Join(err, removeCgroups(cgroups)) }()
	if err != nil {
		return 1, err
	}
	exe, err := os.Executable()
	if err != nil {
		return 1, err
	}
	cmd := exec.Command("sh", append([]string{"testdata/machine.sh", folder, exe}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), "FOLDER="+folder)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	} else if err != nil {
		return 1, err
	}
	return 0, nil
}

// makeCgroups makes a cgroup of that name in every hierarchy and returns them.
func makeCgroups(name string) (made []string, err error) {
	tops, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil || len(tops) == 0 {
		return nil, fmt.Errorf("no hierarchy of cgroups below /sys/fs/cgroup (a purely unified one is not catered for): %w", err)
	}
	for _, top := range tops {
		dir := filepath.Join(filepath.Dir(top), name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return made, err
		}
		made = append(made, dir)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // nobody can be put in without
			text, err := os.ReadFile(filepath.Join(filepath.Dir(top), file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), text, 0o644)
			}
			if err != nil {
				return made, err
			}
		}
	}
	return made, nil
}

// removeCgroups removes them with all below, when the last process is gone: they were killed, which takes
// a moment.
func removeCgroups(dirs []string) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		var errs []error
		for _, dir := range dirs {
			errs = append(errs, removeCgroup(dir))
		}
		if err := errors.Join(errs...); err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func removeCgroup(dir string) error {
	below, err := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, b := range below {
		if err := removeCgroup(filepath.Dir(b)); err != nil {
			return err
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
