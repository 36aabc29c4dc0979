package pods

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"time"

	"github.com/vishvananda/netns"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/dnsd/serve"
	"github.com/nodens-dns/nodens/dnsd/upstream"
	"github.com/nodens-dns/nodens/ebpf"
)

// pod is one attachment and what is open for it. Only the goroutine in Run touches it.
type pod struct {
	attachment attach.Attachment
	state      State
	reason     string
	since      time.Time
	missed     bool           // the last sweep found no file of it
	vanished   int            // sweeps in a row that found a file of it, but no namespace
	opening    bool           // a goroutine is opening the namespace, also of a pod that failed before
	waiting    []chan<- error // who wants to know when it is settled

	client    names.Client
	asker     uint64
	light     bool   // it is to have no listeners
	slow      string // why it is not answered in the kernel, though it is to be
	cookie    uint64 // zero until the namespace has been entered
	dialer    *dialer
	listeners []*listener
	serving   sync.WaitGroup // what answers on the listeners
	leaving   *dialer        // the last that was closed: somebody may be in the namespace by it
}

// name is how logs and status call the pod.
func (q *pod) name() string {
	if q.attachment.PodName == "" {
		return q.attachment.Key().String()
	}
	return q.attachment.PodNamespace + "/" + q.attachment.PodName
}

func (q *pod) live() bool { return q.state == Captured || q.state == Balanced }

func (q *pod) show() Pod {
	a := q.attachment
	return Pod{
		Key: a.Key(), Namespace: a.PodNamespace, Name: a.PodName, Netns: a.Netns,
		Cookie: q.cookie, Addresses: a.Addresses, Nameservers: q.nameservers(), Asker: q.asker, Slow: q.slow, Client: q.client,
		State: q.state, Reason: q.reason, Since: q.since,
	}
}

func (q *pod) nameservers() []ebpf.Nameserver {
	var list []ebpf.Nameserver
	for _, l := range q.listeners {
		list = append(list, ebpf.Nameserver{Addr: l.nameserver, Port: l.port()})
	}
	return list
}

// close closes whatever of ours is in the pod's namespace, but for the TCP connections to listeners:
// those are closed when serving is done.
func (q *pod) close() {
	for _, l := range q.listeners {
		l.close()
	}
	q.listeners = nil
	if q.dialer != nil {
		q.dialer.close()
		q.leaving, q.dialer = q.dialer, nil
	}
}

// left returns what waits until nothing of ours is left in the namespace of q, which is closed. Any goroutine
// may call that.
func (q *pod) left() (wait func()) {
	last := q.leaving
	return func() {
		q.serving.Wait()
		if last != nil {
			<-last.gone
		}
	}
}

// settle says how an attempt ended, to whoever waits and, if that is news, to the log.
func (p *Pods) settle(q *pod, state State, reason string, err error) {
	if q.state != state || q.reason != reason {
		q.state, q.reason, q.since = state, reason, time.Now()
		if state == Failed {
			p.log.Warn("pod is left to its own nameservers; trying again", "pod", q.name(), "attachment", q.attachment.Key(), "error", reason)
		} else {
			p.log.Info("pod is "+string(state), "pod", q.name(), "attachment", q.attachment.Key(),
				"cookie", q.cookie, "nameservers", q.nameservers(), "reason", reason)
		}
	}
	p.publish()
	for _, done := range q.waiting {
		done <- err
	}
	q.waiting = nil
}

// fail closes what is open for q and settles that it failed. A row that is there stays: without
// listeners it leaves queries alone, and it still balances.
func (p *Pods) fail(q *pod, err error) {
	q.close()
	p.settle(q, Failed, err.Error(), err)
}

// adopt makes the pod of a captured unless it is already; done, if not nil, is told when that is
// settled. What stands for an earlier state of the attachment is taken down first.
func (p *Pods) adopt(a attach.Attachment, done chan<- error) {
	q := p.pods[a.Key()]
	if q != nil && p.sameHost(q.attachment, a) {
		q.attachment = a
	}
	if q != nil && !reflect.DeepEqual(q.attachment, a) {
		p.release(a.Key(), nil)
		q = nil
	}
	if q == nil {
		q = &pod{attachment: a, state: Opening, reason: "waiting for " + cmp.Or(a.Netns, "its network namespace") + " to open", since: time.Now()}
		p.pods[a.Key()] = q
		p.publish()
	}
	if q.live() {
		if done != nil {
			done <- nil
		}
		return
	}
	if done != nil {
		q.waiting = append(q.waiting, done)
	}
	if q.opening {
		return
	}
	q.opening = true
	go func() {
		handle, err := p.open(a)
		if !p.post(func() { p.opened(q, handle, err) }) && err == nil {
			_ = handle.Close()
		}
	}()
}

