// Command benchlb measures what connecting to a service costs, with nodens and with kube-proxy's rules, in
// one run on one machine.
//
// It makes network namespaces of pods, nodes and backends, attaches the kernel half to a cgroup of its own,
// and connects from the one process to the same services by every way in turn: A B C, A B C, so that
// whatever the machine does meanwhile it does to all. Everything is taken away at the end and on Ctrl-C.
package main

import (
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

	"github.com/nodens-dns/nodens/conformance/bench"
)

// options are the command line.
type options struct {
	services  int // how many there are while connections are measured
	endpoints int // of each service
	rounds    int
	each      int    // connections in a row, by one way in one round
	out       string // folder of RESULTS.md; empty: print only
}

// quick is enough to see that everything works.
var quick = options{services: 200, endpoints: 3, rounds: 2, each: 50}

func main() {
	o := options{}
	short := flag.Bool("quick", false, "few services and connections, nothing written: to see that it works, not to publish")
	flag.IntVar(&o.services, "services", 10000, "services there are")
	flag.IntVar(&o.endpoints, "endpoints", 10, "endpoints of each")
	flag.IntVar(&o.rounds, "rounds", 15, "how often every way is measured; medians are shown")
	flag.IntVar(&o.each, "each", 1000, "connections in a row")
	flag.StringVar(&o.out, "out", "conformance/benchlb", "folder RESULTS.md is written into; empty: none")
	flag.Parse()
	if *short {
		o = quick
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "benchlb:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if os.Getuid() != 0 {
		return errors.New("must run as root: network namespaces, cgroups and BPF need it")
	}
	if err := install(ctx); err != nil {
		return err
	}
	res, err := measure(ctx, o)
	if ctx.Err() != nil {
		return errors.New("interrupted; everything is cleared")
	}
	if err != nil {
		return err
	}
	text := res.markdown()
	fmt.Print(text)
	if o.out == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(o.out, "RESULTS.md"), []byte(text), 0o644)
}

// install gets what kube-proxy would use, if it is missing.
func install(ctx context.Context) error {
	var packages []string
	for pkg, program := range map[string]string{"nftables": "nft", "iptables": "iptables-legacy-restore"} {
		if _, err := exec.LookPath(program); err != nil {
			packages = append(packages, pkg)
		}
	}
	if packages == nil {
		return nil
	}
	progress("installing %v", packages)
	return bench.AptInstall(ctx, packages)
}

// progress tells who waits what is being done; standard output is for the result.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
