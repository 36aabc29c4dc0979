package pods

import "fmt"

// asker numbers all that what the table answers a client depends on, but its namespace; 0 where its queries
// are not to be answered in the kernel, as of a pod whose queries are logged: the log is dnsd's. The node
// itself has many interfaces, and packets of others on them.
func (p *Pods) asker(w *wish) uint64 {
	if p.o.Answers == nil || w.logEvery > 0 || w.host || len(w.nameservers) == 0 {
		return 0
	}
	ipv6 := "4"
	if w.client.IPv6 {
		ipv6 = "6"
	}
	return p.o.Answers.Asker(append([]string{ipv6, w.client.Namespace}, w.client.Search...)...)
}

// accelerate has q's queries answered in the kernel, or not any more. That it cannot is no reason to leave
// the pod alone, unless nobody else would answer it.
func (p *Pods) accelerate(q *pod, ifindex uint32) error {
	switch {
	case p.o.Answers == nil:
		return nil
	case q.asker == 0:
		return p.o.Answers.Detach(q.cookie)
	}
	err := q.dialer.ns.do(func() error { return p.o.Answers.Attach(q.cookie, ifindex, q.light) })
	if err != nil && q.light {
		return err
	}
	switch slow := q.slow; {
	case err != nil:
		if q.slow = err.Error(); q.slow != slow {
			p.log.Warn("pod's queries are answered by dnsd, not in the kernel; trying again", "pod", q.name(), "error", err)
		}
	case slow != "":
		q.slow = ""
		p.log.Info("pod's queries are answered in the kernel", "pod", q.name())
	}
	return nil
}

// accelerateAgain does so once more where it failed, or where somebody has undone it.
func (p *Pods) accelerateAgain(q *pod) error {
	if q.asker == 0 || q.dialer == nil {
		return nil
	}
	ifindex := p.rows[q.cookie].Ifindex
	if q.slow == "" && p.o.Answers.Check(q.cookie, ifindex, q.light) == nil {
		return nil
	}
	if err := p.accelerate(q, ifindex); err != nil {
		return fmt.Errorf("its queries are not answered in the kernel any more: %w", err)
	}
	return nil
}