// opened goes on with what adopt began. It owns handle unless err is set.
func (p *Pods) opened(q *pod, handle netns.NsHandle, err error) {
	q.opening = false
	if err != nil {
		if p.pods[q.attachment.Key()] == q {
			p.fail(q, err)
		}
		return
	}
	q.dialer = newDialer(namespace{pod: handle, home: p.home})
	if p.pods[q.attachment.Key()] != q { // released meanwhile
		q.close()
		return
	}
	w := p.wish(q.attachment)
	q.client, q.asker, q.light = w.client, p.asker(&w), w.light
	switch err := p.enrol(q, w); {
	case errors.Is(err, errShared):
		q.close()
		p.settle(q, Shared, err.Error(), nil)
	case err != nil:
		p.fail(q, err)
	case len(q.listeners) == 0:
		p.settle(q, Balanced, w.why, nil)
	default:
		p.settle(q, Captured, cmp.Or(w.problem, atADD(q.attachment.Problem)), nil)
	}
}

// atADD is how a problem of the plugin's is shown once the pod is captured: as what was.
func atADD(problem string) string {
	if problem == "" {
		return ""
	}
	return "well now; at its ADD: " + problem
}

// errShared says that a namespace has its row for the sake of another attachment.
var errShared = errors.New("its network namespace is that of another attachment")

