package main

import (
	"fmt"
	"html"
	"strings"
)

// panel is one bar chart of the plot.
type panel struct {
	title string
	value func(res *results, server string) float64 // 0: none
}

func plotted(workload string, c column) func(*results, string) float64 {
	return func(res *results, server string) float64 {
		value, _, _ := res.figure(server, workload, c)
		return value
	}
}

var panels = []panel{
	{"Local names: server's CPU, µs a query", plotted(workloadLocal, cpuCost)},
	{"Cached forwards: server's CPU, µs a query", plotted(workloadForward, cpuCost)},
	{"Local names: p99 at 5,000 queries/s, µs", plotted(workloadLocal, tail99)},
	{"Resident memory with 10,000 names, MiB", func(res *results, server string) float64 {
		return mebibytes(res.small[server])
	}},
	{"getaddrinfo of a service, ndots:5: p50, µs", plotted(workloadNear, lookUp50)},
	{"getaddrinfo of a name outside, ndots:5: p50, µs", plotted(workloadFar, lookUp50)},
}

// The plot's measures, in pixels.
const (
	panelWidth = 440
	labelWidth = 150
	barSpace   = 20
	titleSpace = 44
	valueSpace = 50
)

// svg is the plot: two columns of panels, a bar a server, shorter is better.
func (res *results) svg() string {
	height := titleSpace + barSpace*len(res.servers)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">
<rect width="100%%" height="100%%" fill="#fff"/>
`, 2*panelWidth, (len(panels)+1)/2*height+barSpace)
	for i, p := range panels {
		res.bars(&b, p, i%2*panelWidth, i/2*height)
	}
	fmt.Fprintf(&b, "</svg>\n")
	return b.String()
}

// bars draws one panel with its upper left corner at x, y.
func (res *results) bars(b *strings.Builder, p panel, x, y int) {
	longest := 0.0
	for _, server := range res.servers {
		longest = max(longest, p.value(res, server))
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold" fill="#222">%s</text>`+"\n", x+10, y+28, html.EscapeString(p.title))
	for i, server := range res.servers {
		top, value := y+titleSpace+i*barSpace, p.value(res, server)
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end" fill="#222">%s</text>`+"\n", x+labelWidth-6, top+13, html.EscapeString(server))
		if value == 0 {
			continue
		}
		colour := "#9aa5b1"
		if server == reference {
			colour = "#1f6feb"
		}
		width := value / longest * (panelWidth - labelWidth - valueSpace)
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, x+labelWidth, top+2, width, barSpace-6, colour)
		fmt.Fprintf(b, `<text x="%.1f" y="%d" fill="#222">%s</text>`+"\n", float64(x+labelWidth)+width+4, top+13, short(value))
	}
}

// short writes a number with three digits, or all of a whole part that has more.
func short(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
