package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// way is one way to connect to something.
type way struct {
	name   string
	lane   *lane
	inside bool // in the cgroup the programs are attached to
	to     func(n int) netip.AddrPort
}

// sample is what one round found of one way: the middle of many connections.
type sample struct {
	connect time.Duration // connect() alone
	whole   time.Duration // socket(), connect() and close()
}

// series is what all rounds found, by way.
type series map[string][]sample

// measureWays connects by every way in turn, as often as o says, with sockets of a kind.
func measureWays(ctx context.Context, o options, g *group, ways []way, kind int) (series, error) {
	found := make(series)
	for round := range o.rounds + 1 {
		for _, w := range ways {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			s, err := w.measure(o, g, kind, rand.New(rand.NewPCG(uint64(round), 0)))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.name, err)
			}
			if round > 0 { // the first warms up
				found[w.name] = append(found[w.name], s)
			}
		}
	}
	return found, nil
}

// measure connects to services in random order, the same for all ways in a round.
func (w way) measure(o options, g *group, kind int, order *rand.Rand) (s sample, err error) {
	step := g.leave
	if w.inside {
		step = g.enter
	}
	if err := step(); err != nil {
		return s, err
	}
	targets := make([]netip.AddrPort, o.each)
	for i := range targets {
		targets[i] = w.to(order.IntN(o.services))
	}
	connects, wholes := make([]time.Duration, o.each), make([]time.Duration, o.each)
	err = w.lane.pod.Do(func() error {
		for i, to := range targets {
			if connects[i], wholes[i], err = connect(to, kind); err != nil {
				return fmt.Errorf("connect to %s: %w", to, err)
			}
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	if kind == unix.SOCK_STREAM {
		if n := w.lane.drain(); n != o.each {
			return s, fmt.Errorf("%d of %d connections arrived", n, o.each)
		}
	}
	return sample{middle(connects), middle(wholes)}, nil
}

// connect makes one connection and ends it at once, TCP by a reset, which leaves nothing to wait for.
func connect(to netip.AddrPort, kind int) (connect, whole time.Duration, err error) {
	sa := &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	start := time.Now()
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	before := time.Now()
	err = unix.Connect(fd, sa)
	connect = time.Since(before)
	if kind == unix.SOCK_STREAM {
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	_ = unix.Close(fd)
	return connect, time.Since(start), err
}

func middle(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}
