package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/world"
)

// The flood: how often everything is measured, for how long, and how often the neighbour asks meanwhile.
const (
	floodRounds = 5
	floodFor    = 4 * time.Second
	floodPause  = 5 * time.Millisecond
)

// sinkPort is where in the flooding pod somebody reads and does nothing else.
const sinkPort = 5300

// floods measures, in turn, what a pod's query takes while its neighbour is quiet, while that floods
// somebody who only reads, which is what the machine itself costs, and while it floods dnsd. Nothing is
// pinned: whoever floods has the same cores as everybody. It prints a table.
func floods(ctx context.Context, bin world.Binaries) (err error) {
	w, err := world.New(world.Options{Bin: bin, Label: "flood"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	set, err := serveNames(w, 100)
	if err != nil {
		return err
	}
	greedy, err := w.NewPod(world.PodSpec{Name: "greedy"})
	if err != nil {
		return err
	}
	modest, err := w.NewPod(world.PodSpec{Name: "modest"})
	if err != nil {
		return err
	}
	sink, err := openSink(greedy)
	if err != nil {
		return err
	}
	defer func() { _ = sink.Close() }()
	name := set.services[0].fqdn()
	phases := []struct{ title, server string }{
		{"quiet", ""}, {"somebody who only reads is flooded", sink.LocalAddr().String()}, {"dnsd is flooded", greedy.Nameservers[0].String()},
	}
	p50, p99 := make([][]time.Duration, len(phases)), make([][]time.Duration, len(phases))
	failed, sent := make([]int, len(phases)), make([]int, len(phases))
	for round := range floodRounds {
		progress("round %d of %d", round+1, floodRounds)
		for i, phase := range phases {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			tally, flooded, err := floodOnce(greedy, modest, name, phase.server)
			if err != nil {
				return err
			}
			p50[i], p99[i] = append(p50[i], tally.P50), append(p99[i], tally.P99)
			failed[i], sent[i] = failed[i]+tally.Failed, sent[i]+flooded.Sent
		}
	}
	fmt.Println("| while | p50 µs | p99 µs | p99 to quiet | p99 to the machine's own | flood/s | failed |")
	fmt.Println("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
	for i, phase := range phases {
		rate := float64(sent[i]) / floodRounds / floodFor.Seconds()
		fmt.Printf("| %s | %.0f | %.0f | %.2f | %.2f | %.0f | %d |\n", phase.title, micros(middle(p50[i])), micros(middle(p99[i])),
			middleRatio(p99[i], p99[0]), middleRatio(p99[i], p99[1]), rate, failed[i])
	}
	out, err := w.Dnsd("pods")
	fmt.Println(out)
	return err
}

// serveNames starts dnsd with n names.
func serveNames(w *world.World, n int) (*names, error) {
	set, err := makeNames(w.Dir, n)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(set.path("manifest.yaml"))
	if err == nil {
		err = os.WriteFile(filepath.Join(w.ManifestDir(), "services.yaml"), text, 0o644)
	}
	if err == nil {
		err = w.Configure(map[string]any{"xds": nil})
	}
	if err == nil {
		err = w.StartDnsd(true)
	}
	return set, err
}

// floodOnce has modest ask while greedy floods server, or is quiet if that is empty.
func floodOnce(greedy, modest *world.Pod, name, server string) (app.Tally, app.Flooded, error) {
	var flooded app.Flooded
	question := &app.Question{Name: name, Timeout: 2 * time.Second}
	if err := modest.LoadStart(app.Load{Name: "modest", Question: question, Pause: floodPause}); err != nil {
		return app.Tally{}, flooded, err
	}
	var err error
	if server == "" {
		time.Sleep(floodFor)
	} else {
		flooded, err = greedy.Flood(app.Flood{Name: name, Server: server, For: floodFor})
	}
	tally, stopped := modest.LoadStop("modest")
	return tally, flooded, errors.Join(err, stopped)
}

// openSink reads whatever comes to a port in the pod.
func openSink(p *world.Pod) (conn *net.UDPConn, err error) {
	err = p.NS.Do(func() error {
		conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.Addresses[0].Addr(), sinkPort)))
		return err
	})
	if err != nil {
		return nil, err
	}
	go func() {
		for buf := make([]byte, 1500); ; {
			if _, err := conn.Read(buf); err != nil {
				return
			}
		}
	}()
	return conn, nil
}

func middle(list []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(list))[len(list)/2]
}

// middleRatio is the median of the rounds' ratios.
func middleRatio(list, to []time.Duration) float64 {
	ratios := make([]float64, len(list))
	for i := range list {
		ratios[i] = float64(list[i]) / float64(to[i])
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2]
}
