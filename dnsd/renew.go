package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/nodens-dns/nodens/dnsd/process"
)

// renewal is the process that this one has started to be relieved by, for supervisors that know one process at
// a time: at a SIGHUP the program, which may be another by now, is started anew with the same arguments.
type renewal struct {
	pid     atomic.Int64 // 0 while there is none
	renewed bool         // this process has itself been started so
}

// renewedBy is in the environment of a process that another dnsd has started.
const renewedBy = "DNSD_RENEWED_BY"

// followHangups starts one at each SIGHUP, while none runs, until ctx is done.
func followHangups(ctx context.Context, log *slog.Logger) *renewal {
	r := &renewal{renewed: os.Getenv(renewedBy) != ""}
	program, err := os.Executable() // its path, before another file is put there
	if err != nil {
		log.Warn("SIGHUP will not renew this process", "error", err)
		return r
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // from now on none ends the process
	go func() {
		defer signal.Stop(hangups)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
				r.start(program, log)
			}
		}
	}()
	return r
}

func (r *renewal) start(program string, log *slog.Logger) {
	if pid := r.pid.Load(); pid != 0 {
		log.Warn("SIGHUP is ignored: the process started by the last one has not taken over yet", "pid", pid)
		return
	}
	cmd := exec.Command(program, os.Args[1:]...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", renewedBy, os.Getpid()))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		log.Error("cannot start the program anew", "program", program, "error", err)
		process.Notify(fmt.Sprintf("STATUS=not renewed: %v", err))
		return
	}
	r.pid.Store(int64(cmd.Process.Pid))
	process.Notify("STATUS=") // what was said of the last one
	log.Info("started anew, to be relieved by", "program", program, "pid", cmd.Process.Pid)
	go func() {
		err := cmd.Wait()
		log.Error("the process started anew has ended", "error", err)
		process.Notify(fmt.Sprintf("STATUS=not renewed: the new process has ended: %v", err))
		r.pid.Store(0)
	}()
}

// is reports whether pid is the process that was started.
func (r *renewal) is(pid int) bool { return pid != 0 && int64(pid) == r.pid.Load() }
