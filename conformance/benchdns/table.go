package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/nodens-dns/nodens/conformance/bench"
)

// reference is whom the ratios are to.
const reference = "nodens"

// column is one figure of a run.
type column struct {
	head  string
	rated bool
	// value is the figure, in the unit that head and format mean.
	value  func(sample) float64
	format string
	// more: a larger figure is the better one.
	more bool
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

var (
	perSecond = column{"queries/s", false, func(s sample) float64 { return s.perSecond }, "%.0f", true}
	cpuCost   = column{"CPU µs/query", false, func(s sample) float64 { return micros(s.cpu) }, "%.1f", false}
	bothCost  = column{"both's CPU µs/query", false, func(s sample) float64 { return micros(s.both) }, "%.1f", false}
	single50  = column{"p50 µs", false, func(s sample) float64 { return micros(s.p50) }, "%.1f", false}
	single99  = column{"p99 µs", false, func(s sample) float64 { return micros(s.p99) }, "%.1f", false}
	median50  = column{"p50 µs at 5,000/s", true, func(s sample) float64 { return micros(s.p50) }, "%.0f", false}
	tail99    = column{"p99 µs at 5,000/s", true, func(s sample) float64 { return micros(s.p99) }, "%.0f", false}
	cpuRated  = column{"CPU µs/query at 5,000/s", true, func(s sample) float64 { return micros(s.cpu) }, "%.1f", false}

	lookUp50  = column{"p50 µs", false, func(s sample) float64 { return micros(s.p50) }, "%.0f", false}
	lookUp99  = column{"p99 µs", false, func(s sample) float64 { return micros(s.p99) }, "%.0f", false}
	lookUpCPU = column{"server's CPU µs/look-up", false, func(s sample) float64 { return micros(s.cpu) }, "%.0f", false}
)

// section is one table.
type section struct {
	title, workload string
	columns         []column
}

var sections = []section{
	{"Local names", workloadLocal, []column{perSecond, cpuCost, bothCost, median50, tail99, cpuRated}},
	{"Local names, one at a time", workloadSingle, []column{single50, single99, bothCost}},
	{"Cached forwards", workloadForward, []column{perSecond, cpuCost, median50, tail99, cpuRated}},
	{"Local names with a fifth search-list misses", workloadMix, []column{perSecond, cpuCost, median50, tail99, cpuRated}},
	{"getaddrinfo of a service's full name, ndots:5", workloadNear, []column{lookUp50, lookUp99, lookUpCPU}},
	{"getaddrinfo of a service's name and namespace, ndots:5", workloadShort, []column{lookUp50, lookUp99, lookUpCPU}},
	{"The same with musl, full name", workloadMuslNear, []column{lookUp50, lookUp99, lookUpCPU}},
	{"The same with musl, name and namespace", workloadMuslShort, []column{lookUp50, lookUp99, lookUpCPU}},
	{"getaddrinfo of a name beyond the cluster, ndots:5", workloadFar, []column{lookUp50, lookUp99, lookUpCPU}},
}

// figure is a column's median for a server, and the median of its ratios to nodens round by round.
func (res *results) figure(server, workload string, c column) (value, ratio float64, ok bool) {
	mine := res.samples[series{server, workload, c.rated}]
	ours := res.samples[series{reference, workload, c.rated}]
	var values, ratios []float64
	for i, s := range mine {
		values = append(values, c.value(s))
		if i < len(ours) && c.value(ours[i]) > 0 {
			ratios = append(ratios, c.value(s)/c.value(ours[i]))
		}
	}
	return bench.Middle(values), bench.Middle(ratios), len(values) > 0
}

// markdown is RESULTS.md.
func (res *results) markdown() string {
	var b strings.Builder
	res.method(&b)
	res.behind(&b)
	for _, s := range sections {
		fmt.Fprintf(&b, "## %s\n\n| server |", s.title)
		for _, c := range s.columns {
			fmt.Fprintf(&b, " %s |", c.head)
		}
		fmt.Fprintf(&b, "\n| --- |%s\n", strings.Repeat(" ---: |", len(s.columns)))
		for _, server := range res.servers {
			res.row(&b, s, server)
		}
		b.WriteByte('\n')
	}
	res.memoryTable(&b)
	return b.String()
}

func (res *results) row(b *strings.Builder, s section, server string) {
	fmt.Fprintf(b, "| %s |", server)
	for _, c := range s.columns {
		value, ratio, ok := res.figure(server, s.workload, c)
		if !ok {
			b.WriteString(" - |")
			continue
		}
		fmt.Fprintf(b, " "+c.format+" (%.2f) |", value, ratio)
	}
	b.WriteByte('\n')
}

func (res *results) memoryTable(b *strings.Builder) {
	fmt.Fprintf(b, "## Resident memory, MiB\n\n| server | %d names |", fewNames)
	memories := []map[string]int64{res.small}
	if res.options.big > 0 {
		fmt.Fprintf(b, " %d names |", res.options.big)
		memories = append(memories, res.big)
	}
	fmt.Fprintf(b, "\n| --- |%s\n", strings.Repeat(" ---: |", len(memories)))
	for _, server := range res.servers {
		fmt.Fprintf(b, "| %s |", server)
		for _, of := range memories {
			if of[server] == 0 {
				b.WriteString(" - |")
				continue
			}
			fmt.Fprintf(b, " %.0f (%.2f) |", mebibytes(of[server]), float64(of[server])/float64(of[reference]))
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(b, "\nnodens' BPF maps are %.0f MiB more, whatever there is in them.", mebibytes(res.maps))
	if res.pods > 0 {
		fmt.Fprintf(b, " With %d services and %d captured pods dnsd has %.0f MiB resident.",
			fewNames, res.options.pods, mebibytes(res.pods))
	}
	fmt.Fprintf(b, "\n\n## A new table under load\n\nWhile nodens reads %d services again and makes its table anew, on its one core, a pod asks %d queries\n"+
		"per second. The worst of runs of 2 s: p50 %.0f µs, p99 %.0f µs, slowest %.1f ms, %d lost.\n",
		fewNames, fixedRate, micros(res.rebuilt.p50), micros(res.rebuilt.p99), micros(res.rebuilt.max)/1000, res.rebuilt.lost)
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }
