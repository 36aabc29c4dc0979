package answers

import (
	"fmt"
	"strings"
	"sync"

	"github.com/nodens-dns/nodens/dnsd/pods"
	"github.com/nodens-dns/nodens/dnsd/serve"
	"github.com/nodens-dns/nodens/ebpf"
)

// counted is pods' Options.Answers: the kernel's, whose counters outlive this process and not their pods. What
// is told of them begins with this process, and does not go back when a pod goes.
type counted struct {
	*ebpf.Answers
	namespaceOf func(cookie uint64) string

	mu    sync.Mutex               // held from reading a counter until what it means is noted
	since map[uint64]ebpf.Outcomes // by cookie: what was counted before
	past  map[string]ebpf.Outcomes // by namespace: of pods that are gone
}

// maxPast is of how many namespaces the counters are kept when their last pod here is gone.
const maxPast = 256

// ForPods is pods' Options.Answers; nil where the kernel does not answer.
func (a *Answers) ForPods(namespaceOf func(cookie uint64) string) pods.Answers {
	if a.kernel == nil {
		return nil
	}
	a.counted = &counted{Answers: a.kernel, namespaceOf: namespaceOf,
		since: map[uint64]ebpf.Outcomes{}, past: map[string]ebpf.Outcomes{}}
	return a.counted
}

// Attach implements pods.Answers.
func (c *counted) Attach(cookie uint64, ifindex uint32, light bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.since[cookie]; !known {
		n, err := c.Outcomes(cookie)
		if err != nil {
			return err
		}
		c.since[cookie] = n
	}
	return c.Answers.Attach(cookie, ifindex, light)
}

// Detach implements pods.Answers.
func (c *counted) Detach(cookie uint64) error {
	namespace := c.namespaceOf(cookie)
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.Answers.Detach(cookie)
	if _, known := c.since[cookie]; err != nil || !known { // of a pod that an earlier dnsd knew
		return err
	}
	n = c.own(cookie, n)
	delete(c.since, cookie)
	if _, known := c.past[namespace]; !known && len(c.past) >= maxPast {
		namespace = serve.OtherNamespaces
	}
	c.past[namespace] = sum(c.past[namespace], n)
	return nil
}

// Outcomes counts what the kernel has answered, by the namespace of the pods, those of list and those that are
// gone; nil where it does not.
func (a *Answers) Outcomes(list []pods.Pod) map[string]ebpf.Outcomes {
	c := a.counted
	if c == nil {
		return nil
	}
	all := map[string]ebpf.Outcomes{}
	c.mu.Lock()
	defer c.mu.Unlock()
	for namespace, n := range c.past {
		all[namespace] = n
	}
	for _, p := range list {
		_, known := c.since[p.Cookie]
		if n, err := c.Outcomes(p.Cookie); err == nil && known {
			all[p.Namespace] = sum(all[p.Namespace], c.own(p.Cookie, n))
		}
	}
	return all
}

// own is how much of what was counted of a pod was since this process has known it: all of it, from when another
// dnsd, in a handover, has taken the pod's row away.
func (c *counted) own(cookie uint64, n ebpf.Outcomes) ebpf.Outcomes {
	since := c.since[cookie]
	if n.Declared < since.Declared || n.Learned < since.Learned || n.Denied < since.Denied ||
		n.Unknown < since.Unknown || n.Unusual < since.Unusual || n.Watched < since.Watched {
		since = ebpf.Outcomes{}
		c.since[cookie] = since
	}
	return less(n, since)
}

func sum(a, b ebpf.Outcomes) ebpf.Outcomes {
	return ebpf.Outcomes{
		Declared: a.Declared + b.Declared, Learned: a.Learned + b.Learned, Denied: a.Denied + b.Denied,
		Unknown: a.Unknown + b.Unknown, Unusual: a.Unusual + b.Unusual, Watched: a.Watched + b.Watched,
	}
}

// less is what was counted since b was.
func less(a, b ebpf.Outcomes) ebpf.Outcomes {
	return ebpf.Outcomes{
		Declared: a.Declared - b.Declared, Learned: a.Learned - b.Learned, Denied: a.Denied - b.Denied,
		Unknown: a.Unknown - b.Unknown, Unusual: a.Unusual - b.Unusual, Watched: a.Watched - b.Watched,
	}
}

// Of says what the kernel has answered a pod; false where it does not.
func (a *Answers) Of(p pods.Pod) (ebpf.Outcomes, bool) {
	if a.kernel == nil || p.Asker == 0 {
		return ebpf.Outcomes{}, false
	}
	n, err := a.kernel.Outcomes(p.Cookie)
	return n, err == nil
}

// Explain says whether the kernel would answer a pod's questions for name, and why not.
func (a *Answers) Explain(p pods.Pod, name string) string {
	switch {
	case a.off != nil:
		return "the kernel answers nothing by itself: " + oneLine(a.off)
	case a.kernel == nil:
		return "the kernel answers nothing by itself: kernelAnswers is not set"
	case p.Asker == 0:
		return "the kernel answers this pod nothing by itself: it has no nameserver that is captured, or its queries are logged"
	case p.Slow != "":
		return "the kernel answers this pod nothing by itself: " + p.Slow
	case a.kernel.Leaving():
		return "the kernel answers nothing by itself for now: somebody watches the queries"
	}
	const typeA, typeAAAA, typeHTTPS = 1, 28, 65 // RFC 1035, RFC 3596, RFC 9460
	host := strings.TrimSuffix(strings.ToLower(name), ".") + "."
	var said []string
	for _, q := range []struct {
		label string
		qtype uint16
	}{{"A", typeA}, {"AAAA", typeAAAA}, {"HTTPS", typeHTTPS}} {
		from, err := a.kernel.Knows(ebpf.Question{Host: host, Type: q.qtype, View: ebpf.ViewOf(p.Namespace), Asker: p.Asker})
		why := map[ebpf.Source]string{
			0:                "left to dnsd: not declared in a way that fits there, and not answered from this table since it was last asked for",
			ebpf.Declaration: "answered there, as declared",
			ebpf.Lesson:      "answered there, as dnsd did before",
		}[from]
		if err != nil {
			why = oneLine(err)
		}
		said = append(said, fmt.Sprintf("%s is %s", q.label, why))
	}
	return "in the kernel " + strings.Join(said, "; ")
}

// oneLine says what several errors joined say.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
