package show

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/nodens-dns/nodens/dnsd/pods"
	"github.com/nodens-dns/nodens/dnsd/upstream"
)

// metrics reads the counters its daemon's parts keep, when Prometheus asks and not before.
type metrics struct{ n *Node }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("nodens_"+name, help, labels, nil)
}

var (
	queriesDesc     = desc("dns_queries_total", "DNS queries by what became of them.", "outcome")
	answersDesc     = desc("dns_answers_total", "DNS queries by the pod's namespace (256 at most beside those with pods here, then \"(others)\"), where the answer came from, and its rcode.", "namespace", "source", "rcode")
	waitedDesc      = desc("dns_forward_seconds", "Time until questions were answered, or given up, that had to be asked upstream.")
	unloggedDesc    = desc("dns_querylog_lost_total", "Queries of pods with a query log that came too fast to be written.")
	messagesDesc    = desc("dns_messages_total", "DNS messages received by transport.", "transport")
	truncatedDesc   = desc("dns_truncated_total", "Answers sent with TC, with the records that fit.")
	cacheDesc       = desc("upstream_cache_total", "Forwarded questions by what the cache did.", "result")
	cacheBytesDesc  = desc("upstream_cache_bytes", "Memory of cached answers, in bytes.")
	loopsDesc       = desc("upstream_loops_total", "Questions of our own that came back to us.")
	serverDesc      = desc("upstream_queries_total", "Queries sent to a nameserver.", "server")
	serverFailDesc  = desc("upstream_failures_total", "Queries to a nameserver without a usable answer in time.", "server")
	serverRTTDesc   = desc("upstream_rtt_seconds", "Time a nameserver took to answer, by address; of those unused for 10 minutes 128 stay.", "server")
	serverDownDesc  = desc("upstream_down", "1 while a nameserver is asked last because it does not answer.", "server")
	podsDesc        = desc("pods", "Pods of this node by state.", "state")
	namesDesc       = desc("names", "Names answered here.")
	frontendsDesc   = desc("frontends", "Frontends in the plan.")
	problemsDesc    = desc("problems", "Objects that cannot be used.", "source")
	conflictsDesc   = desc("conflicts", "Those of them that claim what another object has.", "source")
	sourceDesc      = desc("source_spoke_timestamp_seconds", "When a source last said something, Unix time; 0 for not yet.", "source")
	planDesc        = desc("plan_passes_total", "Times the plan was compiled and applied.")
	planSecondsDesc = desc("plan_seconds", "How long the last pass took.")
	planFailedDesc  = desc("plan_failed", "1 while the plan is not wholly applied.")
	kernelDesc      = desc("kernel_events_total", "What the programs in the kernel did, by reason.", "event")
	drainingDesc    = desc("connections_draining", "TCP connections whose endpoint has left, to be ended after the drain time.")
	heartbeatDesc   = desc("kernel_heartbeat_age_seconds", "Age of the heartbeat the kernel sees.")
)

// Describe sends nothing: the metrics are unchecked, since their labels come from what there is.
func (m metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m metrics) Collect(ch chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	m.dns(count, gauge, func(d *prometheus.Desc, h *upstream.Histogram, labels ...string) {
		ch <- prometheus.MustNewConstHistogram(d, h.Total(), h.Sum.Seconds(), h.Buckets(), labels...)
	})
	m.mesh(count, gauge)
	if counters, err := m.n.Datapath.Counters(); err == nil {
		for event, n := range counters {
			count(kernelDesc, float64(n), event)
		}
	}
	gauge(drainingDesc, float64(m.n.Draining()))
	gauge(heartbeatDesc, m.n.Datapath.Heartbeat().Seconds())
}

type send func(d *prometheus.Desc, v float64, labels ...string)

type sendAll func(d *prometheus.Desc, h *upstream.Histogram, labels ...string)

func (m metrics) dns(count, gauge send, histogram sendAll) {
	for outcome, n := range m.n.outcomes() {
		count(queriesDesc, float64(n), outcome)
	}
	s := m.n.Server.Stats()
	count(messagesDesc, float64(s.UDP), "udp")
	count(messagesDesc, float64(s.TCP), "tcp")
	count(truncatedDesc, float64(s.Truncated))
	count(unloggedDesc, float64(s.Unlogged))
	for _, n := range s.Answers {
		count(answersDesc, float64(n.Queries), n.Namespace, n.Source, n.Rcode)
	}
	for namespace, n := range m.n.Answers.Outcomes(m.n.Pods.List()) {
		count(answersDesc, float64(n.Declared+n.Learned), namespace, "kernel", "NOERROR")
		count(answersDesc, float64(n.Denied), namespace, "kernel", "NXDOMAIN")
	}
	histogram(waitedDesc, &s.Waited)

	u := m.n.Upstream.Stats()
	for result, n := range map[string]uint64{
		"hit": u.Hits, "stale": u.Stale, "miss": u.Misses, "merged": u.Merged, "failure": u.Remembered, "cut": u.Cut,
	} {
		count(cacheDesc, float64(n), result)
	}
	gauge(cacheBytesDesc, float64(u.Bytes))
	count(loopsDesc, float64(u.Loops))
	for _, server := range u.Servers {
		addr := server.Addr.String()
		count(serverDesc, float64(server.Queries), addr)
		count(serverFailDesc, float64(server.Failures), addr)
		histogram(serverRTTDesc, &server.RTT, addr)
		gauge(serverDownDesc, truth(server.Down), addr)
	}
}

func (m metrics) mesh(count, gauge send) {
	st := m.n.State()
	gauge(namesDesc, float64(len(st.Plan.Names)))
	gauge(frontendsDesc, float64(len(st.Plan.Frontends)))
	count(planDesc, float64(st.Passes))
	gauge(planSecondsDesc, st.Took.Seconds())
	gauge(planFailedDesc, truth(st.Err != nil))
	problems, conflicts := map[string]int{}, map[string]int{}
	for _, s := range m.n.Sources {
		problems[s.Name] = 0
		var spoke float64
		if t := st.Spoke[s.Name]; !t.IsZero() {
			spoke = float64(t.UnixNano()) / float64(time.Second)
		}
		gauge(sourceDesc, spoke, s.Name)
	}
	for _, p := range st.Plan.Problems {
		problems[p.Source]++
		if p.Conflict != "" {
			conflicts[p.Source]++
		}
	}
	for source, n := range problems {
		gauge(problemsDesc, float64(n), source)
		gauge(conflictsDesc, float64(conflicts[source]), source)
	}
	states := map[pods.State]int{pods.Captured: 0, pods.Balanced: 0, pods.Shared: 0, pods.Opening: 0, pods.Failed: 0}
	for _, p := range m.n.Pods.List() {
		states[p.State]++
	}
	for state, n := range states {
		gauge(podsDesc, float64(n), string(state))
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// outcomes counts DNS queries by what became of them.
func (n *Node) outcomes() map[string]uint64 {
	s := n.Server.Stats()
	return map[string]uint64{
		"answered": s.Answered, "nodata": s.NoData, "completed": s.Completed, "forwarded": s.Forwarded,
		"passed": s.Passed, "failed": s.Failed, "refused": s.Refused, "dropped": s.Dropped, "busy": s.Busy,
		"overflowed": s.Overflowed, "malformed": s.Malformed,
	}
}

func (n *Node) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(metrics{n}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "nodens_build_info", Help: "Always 1; the version is the label.",
		ConstLabels: prometheus.Labels{"version": n.Version},
	})
	build.Set(1)
	r.MustRegister(build)
	return r
}
