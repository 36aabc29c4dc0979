package app

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Command is a program to run where the application is.
type Command struct {
	Path string
	Args []string
	// Env is added to the environment.
	Env []string
}

// Ran is how it ended.
type Ran struct {
	// Lines are what it wrote to standard output.
	Lines []string
	OK    bool
	Took  time.Duration
}

// Run runs a program to its end. It fails only if it could not be run.
func (a *App) Run(c Command, out *Ran) error {
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env = append(os.Environ(), c.Env...)
	start := time.Now()
	text, err := cmd.Output()
	out.Took = time.Since(start)
	out.Lines = strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	var exit *exec.ExitError
	if out.OK = err == nil; errors.As(err, &exit) {
		return nil
	}
	return err
}
