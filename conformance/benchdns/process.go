package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

// thread starts processes in a network namespace. They die with it, even when this process is killed: it
// is one thread, and lives until the channel is closed.
type thread chan func()

func stay(ns *sandbox.NS) thread {
	t := make(thread)
	entered := make(chan struct{})
	enter := sync.OnceFunc(func() { close(entered) })
	go func() {
		defer enter()
		_ = ns.Do(func() error {
			enter()
			for f := range t {
				f()
			}
			return nil
		})
	}()
	<-entered // after that ns may be closed
	return t
}

// process is a daemon that runs until it is ended.
type process struct {
	pid   int
	ended chan struct{}
}

// start starts cmd in a process group of its own; what it writes goes to the file output in dir.
func (t thread) start(cmd *exec.Cmd, dir string) (*process, error) {
	log, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	t <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, err
	}
	p := &process{pid: cmd.Process.Pid, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// end stops the process, with force if it must, and waits for it.
func (p *process) end() {
	_ = syscall.Kill(-p.pid, syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(2 * time.Second): // CoreDNS takes 5 s to be polite
	}
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	<-p.ended
}

// until is world.Until that also ends with ctx.
func until(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}
