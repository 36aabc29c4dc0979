package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// losses are the servers ahead of nodens in one figure.
type losses struct {
	figure string
	worst  float64 // how many times worse nodens is than the best of them
	ahead  []string
}

// add takes a server's lead, a factor above 1 where it has one. Less than the last digit shown is none.
func (l *losses) add(server string, lead float64) {
	if strings.HasPrefix(server, reference) || lead < 1.005 {
		return
	}
	l.worst = max(l.worst, lead)
	l.ahead = append(l.ahead, fmt.Sprintf("%s %.2f", server, lead))
}

// behind lists where nodens is behind, the worst first.
func (res *results) behind(b *strings.Builder) {
	var all []losses
	for _, s := range sections {
		for _, c := range s.columns {
			l := losses{figure: s.title + ", " + c.head}
			for _, server := range res.servers {
				_, ratio, ok := res.figure(server, s.workload, c)
				switch {
				case ok && c.more:
					l.add(server, ratio)
				case ok && ratio > 0:
					l.add(server, 1/ratio)
				}
			}
			all = append(all, l)
		}
	}
	all = append(all, res.heavier(fewNames, res.small), res.heavier(res.options.big, res.big))
	all = slices.DeleteFunc(all, func(l losses) bool { return len(l.ahead) == 0 })
	slices.SortStableFunc(all, func(x, y losses) int { return cmp.Compare(y.worst, x.worst) })

	b.WriteString("## Where nodens is behind\n\n")
	if len(all) == 0 {
		b.WriteString("Nowhere in this run.\n\n")
		return
	}
	b.WriteString("How many times better each is, the worst first.\n\n")
	for _, l := range all {
		fmt.Fprintf(b, "- %s: %s\n", l.figure, strings.Join(l.ahead, ", "))
	}
	b.WriteByte('\n')
}

// heavier are the servers that need less memory for n names.
func (res *results) heavier(n int, memory map[string]int64) losses {
	l := losses{figure: fmt.Sprintf("Resident memory with %d names", n)}
	for _, server := range res.servers {
		if memory[server] > 0 {
			l.add(server, float64(memory[reference])/float64(memory[server]))
		}
	}
	return l
}
