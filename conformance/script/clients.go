package script

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/world"
	"github.com/nodens-dns/nodens/dnsd/admin"
)

// clients POD NAME ... [want=ADDR,ADDR|none] [least=N] [queries=N]: looks each name up with the resolvers of
// glibc, musl, c-ares and Go, and prints a table of what each found, how many queries that took it, and how
// long. It fails unless each finds these addresses (none: fails; else: at least so many), with so many
// queries at most.
func clientsVerb(l *Line) (string, error) {
	p, err := l.pod(0)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	clients, err := l.w.Clients(ctx)
	if err != nil {
		return "", err
	}
	count, stop, err := counter(ctx, l.w, p)
	if err != nil {
		return "", err
	}
	defer stop()
	var buf bytes.Buffer
	var wrong []error
	table := tabwriter.NewWriter(&buf, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "client\tname\tfound\tqueries\ttook")
	for _, name := range l.words[1:] {
		for _, c := range clients {
			c.Args = []string{name}
			ran, err := p.Run(c.Command)
			if err != nil {
				return "", err
			}
			queries, err := count()
			if err != nil {
				return "", err
			}
			found := addresses(ran)
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%v\n", c.Name, name, found, queries, ran.Took.Round(time.Millisecond))
			if err := l.judge(ran, found, queries); err != nil {
				wrong = append(wrong, fmt.Errorf("%s, %s: %w", c.Name, name, err))
			}
		}
	}
	_ = table.Flush()
	if len(wrong) > 0 {
		return buf.String(), errors.Join(wrong...)
	}
	return buf.String(), nil
}

// addresses are those found, sorted, or why there are none.
func addresses(ran app.Ran) string {
	if !ran.OK {
		return "none: " + strings.Join(ran.Lines, " ")
	}
	slices.Sort(ran.Lines)
	ran.Lines = slices.Compact(ran.Lines)
	if n := len(ran.Lines); n > 3 {
		return fmt.Sprintf("%d addresses", n)
	}
	return strings.Join(ran.Lines, ",")
}

// judge holds what a client found against what the line wants.
func (l *Line) judge(ran app.Ran, found string, queries int) error {
	most, err := l.number("queries", 1000)
	if err != nil {
		return err
	}
	least, err := l.number("least", 0)
	if err != nil {
		return err
	}
	want, wanted := l.options["want"]
	switch {
	case want == "none" && ran.OK, wanted && want != "none" && found != want:
		return fmt.Errorf("found %s, want %s", found, want)
	case !ran.OK && want != "none", len(slices.Compact(ran.Lines)) < least:
		return fmt.Errorf("found %s, want %d addresses", found, max(least, 1))
	case queries > most:
		return fmt.Errorf("took %d queries, want %d at most", queries, most)
	}
	return nil
}

// counter returns a function that says how many queries a pod has sent since the last call: as dnsd's query
// log has it, or as the nameservers have where a plain pod asks them itself.
func counter(ctx context.Context, w *world.World, p *world.Pod) (count func() (int, error), stop func(), err error) {
	if p.Plain {
		return plainCounter(w, p), func() {}, nil
	}
	ctx, stop = context.WithCancel(ctx)
	var mu sync.Mutex
	var seen []string
	ended := make(chan error, 1)
	go func() {
		ended <- w.Admin().Queries(ctx, p.Namespace+"/"+p.Name, 1, func(q admin.Query) error {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, q.Name)
			return nil
		})
	}()
	// A query of our own marks the end of those before it.
	marks := 0
	count = func() (n int, err error) {
		marks++
		mark := fmt.Sprintf("mark-%d.invalid.", marks)
		err = world.Until(10*time.Second, func() error {
			if _, err := p.Dig(app.Question{Name: mark}); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if !slices.Contains(seen, mark) {
				return errors.New("the query log does not show the pod's queries")
			}
			n = 0
			for _, name := range seen {
				if !strings.HasPrefix(name, "mark-") {
					n++
				}
			}
			seen = nil
			return nil
		})
		select {
		case broken := <-ended:
			err = errors.Join(broken, err)
		default:
		}
		return n, err
	}
	_, err = count()
	return count, stop, err
}

func plainCounter(w *world.World, p *world.Pod) func() (int, error) {
	last := 0
	count := func() (int, error) {
		n := 0
		for _, q := range w.Zone.Queries() {
			if slices.ContainsFunc(p.Addresses, func(own netip.Prefix) bool { return own.Addr() == q.From }) {
				n++
			}
		}
		n, last = n-last, n
		return n, nil
	}
	_, _ = count()
	return count
}

// flood POD NAME [for=DURATION] [count=N]: as many queries as the machine can send, each "%" in NAME another digit in
// each; prints how many, and what came back by rcode.
func floodVerb(l *Line) (string, error) {
	p, err := l.pod(0)
	if err != nil {
		return "", err
	}
	f := app.Flood{Name: l.word(1), For: time.Second}
	if l.options["for"] != "" {
		if f.For, err = l.duration("for"); err != nil {
			return "", err
		}
	}
	if f.Count, err = l.number("count", 0); err != nil {
		return "", err
	}
	r, err := p.Flood(f)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "sent %d, %.0f a second\n", r.Sent, float64(r.Sent)/r.Took.Seconds())
	for _, rcode := range slices.Sorted(maps.Keys(r.Replies)) {
		fmt.Fprintf(&b, "rcode %s %d\n", rcode, r.Replies[rcode])
	}
	return b.String(), nil
}
