package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// corednsVersion is the CoreDNS that is compared with. Building it takes minutes, so it is kept in the
// user's cache folder.
const corednsVersion = "v1.15.0"

func corednsPath() (string, error) {
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "nodens-bench", "coredns-"+corednsVersion, "coredns"), err
}

// find returns the path of a driver's program; the error says how to get it.
func find(d *driver) (string, error) {
	if d.command == nil {
		return d.program, nil // ours
	}
	if d.program == "coredns" {
		path, err := corednsPath()
		if err == nil {
			_, err = os.Stat(path)
		}
		if err != nil {
			return "", fmt.Errorf("coredns is not built: go install github.com/coredns/coredns@%s (%w)", corednsVersion, err)
		}
		return path, nil
	}
	// Daemons are where a user's PATH need not lead.
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		if path, err := exec.LookPath(filepath.Join(dir, d.program)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: apt-get install %s", d.program, d.pkg)
}

// client is what asks, for find.
var client = driver{program: "dnsperf", pkg: "dnsperf", command: func(job) ([]string, error) { return nil, nil }}

// install gets the programs of ds that are missing, and dnsperf. What cannot be had is left out by the
// caller, who asks find; only a missing dnsperf is an error.
func install(ctx context.Context, ds []*driver) error {
	var packages []string
	for _, d := range append(slices.Clone(ds), &client) {
		if _, err := find(d); err != nil && d.pkg != "" {
			packages = append(packages, d.pkg)
		}
	}
	if len(packages) > 0 {
		if err := aptInstall(ctx, packages); err != nil {
			progress("%v", err)
		}
	}
	if slices.ContainsFunc(ds, func(d *driver) bool { return d.program == "coredns" }) {
		if err := buildCoreDNS(ctx); err != nil {
			progress("%v", err)
		}
	}
	_, err := find(&client)
	return err
}

// aptInstall installs Debian packages without starting the services in them: they would take port 53.
func aptInstall(ctx context.Context, packages []string) (err error) {
	progress("installing %s", strings.Join(packages, ", "))
	const policy = "/usr/sbin/policy-rc.d"
	f, err := os.OpenFile(policy, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	switch {
	case errors.Is(err, os.ErrExist): // the machine has a policy of its own
	case err != nil:
		return err
	default:
		defer func() { _ = os.Remove(policy) }()
		_, err = f.WriteString("#!/bin/sh\nexit 101\n")
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	if err := command(ctx, nil, "apt-get", "update", "-qq"); err != nil {
		return err
	}
	env := []string{"DEBIAN_FRONTEND=noninteractive"}
	return command(ctx, env, "apt-get", append([]string{"install", "-y", "-qq", "--no-install-recommends"}, packages...)...)
}

func buildCoreDNS(ctx context.Context) error {
	path, err := corednsPath()
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	progress("building CoreDNS %s, which takes minutes, once", corednsVersion)
	env := []string{"GOBIN=" + filepath.Dir(path), "CGO_ENABLED=0"}
	return command(ctx, env, "go", "install", "github.com/coredns/coredns@"+corednsVersion)
}

// command runs a command to its end; an error has its output.
func command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, text)
	}
	return nil
}
