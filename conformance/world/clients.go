package world

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/nodens-dns/nodens/conformance/app"
)

// Client is a program that looks a name up in one of the ways that programs do.
type Client struct {
	Name string
	app.Command
}

//go:embed testdata/clients
var clientSources embed.FS

// Clients builds the clients into the folder of programs, once for all worlds that share it: the resolvers of
// glibc, musl and c-ares, and both of Go's.
func (w *World) Clients(ctx context.Context) ([]Client, error) {
	unlock, err := lockFile(w.bin.path(".lock"), syscall.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer unlock()
	dir := w.path("clients")
	if err := os.CopyFS(dir, clientSources); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	source := func(name string) string { return filepath.Join(dir, "testdata/clients", name) }
	var clients []Client
	for _, c := range []struct {
		name  string
		build []string
		env   string // to build with
		run   string // to run with
	}{
		{"glibc", []string{"gcc", "-O", "-o", "", source("getaddrinfo.c")}, "", ""},
		{"musl", []string{"musl-gcc", "-O", "-static", "-o", "", source("getaddrinfo.c")}, "", ""},
		{"c-ares", []string{"gcc", "-O", "-o", "", source("cares.c"), "-lcares"}, "", ""},
		{"go", []string{"go", "build", "-o", "", source("lookup.go")}, "CGO_ENABLED=0", "GODEBUG=netdns=go"},
		{"go-cgo", []string{"go", "build", "-o", "", source("lookup.go")}, "CGO_ENABLED=1", "GODEBUG=netdns=cgo"},
	} {
		out := w.bin.path("client-" + c.name)
		for i, word := range c.build {
			if word == "" {
				c.build[i] = out
			}
		}
		clients = append(clients, Client{c.name, app.Command{Path: out, Env: []string{c.run}}})
		if _, err := os.Stat(out); err == nil {
			continue
		}
		cmd := exec.CommandContext(ctx, c.build[0], c.build[1:]...)
		cmd.Env = append(os.Environ(), c.env)
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build the client %s: %w (make deps installs what that takes)\n%s", c.name, err, text)
		}
	}
	return clients, nil
}

// Run runs a program where the pod's application is.
func (p *Pod) Run(c app.Command) (app.Ran, error) { return call[app.Ran](p, "Run", c) }

// Flood sends queries from the pod as fast as it can.
func (p *Pod) Flood(f app.Flood) (app.Flooded, error) { return call[app.Flooded](p, "Flood", f) }
