package admin

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// PrintJSON writes v, any of the structs of this package, as indented JSON.
func PrintJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// PrintJSONLine writes v as JSON on a line.
func PrintJSONLine(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// PrintStatus writes the summary: first whether it works, then the parts, last what is wrong.
func PrintStatus(w io.Writer, s Status) error {
	return table(w, func(p printer) {
		p("nodens %s on %s, up %s: %s\n\n", s.Version, dash(s.Node), age(s.Now, s.Started), readiness(s))
		p("process\t%s\n", tenureLine(s.Now, s.Tenure))
		p("kernel\t%s\n", kernelLine(s))
		if line := missing(s.Kernel.Features); line != "" {
			p("\tlacks %s\n", line)
		}
		if line := counters(s.Kernel.Counters); line != "" {
			p("\t%s\n", line)
		}
		p("pods\t%s\n", podLine(s.Pods))
		p("names\t%d, of %d clusters; in the kernel %d frontends, %d backends\n",
			s.Names, s.Clusters, s.Frontends, s.Backends)
		p("vips\t%d of %d used, %d resting (%s, %s)\n",
			s.VIPs.Used, s.VIPs.Size, s.VIPs.Resting, dash(s.VIPs.V4), dash(s.VIPs.V6))
		if line := counters(s.Queries); line != "" {
			p("queries\t%s\n", line)
		}
		for i, src := range s.Sources {
			p("%s\t%s\n", heading(i, "sources"), sourceLine(s.Now, src))
			for _, st := range src.Streams {
				p("\t  %s\n", streamLine(s.Now, st))
			}
		}
		for i, u := range s.Upstream.Servers {
			p("%s\t%s\n", heading(i, "upstream"), upstreamLine(u))
		}
		p("cache\t%d answers, %d KiB, %s\n", s.Upstream.Entries, s.Upstream.Bytes/1024,
			hitRate(s.Upstream.Hits, s.Upstream.Misses))
		if len(s.Problems) > 0 {
			p("\n%s:\n", count(len(s.Problems), "problem"))
		}
		for _, q := range s.Problems {
			p("  %s: %s: %s\n", q.Source, q.Object, q.Reason)
		}
	})
}

// tenureLine says which process this is and what was before it, or nearly after it.
func tenureLine(now time.Time, t Tenure) string {
	line := fmt.Sprintf("pid %d", t.PID)
	if t.From != nil {
		line += fmt.Sprintf("; took over from %s %s ago", t.From, age(now, t.From.At))
	}
	if t.Failed != nil {
		line += fmt.Sprintf("; %s could not take over %s ago: %s", t.Failed, age(now, t.Failed.At), t.Failed.Reason)
	}
	if t.Refused != "" {
		line += "; refused " + t.Refused
	}
	return line
}

// String names it for people.
func (o *Other) String() string {
	if o.PID == 0 {
		return o.Version
	}
	return fmt.Sprintf("%s (pid %d)", o.Version, o.PID)
}

// PrintNames writes one line per name.
func PrintNames(w io.Writer, rows []NameRow) error {
	return table(w, func(p printer) {
		p("NAME\tADDRESSES\tPORTS\tSEEN BY\tSOURCE\tOBJECT\n")
		for _, r := range rows {
			addrs := strings.Join(r.Addresses, ",")
			switch {
			case r.CNAME != "":
				addrs = "-> " + r.CNAME
			case r.VIP:
				addrs += " (vip)"
			}
			p("%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, dash(addrs), dash(strings.Join(r.Ports, ",")),
				cmp.Or(r.View, "all"), dash(r.Source), dash(r.Object))
		}
	})
}

// PrintClusters writes each cluster and, below it, its lookups and endpoints.
func PrintClusters(w io.Writer, rows []ClusterRow) error { return printClusters(w, time.Now(), rows) }

func printClusters(w io.Writer, now time.Time, rows []ClusterRow) error {
	for i, c := range rows {
		if i > 0 {
			if _, err := io.WriteString(w, "\n"); err != nil {
				return err
			}
		}
		if err := printCluster(w, now, c); err != nil {
			return err
		}
	}
	return nil
}

func printCluster(w io.Writer, now time.Time, c ClusterRow) error {
	head := func(p printer) {
		p("%s\n", c.Name)
		p("  serves\t%s\n", dash(strings.Join(c.Frontends, ", ")))
		p("  by\t%s, %s\n", dash(c.Type), dash(c.Policy))
		for _, l := range c.Lookups {
			p("  asks\t%s: %s\n", lookupName(l), lookupState(now, l))
		}
		if c.Problem != "" {
			p("  problem\t%s\n", c.Problem)
		}
	}
	if err := table(w, head); err != nil || len(c.Endpoints) == 0 {
		return err
	}
	return table(w, func(p printer) {
		p("  ENDPOINT\tFROM\tTTL LEFT\tPRIORITY\tWEIGHT\tACTIVE\tCONNECTS\tFAILED\tSTATE\n")
		for _, e := range c.Endpoints {
			p("  %s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\n", e.Address, origins(e), ttlLeft(now, e),
				e.Priority, e.Weight, e.Active, e.Connections, e.Failures, endpointState(now, e))
		}
	})
}

// lookupName is a lookup with all that makes it different from others of the same name.
func lookupName(l LookupRow) string {
	name := l.Name + " " + l.Family
	if l.Resolvers != "" {
		name += " of " + l.Resolvers
	}
	if l.TCP {
		name += " over TCP"
	}
	return name
}

// origins names where an endpoint's address comes from.
func origins(e EndpointRow) string {
	var names []string
	for _, o := range e.From {
		names = append(names, o.Name)
	}
	return dash(strings.Join(names, ","))
}

// ttlLeft is for how long an endpoint's address is known to be good: the longest of its names'.
func ttlLeft(now time.Time, e EndpointRow) string {
	left, failed := time.Duration(-1), false
	for _, o := range e.From {
		failed = failed || o.Error != ""
		if !o.Expires.IsZero() {
			left = max(left, o.Expires.Sub(now), 0)
		}
	}
	switch {
	case left <= 0 && failed:
		return "kept"
	case left < 0:
		return "-"
	}
	return left.Round(time.Second).String()
}

func endpointState(now time.Time, e EndpointRow) string {
	switch {
	case e.State != Ejected || e.EjectedUntil.IsZero():
		return dash(string(e.State))
	case !e.EjectedUntil.After(now):
		return "ejected, on probation"
	}
	return "ejected for " + age(e.EjectedUntil, now)
}

// PrintPods writes one line per pod.
func PrintPods(w io.Writer, rows []PodRow) error {
	now := time.Now()
	return table(w, func(p printer) {
		p("POD\tSTATE\tADDRESSES\tNAMESERVERS\tCOOKIE\tIN KERNEL\tSINCE\tREASON\n")
		for _, r := range rows {
			var servers []string
			for _, n := range r.Nameservers {
				servers = append(servers, fmt.Sprintf("%s>%d", n.Address, n.Port))
			}
			reason := r.Reason
			if r.Dropped > 0 {
				reason = strings.TrimPrefix(fmt.Sprintf("%s; it asks too much: %d queries dropped", reason, r.Dropped), "; ")
			}
			p("%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", r.Pod, r.State, dash(strings.Join(r.Addresses, ",")),
				dash(strings.Join(servers, ",")), r.Cookie, kernelText(r.Kernel), age(now, r.Since), reason)
		}
	})
}

// kernelText is how many of a pod's queries the kernel answered, of how many it saw.
func kernelText(k *KernelRow) string {
	if k == nil {
		return "-"
	}
	answered := k.Declared + k.Learned
	return fmt.Sprintf("%d/%d", answered, answered+k.Unknown+k.Unusual+k.Watched)
}

// PrintExplain writes the steps of an explanation, numbered.
func PrintExplain(w io.Writer, steps []string) error {
	return table(w, func(p printer) {
		for i, s := range steps {
			p("%d. %s\n", i+1, s)
		}
	})
}

type printer func(format string, args ...any)

// table aligns what f prints at its tabs and returns the first error of w. Lines lose the blanks a last
// empty column leaves.
func table(w io.Writer, f func(printer)) error {
	var buf bytes.Buffer
	tw := tabwriter.NewWriter(&buf, 0, 0, 2, ' ', 0)
	f(func(format string, args ...any) { _, _ = fmt.Fprintf(tw, format, args...) })
	_ = tw.Flush()
	for line := range strings.Lines(buf.String()) {
		if _, err := io.WriteString(w, strings.TrimRight(line, " \n")+"\n"); err != nil {
			return err
		}
	}
	return nil
}

func readiness(s Status) string {
	if s.NotReady != "" {
		return "NOT READY: " + s.NotReady
	}
	if n := len(s.Problems); n > 0 {
		return fmt.Sprintf("ready, %s below", count(n, "problem"))
	}
	return "ready"
}

func kernelLine(s Status) string {
	if s.Kernel.Detached != "" {
		return fmt.Sprintf("%s, NOT ATTACHED: %s", s.Kernel.Release, s.Kernel.Detached)
	}
	return fmt.Sprintf("%s, attached, heartbeat %s ago", s.Kernel.Release, age(s.Now, s.Kernel.Heartbeat))
}

func missing(features []Feature) string {
	var lacks []string
	for _, f := range features {
		if !f.Present {
			lacks = append(lacks, strings.TrimSuffix(f.Name+": "+f.Note, ": "))
		}
	}
	return strings.Join(lacks, "; ")
}

func podLine(c PodCount) string {
	line := fmt.Sprintf("%d captured", c.Captured)
	for _, other := range []struct {
		n    int
		what string
	}{{c.Balanced, "balanced only"}, {c.Shared, "shared"}, {c.Opening, "opening"}, {c.Failed, "FAILED"}} {
		if other.n > 0 {
			line += fmt.Sprintf(", %d %s", other.n, other.what)
		}
	}
	return line
}

func sourceLine(now time.Time, s Source) string {
	line := fmt.Sprintf("%s: ", s.Name)
	switch {
	case s.Pending:
		line += "has not spoken yet"
	case s.Spoke.IsZero():
		line += "not heard since the start; what it said before is used"
	default:
		line += "spoke " + age(now, s.Spoke) + " ago"
	}
	line += fmt.Sprintf("; %s, %s", count(s.Hosts, "host"), count(s.Clusters, "cluster"))
	if s.Problems > 0 {
		line += ", " + count(s.Problems, "PROBLEM")
	}
	return line
}

func streamLine(now time.Time, s Stream) string {
	line := s.Namespace + ": "
	if s.Cluster != "" {
		line = s.Namespace + " of cluster " + s.Cluster + ": "
	}
	if s.Connected.IsZero() {
		line += "not connected"
	} else {
		line += fmt.Sprintf("%s for %s", s.Protocol, age(now, s.Connected))
	}
	for _, kind := range slices.Sorted(maps.Keys(s.Versions)) {
		line += fmt.Sprintf(", %s %s", kind, dash(s.Versions[kind]))
	}
	if s.Error != "" {
		line += "; " + s.Error
	}
	return line
}

func upstreamLine(u UpstreamServer) string {
	state := "up"
	if u.Down {
		state = "DOWN"
	}
	line := fmt.Sprintf("%s: %s; %d queries, %d failed", u.Address, state, u.Queries, u.Failures)
	if u.Error != "" {
		line += "; last: " + u.Error
	}
	return line
}

func lookupState(now time.Time, l LookupRow) string {
	switch {
	case l.Error != "" && l.Asked.IsZero():
		return fmt.Sprintf("never answered, next in %s: %s", age(l.Next, now), l.Error)
	case l.Error != "":
		return fmt.Sprintf("answered %s ago, next in %s, now: %s", age(now, l.Asked), age(l.Next, now), l.Error)
	case l.Asked.IsZero():
		return "not answered yet"
	case l.Negative:
		return fmt.Sprintf("without addresses as of %s ago, next in %s", age(now, l.Asked), age(l.Next, now))
	}
	return fmt.Sprintf("answered %s ago, next in %s", age(now, l.Asked), age(l.Next, now))
}

// counters writes what is not zero, by name.
func counters(m map[string]uint64) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if m[name] > 0 {
			out = append(out, fmt.Sprintf("%s %d", name, m[name]))
		}
	}
	return strings.Join(out, ", ")
}

func hitRate(hits, misses uint64) string {
	if hits+misses == 0 {
		return "not asked yet"
	}
	return fmt.Sprintf("%.0f%% of %d found", 100*float64(hits)/float64(hits+misses), hits+misses)
}

// age is how long before now t was, in a precision a human reads at once.
func age(now, t time.Time) string {
	if t.IsZero() || now.IsZero() {
		return "-"
	}
	d := max(now.Sub(t), 0)
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < 10*time.Minute:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// count writes a number of things; the word's plural ends in s, in the word's own case.
func count(n int, word string) string {
	switch {
	case n == 1:
		return "1 " + word
	case word == strings.ToUpper(word):
		return fmt.Sprintf("%d %sS", n, word)
	}
	return fmt.Sprintf("%d %ss", n, word)
}

func heading(i int, word string) string {
	if i == 0 {
		return word
	}
	return ""
}

func dash(s string) string { return cmp.Or(s, "-") }
