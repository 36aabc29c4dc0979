// Command answers asks dnsd and CoreDNS the same questions, in one run and over the same Kubernetes API, and
// compares what they answer.
//
// The questions go through all records of the Kubernetes DNS specification 1.1, and what must not exist. Where
// the answers differ, differences.go says why; a difference that is not there, or one that is there and is
// none any more, fails.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/world"
)

func main() {
	app.Main()
	parts := flag.String("parts", "", "conformance/kubernetes/parts, built: a real API server and its etcd; without it kubeapi stands in")
	coredns := flag.String("coredns", "", "CoreDNS, built")
	verbose := flag.Bool("v", false, "show every answer")
	flag.Parse()
	if os.Getuid() != 0 {
		fail(errors.New("must run as root: network namespaces, cgroups and BPF need it"))
	}
	if *coredns == "" {
		fail(errors.New("-coredns: name the program (make conformance-kube builds it)"))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *parts, *coredns, *verbose); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "answers:", err)
	os.Exit(1)
}

// run makes a world with an API, both servers and a pod, and holds the answers against each other.
func run(ctx context.Context, parts, coredns string, verbose bool) (err error) {
	dir, err := os.MkdirTemp("", "nodens-answers")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	bin, err := world.Build(ctx, filepath.Join(dir, "bin"), false)
	if err != nil {
		return err
	}
	w, err := world.New(world.Options{Bin: bin})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	s := &stage{w: w, dir: dir}
	defer s.close()
	if err := s.serveAPI(ctx, parts); err != nil {
		return fmt.Errorf("the API server: %w", err)
	}
	pod, err := s.serveDNS(ctx, coredns)
	if err != nil {
		return err
	}
	return compare(pod, verbose)
}
