package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/nodens-dns/nodens/conformance/bench"
)

// figure is the middle of a way's rounds, in ns, and of its ratios to another way of the same round.
func (s series) figure(way, reference string, of func(sample) time.Duration) (value, ratio float64) {
	var values, ratios []float64
	for i, sample := range s[way] {
		values = append(values, float64(of(sample)))
		ratios = append(ratios, float64(of(sample))/float64(of(s[reference][i])))
	}
	return bench.Middle(values), bench.Middle(ratios)
}

func connectOf(s sample) time.Duration { return s.connect }
func wholeOf(s sample) time.Duration   { return s.whole }

// markdown is RESULTS.md.
func (res *results) markdown() string {
	var b strings.Builder
	res.method(&b)
	res.connectTable(&b)
	res.tcpTable(&b)
	res.updateTable(&b)
	fmt.Fprintf(&b, "\nnodens' BPF maps take %.0f MiB empty and %.0f MiB with these services, whatever the number of pods\n(the sum of memlock in fdinfo).\n",
		float64(res.empty)/(1<<20), float64(res.filled)/(1<<20))
	return b.String()
}

func (res *results) method(b *strings.Builder) {
	fmt.Fprintf(b, `# What connecting to a service costs

Made by `+"`make bench-lb`"+` on %s, from %s, in %.1f minutes; medians of %d rounds of %d connections.
Machine: %s; load average %s before, %s after.

In every row one process connects, by every way in turn in each round; in brackets is the ratio to the
first row of the same round (its median over the rounds), the figure that a busy machine disturbs least.
There are %d services of %d endpoints. All ways have pods, nodes and backends in network namespaces of
their own, joined by veth pairs: pod, node, backends. nodens' programs are attached to a cgroup that the
process steps into; its node has no rules. kube-proxy's rules are in the node's namespace, written as
kube-proxy's nftables and iptables modes write them (conformance/benchlb/rules.go), less what decides about
masquerading by where a packet comes from.
`, res.began.Format("2 January 2006"), res.machine.Commit, res.took.Minutes(), res.rounds, res.each, res.machine,
		res.load[0], res.load[1], res.services, res.endpoints)
	for _, m := range res.missing {
		fmt.Fprintf(b, "Left out: %s.\n", m)
	}
}

func (res *results) connectTable(b *strings.Builder) {
	fmt.Fprint(b, "\n## connect()\n\nOf a fresh UDP socket, so that no packet is sent: what the programs add. The last column has what is done\nwhen the socket goes, too.\n\n")
	fmt.Fprint(b, "| way | connect() ns | socket(), connect(), close() ns |\n| --- | ---: | ---: |\n")
	for _, way := range res.udpWays {
		connect, r1 := res.udp.figure(way, without, connectOf)
		whole, r2 := res.udp.figure(way, without, wholeOf)
		fmt.Fprintf(b, "| %s | %.0f (%.2f) | %.0f (%.2f) |\n", way, connect, r1, whole, r2)
	}
}

func (res *results) tcpTable(b *strings.Builder) {
	fmt.Fprint(b, "\n## New TCP connections\n\nTo services at random, through the node, until the handshake is done.\n\n")
	fmt.Fprint(b, "| way | connect() µs | with socket() and close() µs |\n| --- | ---: | ---: |\n")
	for _, way := range res.tcpWays {
		connect, r1 := res.tcp.figure(way, tcpDirect, connectOf)
		whole, r2 := res.tcp.figure(way, tcpDirect, wholeOf)
		fmt.Fprintf(b, "| %s | %.1f (%.2f) | %.1f (%.2f) |\n", way, connect/1000, r1, whole/1000, r2)
	}
}

func (res *results) updateTable(b *strings.Builder) {
	fmt.Fprintf(b, `
## Updates

nodens: from what a control plane says to the kernel, compile and apply. kube-proxy's: the command
that loads the rules (nft in transactions of 500 services, which is faster than one), or the few that change.

| | all %d services | one endpoint changes |
| --- | ---: | ---: |
`, res.services)
	var compiles, applies, writes []float64
	for _, u := range res.changes {
		compiles = append(compiles, millis(u.compile))
		applies = append(applies, millis(u.apply))
		writes = append(writes, float64(u.writes))
	}
	fmt.Fprintf(b, "| nodens | %.0f + %.0f ms, %d map writes | %.1f + %.1f ms, %.0f map writes |\n",
		millis(res.full.compile), millis(res.full.apply), res.full.writes,
		bench.Middle(compiles), bench.Middle(applies), bench.Middle(writes))
	for _, p := range proxies {
		if _, ok := res.loads[p.name]; !ok {
			continue
		}
		var took []float64
		for _, d := range res.replacements[p.name] {
			took = append(took, millis(d))
		}
		fmt.Fprintf(b, "| %s | %.0f ms | %.1f ms |\n", p.name, millis(res.loads[p.name]), bench.Middle(took))
	}
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
