package world

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

func randomID() string {
	b := make([]byte, 3)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// makeCgroup makes the world's cgroup and opens it; processes are born into it by that descriptor.
func makeCgroup(id string) (*os.File, error) {
	root, err := sandbox.FindCgroupRoot()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, Prefix+id)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the world's cgroup: %w", err)
	}
	return os.Open(dir)
}

// removeCgroup kills what is in the world's cgroup and removes it. Nobody else can be in there.
func removeCgroup(id string) error {
	root, err := sandbox.FindCgroupRoot()
	if err != nil {
		return nil // then nothing could be made either
	}
	dir := filepath.Join(root, Prefix+id)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return Until(10*time.Second, func() error {
		if err := killCgroup(dir); err != nil {
			return err
		}
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		return nil
	})
}

func killCgroup(dir string) error {
	// cgroup.kill is Linux 5.14's; before, one has to go through the list.
	if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err == nil {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	for pid := range strings.FieldsSeq(string(text)) {
		if n, err := strconv.Atoi(pid); err == nil {
			_ = syscall.Kill(n, syscall.SIGKILL)
		}
	}
	return nil
}

// start starts cmd inside ns and the world's cgroup, in a process group of its own so that a Ctrl-C at
// the terminal reaches only the owner of the world.
func (w *World) start(ns *sandbox.NS, cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = int(w.cgroup.Fd())
	// A process takes the network namespace of the thread that forks it.
	return ns.Do(cmd.Start)
}

// output runs a program on the node and returns its standard output. An error has what it wrote to
// standard error, or failing that to standard output.
func (w *World) output(env []string, name string, args ...string) (string, error) {
	return w.pipe(env, "", name, args...)
}

// pipe is output with a text for the program's standard input.
func (w *World) pipe(env []string, stdin, name string, args ...string) (string, error) {
	var stdout, stderr strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	// A program with the race detector in it would sleep for a second before it ends.
	cmd.Env = append(append(os.Environ(), "GORACE=atexit_sleep_ms=0"), env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := w.start(w.Node, cmd); err != nil {
		return "", fmt.Errorf("start %s: %w", name, err)
	}
	if err := cmd.Wait(); err != nil {
		said := strings.TrimSpace(stderr.String())
		if said == "" {
			said = strings.TrimSpace(stdout.String())
		}
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, said)
	}
	return stdout.String(), nil
}

// process is a daemon of the world.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// launch starts a daemon whose output goes to the end of a file.
func (w *World) launch(ns *sandbox.NS, logFile string, cmd *exec.Cmd) (*process, error) {
	f, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	cmd.Stdout, cmd.Stderr = f, f
	if err := w.start(ns, cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// alive says whether the process has not ended; a stopped one is alive.
func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// end sends a signal and waits until the process has ended; unless it is killed it has to end well.
func (p *process) end(sig syscall.Signal, limit time.Duration) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		if sig != syscall.SIGKILL && p.err != nil {
			return fmt.Errorf("%s, told to end by %v: %w", filepath.Base(p.cmd.Path), sig, p.err)
		}
		return nil
	case <-time.After(limit):
		return fmt.Errorf("%s did not end within %v of %v", filepath.Base(p.cmd.Path), limit, sig)
	}
}

// stopped is nil once every thread of the process stands still: a signal takes its time, and until then
// the process may answer one more query.
func (p *process) stopped() error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.cmd.Process.Pid))
	if err != nil {
		return err
	}
	for _, task := range tasks {
		if text, err := os.ReadFile(task); err == nil && !strings.Contains(string(text), "State:\tT") {
			return fmt.Errorf("%s is not stopped", task)
		}
	}
	return nil
}
