package pods

import (
	"hash/fnv"
)

// asker numbers all that what the table answers a client depends on; 0 where its queries are not to be
// answered in the kernel, as of a pod whose queries are logged: the log is dnsd's. The node itself has many
// interfaces, and packets of others on them.
func (p *Pods) asker(w *wish) uint64 {
	if p.o.Answers == nil || w.logEvery > 0 || w.host || len(w.nameservers) == 0 {
		return 0
	}
	h := fnv.New64a()
	ipv6 := "4"
	if w.client.IPv6 {
		ipv6 = "6"
	}
	for _, part := range append([]string{ipv6, w.client.Namespace}, w.client.Search...) {
		_, _ = h.Write(append([]byte(part), 0)) // cannot fail
	}
	return h.Sum64() | 1
}

// accelerate has q's queries answered in the kernel, or not any more. That it cannot is no reason to leave
// the pod alone.
func (p *Pods) accelerate(q *pod, ifindex uint32, w *wish) error {
	switch {
	case p.o.Answers == nil:
		return nil
	case p.asker(w) == 0:
		return p.o.Answers.Detach(q.cookie)
	}
	err := q.dialer.ns.do(func() error { return p.o.Answers.Attach(q.cookie, ifindex, w.light) })
	if err != nil && w.light {
		return err // nobody else answers
	}
	if err != nil {
		p.log.Warn("pod's queries are not answered in the kernel, but by dnsd", "pod", q.name(), "error", err)
	}
	return nil
}
