package routes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodens-dns/nodens/dnsd/replace"
)

// nginx is the node's proxy, which somebody else runs; one file of its configuration is ours.
type nginx struct {
	command []string
	file    string
	address netip.Addr
	client  http.Client
}

// apply makes text what nginx serves: checked by itself, put in place by rename, checked with all the rest,
// and taken back if nginx refuses it then. It returns when nginx serves it, and an error if it does not
// within a while. It may take as long as that.
func (n *nginx) apply(ctx context.Context, text []byte, stamp string) error {
	before, err := os.ReadFile(n.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil || !bytes.Equal(before, text) {
		if err := n.alone(ctx, text); err != nil {
			return err
		}
		if err := replace.File(n.file, text, 0o644); err != nil {
			return err
		}
		if refused := n.run(ctx, "-t", "-q"); refused != nil {
			back := func() error { return replace.File(n.file, before, 0o644) }
			if before == nil {
				back = func() error { return os.Remove(n.file) }
			}
			if err := back(); err != nil {
				return fmt.Errorf("nginx refuses the routes (%w), and what was before cannot be put back: %w", refused, err)
			}
			return fmt.Errorf("nginx refuses the routes together with its other files; what was before stays: %w", refused)
		}
	}
	if err := n.run(ctx, "-s", "reload"); err != nil {
		return fmt.Errorf("nginx cannot be told of the routes; is it running? %w", err)
	}
	return n.serves(ctx, stamp)
}

// alone has nginx check text as the only thing in its configuration: what is in place stays whole.
func (n *nginx) alone(ctx context.Context, text []byte) error {
	dir, err := os.MkdirTemp("", "nodens-routes-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ours, main := filepath.Join(dir, "routes.conf"), filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(ours, text, 0o600); err != nil {
		return err
	}
	whole := fmt.Sprintf("pid %s/pid;\nerror_log stderr;\nevents {}\nhttp {\n\taccess_log off;\n\tinclude %s;\n}\n", dir, ours)
	if err := os.WriteFile(main, []byte(whole), 0o600); err != nil {
		return err
	}
	if out, err := output(ctx, n.command[0], "-t", "-q", "-c", main, "-p", dir); err != nil {
		return fmt.Errorf("nginx refuses the routes; what was before stays: %w: %s", err, out)
	}
	return nil
}

// run runs the node's nginx with further arguments.
func (n *nginx) run(ctx context.Context, args ...string) error {
	if out, err := output(ctx, n.command[0], append(n.command[1:len(n.command):len(n.command)], args...)...); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(append(n.command, args...), " "), err, out)
	}
	return nil
}

// commandTimeout is how long nginx may take to check its files: it looks up names that others have in theirs.
const commandTimeout = 30 * time.Second

// output runs a command, and returns what it says in one line.
func output(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, commandTimeout, fmt.Errorf("not done in %v", commandTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second // for what it has started and left with its output
	out, err := cmd.CombinedOutput()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return strings.Join(strings.Fields(string(out)), " "), err
}

// serveTimeout is how long nginx may take for a reload.
const serveTimeout = 10 * time.Second

// serves waits until nginx serves what has this stamp: a reload is only asked for, and what it comes to
// nginx tells nobody.
func (n *nginx) serves(ctx context.Context, stamp string) error {
	ctx, cancel := context.WithTimeout(ctx, serveTimeout)
	defer cancel()
	for {
		got, err := n.stamp(ctx)
		if got == stamp {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
			continue
		case <-ctx.Done():
		}
		if err == nil {
			err = errors.New("it serves something else there")
		}
		return fmt.Errorf("nginx does not serve %s at %s (does its configuration include the file?): %w",
			n.file, netip.AddrPortFrom(n.address, port), err)
	}
}

// has says whether nginx serves what has this stamp. It is asked a few times: a node may be busy.
func (n *nginx) has(ctx context.Context, stamp string) bool {
	for range 3 {
		ctx, cancel := context.WithTimeout(ctx, serveTimeout)
		got, err := n.stamp(ctx)
		cancel()
		if err == nil {
			return got == stamp
		}
	}
	return ctx.Err() != nil // nothing is known then
}

// stamp asks nginx which routes it serves.
func (n *nginx) stamp(ctx context.Context) (string, error) {
	url := "http://" + netip.AddrPortFrom(n.address, port).String() + probePath
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	reply, err := n.client.Do(r)
	if err != nil {
		return "", err
	}
	defer func() { _ = reply.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(reply.Body, 100))
	return strings.TrimSpace(string(body)), err
}
