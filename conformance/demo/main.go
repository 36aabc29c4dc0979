// Command demo shows the whole of nodens on this machine, line by line with timings, and fails if one
// line does not hold.
//
// It makes a world of namespaces (package world), so nothing of the machine's own network changes, and
// takes it away at the end and on Ctrl-C. With KEEP=1 it leaves the world up and prints how to look
// around in it; -down clears that.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/world"
)

// label marks the worlds of demos, so that -down leaves those of tests alone.
const label = "demo"

// holder, in the environment, tells the process that holds a kept world up; its value is the descriptor
// on which it reports that the show is over.
const holder = "NODENS_DEMO_HOLDER"

func main() {
	app.Main()
	down := flag.Bool("down", false, "clear what KEEP=1 left")
	flag.Parse()
	if os.Getuid() != 0 {
		fail(errors.New("must run as root: network namespaces, cgroups and BPF need it"))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	keep := os.Getenv("KEEP") == "1"
	var err error
	switch {
	case *down:
		err = clear()
	case keep && os.Getenv(holder) == "":
		err = hold(ctx)
	default:
		err = show(ctx, keep)
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "demo:", err)
	os.Exit(1)
}

// show builds, makes the world and plays the lines in it. Kept, the world stays until a signal comes.
func show(ctx context.Context, keep bool) (err error) {
	fmt.Print("nodens, shown in a world of namespaces on this machine\n\n")
	start := time.Now()
	dir, err := filepath.Abs("bin")
	if err != nil {
		return err
	}
	bin, err := world.Build(ctx, dir, false)
	if err != nil {
		return err
	}
	note(start, "built dnsd, the plugin nodens, cnitool, bridge and host-local into %s", bin)

	start = time.Now()
	w, err := world.New(world.Options{Bin: bin, Label: label})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	note(start, "made world %s: a node, an internet with nameservers and services, an ADS control plane", w.ID)

	shown := make(chan error, 1)
	go func() { shown <- newStory(w).play(ctx, keep) }()
	select {
	case err = <-shown:
	case <-ctx.Done():
		return errors.New("interrupted; everything is cleared")
	}
	if !keep {
		return err
	}
	around(w)
	report(err)
	<-ctx.Done()
	return nil
}

// note is one line of what happened and how long it took.
func note(start time.Time, format string, args ...any) {
	fmt.Printf("   %8s  %s\n", brief(time.Since(start)), fmt.Sprintf(format, args...))
}

func brief(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d us", d.Microseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

// around prints the commands to look around with.
func around(w *world.World) {
	socket := " --socket " + w.AdminSocket()
	fmt.Printf(`
The world stays up. To look around:
  %[1]s web dig news.google.com          # as the application in pod web
  %[1]s web bash
  %[2]s status%[3]s
  %[2]s names%[3]s
  %[2]s clusters%[3]s
  %[2]s pods%[3]s
  %[2]s explain news.google.com --pod default/web%[3]s
  nsenter --net=%[4]s ip -br address     # the node
  tail -f %[5]s
  ls %[6]s                               # manifests that dnsd watches
  ls -R %[7]s
  make demo-down                         # clears everything
`, w.Enter(), w.Program("dnsd"), socket, w.Node.Path(), w.LogFile(), w.ManifestDir(), w.Pins())
}

// hold runs the show in a process of its own session that stays behind, and returns when it is over.
func hold(ctx context.Context) error {
	done, told, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), holder+"=3")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{told}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = told.Close()
	shown := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer shown()
	said := make([]byte, 1)
	if _, err := done.Read(said); err != nil {
		return fmt.Errorf("the demo ended before its last line: %w", cmd.Wait())
	}
	if said[0] != 0 {
		return errors.New("not every line holds; see above")
	}
	return nil
}

// report tells the process that waits in hold how the show went, and lets go of its terminal.
func report(err error) {
	said := []byte{0}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		said[0] = 1
	}
	pipe := os.NewFile(3, "holder")
	if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
		for fd := range 3 {
			_ = syscall.Dup3(int(null.Fd()), fd, 0)
		}
	}
	_, _ = pipe.Write(said)
	_ = pipe.Close()
}

// clear ends the demos that are up, and takes away what ended ones left.
func clear() error {
	for _, e := range world.Worlds() {
		if e.Label != label || e.PID <= 0 {
			continue
		}
		if !isDemo(e.PID) {
			continue
		}
		if err := syscall.Kill(e.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end the demo of world %s: %w", e.ID, err)
		}
		if err := world.Until(20*time.Second, func() error {
			if syscall.Kill(e.PID, 0) == nil {
				return fmt.Errorf("the demo of world %s (process %d) does not end", e.ID, e.PID)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return world.Sweep()
}

// isDemo guards against a process ID that was given to somebody else since.
func isDemo(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	return bytes.Contains(text, []byte(holder+"="))
}
