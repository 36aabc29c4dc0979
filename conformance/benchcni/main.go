// Command benchcni measures what the plugin adds to the time a pod takes to start.
//
// It makes a world with a running dnsd and does, in turn within one run, a runtime's calls of the plugin,
// the same calls of a plugin that does nothing, and whole ADDs by cnitool with and without nodens in the
// chain. Everything is taken away at the end and on Ctrl-C.
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
	"github.com/nodens-dns/nodens/conformance/bench"
	"github.com/nodens-dns/nodens/conformance/world"
)

func main() {
	app.Main()
	rounds := flag.Int("rounds", 200, "how often everything is done")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "benchcni:", err)
		os.Exit(1)
	}
}

// run makes the world, measures and prints the table.
func run(ctx context.Context, rounds int) (err error) {
	// Where /run is on a node: in memory, where to sync costs nothing.
	if err := os.Setenv("TMPDIR", "/dev/shm"); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "nodens-benchcni")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	fmt.Fprintln(os.Stderr, "building")
	bin, err := world.Build(ctx, dir, false)
	if err != nil {
		return err
	}
	w, err := world.New(world.Options{Bin: bin, Label: "benchcni"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := w.StartDnsd(true); err != nil {
		return err
	}
	m := &measured{times: map[string][]float64{}}
	pod, err := w.BarePod(world.PodSpec{Name: "bare"})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "measuring %d rounds\n", rounds)
	for i := range rounds {
		if ctx.Err() != nil {
			return errors.New("interrupted; everything is cleared")
		}
		if err := m.calls(w, pod, ""); err != nil {
			return err
		}
		if i%4 == 0 {
			if err := m.chains(w); err != nil {
				return err
			}
		}
	}
	if err := w.SignalDnsd(syscall.SIGKILL); err != nil {
		return err
	}
	for range rounds {
		if err := m.calls(w, pod, " while no dnsd runs"); err != nil {
			return err
		}
	}
	fmt.Print(m.markdown(rounds))
	return nil
}

// measured holds milliseconds by what took them, in the order of the first round.
type measured struct {
	rows  []string
	times map[string][]float64
}

func (m *measured) time(row string, f func() error) error {
	began := time.Now()
	err := f()
	if m.times[row] == nil {
		m.rows = append(m.rows, row)
	}
	m.times[row] = append(m.times[row], float64(time.Since(began).Microseconds())/1000)
	if err != nil {
		return fmt.Errorf("%s: %w", row, err)
	}
	return nil
}

// The rows of the table.
const (
	rowNothing = "a plugin that does nothing, ADD"
	rowPlain   = "cnitool add: bridge, host-local"
	rowChained = "cnitool add: bridge, host-local, nodens"
)

// calls are one pod's life as the plugin sees it. The pod's interface is the world's own.
func (m *measured) calls(w *world.World, pod *world.Pod, when string) error {
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"bench","type":"nodens","stateDir":%q,"bpfPath":%q,"cgroup":%q,
		"runtimeConfig":{"dns":{"servers":["10.96.0.10"]}},
		"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"canary","sandbox":"x"}],"ips":[{"address":"10.244.0.250/24","interface":0}]}}`,
		filepath.Dir(w.AttachmentDir()), w.Pins(), w.Cgroup())
	call := func(program, command string) func() error {
		env := []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=bench", "CNI_NETNS=" + pod.NS.Path(), "CNI_IFNAME=canary",
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=bench"}
		return func() error {
			_, err := w.Run(program, env, conf)
			return err
		}
	}
	for _, c := range []struct{ row, program, command string }{
		{rowNothing, "nodens-stub", "ADD"},
		{"STATUS", "nodens", "STATUS"}, {"ADD", "nodens", "ADD"}, {"CHECK", "nodens", "CHECK"}, {"DEL", "nodens", "DEL"},
	} {
		if err := m.time(c.row+when, call(c.program, c.command)); err != nil {
			return err
		}
	}
	return nil
}

// chains makes a pod without nodens, and one with.
func (m *measured) chains(w *world.World) error {
	for _, c := range []struct {
		row   string
		plain bool
	}{{rowPlain, true}, {rowChained, false}} {
		pod, err := w.BarePod(world.PodSpec{Name: "chain", Plain: c.plain, IPv6: true})
		if err != nil {
			return err
		}
		if err := errors.Join(m.time(c.row, pod.Attach), pod.Delete()); err != nil {
			return err
		}
	}
	return nil
}

func (m *measured) markdown(rounds int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d rounds\n\n| | p50 ms | p90 ms |\n| --- | ---: | ---: |\n", bench.ThisMachine(), rounds)
	for _, row := range m.rows {
		all := slices.Sorted(slices.Values(m.times[row]))
		fmt.Fprintf(&b, "| %s | %.1f | %.1f |\n", row, bench.Middle(all), all[len(all)*9/10])
	}
	var added []float64
	for i, with := range m.times[rowChained] {
		added = append(added, with-m.times[rowPlain][i])
	}
	slices.Sort(added)
	fmt.Fprintf(&b, "| added to the chain | %.1f | %.1f |\n", bench.Middle(added), added[len(added)*9/10])
	return b.String()
}
