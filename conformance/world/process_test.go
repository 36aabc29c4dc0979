package world

import (
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestEnd: a daemon told to end has to end well, and one that is killed cannot.
func TestEnd(t *testing.T) {
	for _, c := range []struct {
		name, handler string
		signal        syscall.Signal
		good          bool
	}{
		{"well", "exit 0", syscall.SIGTERM, true},
		{"badly", "exit 66", syscall.SIGTERM, false},
		{"killed", "exit 66", syscall.SIGKILL, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command("sh", "-c", "trap '"+c.handler+"' TERM; echo ready; read forever")
			hold, err := cmd.StdinPipe() // nothing is ever written: the shell waits
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = hold.Close() }()
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := out.Read(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			p := &process{cmd: cmd, done: make(chan struct{})}
			go func() {
				p.err = cmd.Wait()
				close(p.done)
			}()
			if err := p.end(c.signal, 20*time.Second); (err == nil) != c.good {
				t.Errorf("end: %v", err)
			}
		})
	}
}
