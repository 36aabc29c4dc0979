// Command benchdns measures how fast dnsd answers a pod, beside the DNS servers people use today, in one
// run on one machine.
//
// It installs the servers, makes a world (package world) with a pod for each, and lets every pod ask its
// own server, in turn: A B C, A B C, so that whatever the machine does meanwhile it does to all. dnsd is
// the real one, with the plugin, the kernel half and a captured pod; the peers answer on the node, where
// a DNS cache for pods stands. Everything is taken away at the end and on Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/world"
)

// options are the command line.
type options struct {
	rounds int
	each   time.Duration // one run of dnsperf
	pods   int           // how many pods the memory of one dnsd is measured with
	big    int           // names in the larger memory measurement; 0: none
	out    string        // folder of RESULTS.md and results.svg; empty: print only
	only   string
	// workloads are the only ones to run, comma between; all if empty.
	workloads string
	memory    bool // that of nodens, and nothing else
	flood     bool // what a flood does to others, and nothing else
}

func main() {
	app.Main()
	if len(os.Args) == 4 && os.Args[1] == resolverName {
		if err := lookNamesUp(os.Args[2], os.Args[3]); err != nil {
			fail(err)
		}
		return
	}
	if len(os.Args) == 5 && os.Args[1] == singleName {
		if err := askOneByOne(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fail(err)
		}
		return
	}
	if len(os.Args) == 5 && os.Args[1] == everywhereName {
		if err := askEverywhere(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fail(err)
		}
		return
	}
	o := options{}
	quick := flag.Bool("quick", false, "two short rounds, nothing written: to see that it works, not to publish")
	flag.IntVar(&o.rounds, "rounds", 5, "how often all servers are measured; medians are shown")
	flag.DurationVar(&o.each, "each", 800*time.Millisecond, "how long one run of one workload takes")
	flag.IntVar(&o.pods, "pods", 250, "pods for the memory of one node; 0 leaves it out")
	flag.IntVar(&o.big, "big", 100000, "names for the larger memory column; 0 leaves it out")
	flag.StringVar(&o.out, "out", "conformance/benchdns", "folder RESULTS.md and results.svg are written into; empty: none")
	flag.BoolVar(&o.memory, "memory", false, "measure only what nodens has resident, by kind, and what its pods' queries take then; written nowhere")
	flag.BoolVar(&o.flood, "flood", false, "measure only what a pod that floods does to another; written nowhere")
	flag.StringVar(&o.only, "only", "", "servers to measure beside nodens, by parts of their names, comma between; all if empty")
	flag.StringVar(&o.workloads, "workloads", "", "workloads to run of local, forward, mix, single, near, short, far, musl-near and musl-short, comma between; all if empty, else nothing is measured but those")
	flag.Parse()
	if *quick {
		o.rounds, o.each, o.pods, o.big, o.out = 2, 300*time.Millisecond, 0, 0, ""
	}
	if os.Getuid() != 0 {
		fail(errors.New("must run as root: network namespaces, cgroups and BPF need it"))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measureAndPublish(ctx, o); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "benchdns:", err)
	os.Exit(1)
}

// progress tells who waits what is being done; standard output is for the result.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

func measureAndPublish(ctx context.Context, o options) (err error) {
	peers := chosen(o.only)
	if o.memory {
		peers = chosen("NSD") // it is the nameserver beyond
	}
	if err := install(ctx, peers); err != nil {
		return err
	}
	abs, err := filepath.Abs("bin")
	if err != nil {
		return err
	}
	progress("building dnsd and the plugins")
	bin, err := world.Build(ctx, abs, false)
	if err != nil {
		return err
	}
	if o.flood {
		return floods(ctx, bin)
	}
	// Child processes inherit the core; the servers' own is set where they are started.
	if err := pin(clientCPU); err != nil {
		return fmt.Errorf("two cores are needed, one for the server and one for all else: %w", err)
	}
	dir, err := os.MkdirTemp("", "nodens-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// Daemons that give up root must get to their files.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	s, err := newStage(bin, dir, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if o.memory {
		return memory(ctx, s, o)
	}
	res, err := run(ctx, s, o)
	if ctx.Err() != nil {
		return errors.New("interrupted; everything is cleared")
	}
	if err != nil {
		return err
	}
	return publish(res, o.out)
}

// publish prints the tables and writes them, with the plot, into a folder.
func publish(res *results, dir string) error {
	text := res.markdown()
	fmt.Print(text)
	if dir == "" {
		return nil
	}
	if err := os.WriteFile(filepath.Join(dir, "RESULTS.md"), []byte(text), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "results.svg"), []byte(res.svg()), 0o644)
}

// chosen are the drivers to measure: nodens, and those that only names.
func chosen(only string) (ds []*driver) {
	for i := range drivers {
		if drivers[i].command == nil || picks(only, drivers[i].name) {
			ds = append(ds, &drivers[i])
		}
	}
	return ds
}

// picks says whether a list of parts has one that is in name, or is empty.
func picks(list, name string) bool {
	return list == "" || slices.ContainsFunc(strings.Split(list, ","), func(part string) bool {
		return strings.Contains(strings.ToLower(name), strings.ToLower(part))
	})
}