// enrol opens the listeners in q's namespace and tells the kernel, the row last: the kernel turns a
// query only when there is somebody to take it. After an error the caller must close q.
func (p *Pods) enrol(q *pod, w wish) error {
	a, ns := q.attachment, q.dialer.ns
	f, err := ns.look(cmp.Or(a.Interface, a.IfName))
	if err != nil {
		return err
	}
	switch {
	case f.cookie == p.own && !isHost(a):
		return errors.New("its network namespace is the node's own, which is never enrolled: give the pod one of its own, or leave the plugin out of its network")
	case a.NetnsCookie != 0 && f.cookie != a.NetnsCookie:
		// An inode number is used again, a cookie never.
		return fmt.Errorf("%w: another one is at %s", errGone, a.Netns)
	}
	if other := p.holder(f.cookie, q); other != nil {
		return fmt.Errorf("%w, %s", errShared, other.attachment.Key())
	}
	q.cookie = f.cookie
	old := p.rows[q.cookie].Nameservers
	inherited := p.claim(q)
	defer func() { closeAll(*inherited) }()
	err = ns.do(func() error {
		if w.light {
			return nil
		}
		for _, n := range w.nameservers {
			l := inherited.listener(n, w.listenOn(n))
			if l == nil {
				var err error
				if l, err = listen(n, w.listenOn(n), portOf(n, old), w.avoid); err != nil {
					return err
				}
			}
			q.listeners = append(q.listeners, l)
			w.avoid[l.port()] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	told := q.nameservers()
	if w.light {
		for _, n := range w.nameservers {
			told = append(told, ebpf.Nameserver{Addr: n})
		}
	}
	err = p.enter(q, ebpf.Pod{
		Ifindex: f.ifindex, Addr4: w.addr4, Addr6: w.addr6, View: ebpf.ViewOf(a.PodNamespace),
		DNS: len(told) > 0, LB: true, Asker: q.asker, Nameservers: told,
	}, w)
	if err != nil {
		return err
	}
	return p.accelerate(q, f.ifindex)
}

// enter puts q's listeners and row into the kernel and starts to answer.
func (p *Pods) enter(q *pod, row ebpf.Pod, w wish) error {
	if old, ok := p.rows[q.cookie]; ok && !sameStart(old.Nameservers, row.Nameservers) {
		// Listeners are found by their place in the row; in an old row of another order they would
		// answer for each other. Without a row queries go where they were sent.
		if err := p.deleteRow(q.cookie); err != nil {
			return err
		}
	}
	for i, l := range q.listeners {
		udp := func(fd uintptr) error { return p.o.Kernel.PutListener(q.cookie, i, ebpf.UDP, fd) }
		tcp := func(fd uintptr) error { return p.o.Kernel.PutListener(q.cookie, i, ebpf.TCP, fd) }
		if err := errors.Join(l.udp.Control(udp), l.tcp.Control(tcp)); err != nil {
			return fmt.Errorf("hand the listeners for %s to the kernel: %w", l.nameserver, err)
		}
	}
	for i, l := range q.listeners {
		l.client = &serve.Client{
			Client:     w.client,
			Pod:        q.name(),
			Nameserver: netip.AddrPortFrom(l.nameserver, dnsPort),
			Upstream:   p.upstream(q, i),
			LogEvery:   w.logEvery,
			Asker:      q.asker,
		}
		p.serve(q, l)
	}
	if err := p.o.Kernel.PutPod(q.cookie, row); err != nil {
		return fmt.Errorf("write its row into the kernel: %w", err)
	}
	p.rows[q.cookie] = row
	return nil
}

// upstream is whom to ask for what was sent to q's nameserver i: that one, and if it fails the pod's
// others in their order.
func (p *Pods) upstream(q *pod, i int) upstream.Servers {
	s := upstream.Servers{Dial: q.dialer, Scope: scope(q.attachment)}
	s.Addrs = append(s.Addrs, netip.AddrPortFrom(q.listeners[i].nameserver, dnsPort))
	for j, other := range q.listeners {
		if j != i {
			s.Addrs = append(s.Addrs, netip.AddrPortFrom(other.nameserver, dnsPort))
		}
	}
	return s
}

// serve answers on l until it is closed. A listener that fails is closed, which gives its queries back
// to the nameserver, and the next sweep adopts the pod anew.
func (p *Pods) serve(q *pod, l *listener) {
	q.serving.Add(2)
	ended := func(err error) {
		if err != nil {
			l.close()
			p.post(func() { p.failed(q, fmt.Errorf("serve %s: %w", l.nameserver, err)) })
		}
		q.serving.Done()
	}
	p.o.Serve.ServeUDP(l.udp, l.client, ended)
	p.o.Serve.ServeTCP(l.tcp, l.client, ended)
}

// failed is fail for a pod that worked until now, and may have been released meanwhile.
func (p *Pods) failed(q *pod, err error) {
	if p.pods[q.attachment.Key()] == q && q.live() {
		p.fail(q, err)
	}
}

// release forgets the pod of this key; that it is unknown is fine. done, if not nil, is told when
// nothing of ours is left in the pod's namespace.
func (p *Pods) release(key attach.Key, done chan<- error) {
	if q := p.pods[key]; q != nil {
		p.forget(q)
		p.leaving[key] = q
	}
	q := p.leaving[key] // also of a pod that the folder spoke of before the bell
	if q == nil {
		if done != nil {
			done <- nil
		}
		return
	}
	left := q.left()
	p.releasing.Go(func() {
		left()
		if done != nil {
			done <- nil
		}
		p.post(func() {
			if p.leaving[key] == q {
				delete(p.leaving, key)
			}
		})
	})
}

// forget closes what is open for q, then deletes its row: in between, the kernel finds no listener.
func (p *Pods) forget(q *pod) {
	key := q.attachment.Key()
	delete(p.pods, key)
	q.close()
	p.deleteRowOf(q)
	for _, waiting := range q.waiting {
		waiting <- fmt.Errorf("%s was removed meanwhile", key)
	}
	q.waiting = nil
	p.log.Info("pod is released", "pod", q.name(), "attachment", key)
	p.publish()
}

// holder returns the other pod for which the namespace of this cookie has its row, or nil.
func (p *Pods) holder(cookie uint64, q *pod) *pod {
	for _, other := range p.pods {
		if other != q && other.live() && other.cookie == cookie {
			return other
		}
	}
	return nil
}

// deleteRowOf deletes q's row, unless it stands for another attachment of the same namespace.
func (p *Pods) deleteRowOf(q *pod) {
	if q.cookie == 0 || p.holder(q.cookie, q) != nil {
		return
	}
	if err := p.deleteRow(q.cookie); err != nil {
		p.log.Error("a row is left behind; the next sweep tries again", "pod", q.name(), "error", err)
	}
}

func (p *Pods) deleteRow(cookie uint64) error {
	if p.o.Answers != nil {
		if err := p.o.Answers.Detach(cookie); err != nil {
			return err
		}
	}
	if err := p.o.Kernel.DeletePod(cookie); err != nil {
		return fmt.Errorf("delete the row of netns cookie %d: %w", cookie, err)
	}
	delete(p.rows, cookie)
	return nil
}
