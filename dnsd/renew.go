package main

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"sync/atomic"
	"syscall"
)

// renewal is the process that this one has started to be relieved by, for supervisors that know one process at
// a time: at a SIGHUP the program, which may be another by now, is started anew with the same arguments.
type renewal struct {
	pid atomic.Int64 // 0 while there is none
}

// follow starts one at each SIGHUP, while none runs, until ctx is done.
func (r *renewal) follow(ctx context.Context, log *slog.Logger) {
	program, err := os.Executable() // its path, before another file is put there
	if err != nil {
		log.Warn("SIGHUP will not renew this process", "error", err)
		return
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		if r.pid.Load() != 0 {
			continue
		}
		cmd := exec.Command(program, os.Args[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			log.Error("cannot start the program anew", "program", program, "error", err)
			continue
		}
		r.pid.Store(int64(cmd.Process.Pid))
		log.Info("started anew, to be relieved by", "program", program, "pid", cmd.Process.Pid)
		go func() {
			log.Error("the process started anew has ended", "error", cmd.Wait())
			r.pid.Store(0)
		}()
	}
}

// is reports whether pid is the process that was started.
func (r *renewal) is(pid int) bool { return pid != 0 && int64(pid) == r.pid.Load() }
