// Command skydns asks the real dnsd, in a captured pod, and a real CoreDNS the same questions about the same
// keys of a real etcd, and holds dnsd to every answer of CoreDNS's but those it means to give otherwise.
//
//	make coredns-etcd
//
// It needs root and etcd, and builds CoreDNS once: minutes, into the user's cache folder.
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
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/bench"
	"github.com/nodens-dns/nodens/conformance/world"
)

// corednsVersion is the same that benchdns measures, so that it is built once.
const corednsVersion = "v1.15.0"

func main() {
	app.Main()
	out := flag.String("o", "", "write what differs, and why, to this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	table, err := compare(ctx)
	if table != "" && *out != "" {
		err = errors.Join(err, os.WriteFile(*out, []byte(table), 0o644)) //nolint:gosec // it is for everybody
	}
	fmt.Print(table)
	if err != nil {
		fmt.Fprintln(os.Stderr, "skydns:", err)
		os.Exit(1)
	}
}

// coredns returns the path of the program, which is built if need be.
func coredns(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, "nodens-bench", "coredns-"+corednsVersion, "coredns")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	fmt.Fprintln(os.Stderr, "building CoreDNS, which takes minutes, once")
	return path, bench.Command(ctx, []string{"GOBIN=" + filepath.Dir(path), "CGO_ENABLED=0"}, "go", "install", "github.com/coredns/coredns@"+corednsVersion)
}

// compare makes a world with both, asks both, and returns what differs as a table. The error has what differs
// without a reason, and reasons that nothing differs for.
func compare(ctx context.Context) (table string, err error) {
	path, err := coredns(ctx)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "nodens-skydns-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	bin, err := world.Build(ctx, dir, false)
	if err != nil {
		return "", err
	}
	w, err := world.New(world.Options{Bin: bin, Label: "skydns"})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	pod, server, err := stage(w, path)
	if err != nil {
		return "", err
	}
	return ask(pod, server)
}

// stage fills etcd, starts both servers on it and returns a captured pod, and where CoreDNS answers.
func stage(w *world.World, path string) (*world.Pod, string, error) {
	if err := w.StartEtcd(); err != nil {
		return nil, "", err
	}
	for line := range strings.Lines(keys) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			if _, err := w.Etcd("put", map[string]any{"key": []byte(key), "value": []byte(value)}); err != nil {
				return nil, "", err
			}
		}
	}
	if err := w.Zone.Set("far.example", "A", 60, "203.0.113.9"); err != nil {
		return nil, "", err
	}
	corefile := filepath.Join(w.Dir, "Corefile")
	text := fmt.Sprintf(".:5353 {\n\tetcd %s {\n\t\tpath /skydns\n\t\tendpoint %s\n\t}\n\tforward . %s\n}\n",
		strings.Join(zones, " "), world.EtcdAddress, world.Nameservers[0])
	if err := os.WriteFile(corefile, []byte(text), 0o600); err != nil {
		return nil, "", err
	}
	if err := w.StartOnNode("coredns.log", exec.Command(path, "-conf", corefile)); err != nil {
		return nil, "", err
	}
	if err := w.Configure(map[string]any{"xds": nil, "etcd": map[string]any{"endpoints": []string{world.EtcdAddress}, "zones": zones}}); err != nil {
		return nil, "", err
	}
	if err := w.StartDnsd(true); err != nil {
		return nil, "", err
	}
	pod, err := w.NewPod(world.PodSpec{Name: "asker", IPv6: true})
	if err != nil {
		return nil, "", err
	}
	server := w.NodeAddress() + ":5353"
	return pod, server, world.Until(time.Minute, func() error {
		_, err := pod.Dig(app.Question{Name: "web.sky.test", Server: server})
		return err
	})
}

// ask asks both everything.
func ask(pod *world.Pod, server string) (string, error) {
	var b strings.Builder
	var errs []error
	same, used := 0, map[string]bool{}
	b.WriteString("| question | CoreDNS | nodens | why |\n| --- | --- | --- | --- |\n")
	for _, name := range questions() {
		for _, qtype := range types {
			theirs, err := answer(pod, app.Question{Name: name, Type: qtype, Server: server, TCP: true})
			if err != nil {
				return b.String(), err
			}
			ours, err := answer(pod, app.Question{Name: name, Type: qtype, TCP: true})
			if err != nil {
				return b.String(), err
			}
			if ours == theirs {
				same++
				continue
			}
			why := reason(name, qtype, theirs, ours)
			if why == "" {
				errs = append(errs, fmt.Errorf("%s %s: CoreDNS %s, nodens %s", name, qtype, theirs, ours))
				continue
			}
			used[why] = true
			fmt.Fprintf(&b, "| %s %s | %s | %s | %s |\n", name, qtype, theirs, ours, why)
		}
	}
	for _, r := range reasons {
		if !used[r.why] {
			errs = append(errs, fmt.Errorf("nothing differs any more because: %s", r.why))
		}
	}
	fmt.Fprintf(&b, "\n%d questions of %d are answered the same.\n", same, len(questions())*len(types))
	return b.String(), errors.Join(errs...)
}

// answer is what a server says, in one line and the same order each time.
func answer(pod *world.Pod, q app.Question) (string, error) {
	r, err := pod.Dig(q)
	if err != nil {
		return "", fmt.Errorf("%s %s of %s: %w", q.Name, q.Type, q.Server, err)
	}
	slices.Sort(r.Answer)
	for i, rr := range r.Answer {
		f := strings.Fields(rr)
		r.Answer[i] = strings.Join(slices.Concat(f[:2], f[3:]), " ") // all are of class IN
	}
	if len(r.Answer) == 0 && r.Rcode == "NOERROR" {
		return "NODATA", nil
	}
	if len(r.Answer) == 0 {
		return r.Rcode, nil
	}
	return strings.Join(r.Answer, ", "), nil
}
