package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodens-dns/nodens/conformance/bench"
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
		progress("installing %s", strings.Join(packages, ", "))
		if err := bench.AptInstall(ctx, packages); err != nil {
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
	return bench.Command(ctx, env, "go", "install", "github.com/coredns/coredns@"+corednsVersion)
}
