package serve

import (
	"net/netip"
	"testing"

	"github.com/nodens-dns/nodens/conformance/sandbox"
	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/ebpf"
)

// kernelHalf is a pod's network namespace and what answers there in front of a server.
type kernelHalf struct {
	datapath *ebpf.Datapath
	answers  *ebpf.Answers
	ns       *sandbox.NS
	cookie   uint64
	askers   uint64 // so far
	tally    tally
}

// The addresses of the pod, its nameservers, and the ports of their listeners.
var (
	podAddr    = map[bool]netip.Addr{true: netip.MustParseAddr("10.244.0.7"), false: netip.MustParseAddr("fd44::7")}
	toldServer = map[bool]netip.Addr{true: netip.MustParseAddr("10.96.0.10"), false: netip.MustParseAddr("fd96::10")}
	ownPort    = map[bool]uint16{true: 64600, false: 64601}
)

func newKernelHalf(t testing.TB) *kernelHalf {
	sandbox.Root(t)
	o := ebpf.Options{CgroupPath: sandbox.Cgroup(t), PinPath: sandbox.Pins(t)}
	k := &kernelHalf{ns: sandbox.Netns(t)}
	var err error
	if k.cookie, err = k.ns.Cookie(); err != nil {
		t.Fatal(err)
	}
	if k.datapath, err = ebpf.Ensure(o); err != nil {
		t.Fatal(err)
	}
	record, pointers := Authority()
	if k.answers, err = k.datapath.Answers(ebpf.Authority{Record: record, Pointers: pointers}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, err := range []error{k.answers.Close(), k.datapath.Close(), ebpf.Remove(o)} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	if err := k.ns.Do(func() error { return k.answers.Attach(k.cookie, 1, true) }); err != nil {
		t.Fatal(err)
	}
	return k
}

// enrol makes the namespace c's.
func (k *kernelHalf) enrol(t testing.TB, c *Client) {
	t.Helper()
	p := ebpf.Pod{Ifindex: 1, Addr4: podAddr[true], DNS: true, View: ebpf.ViewOf(c.Namespace), Asker: c.Asker,
		Nameservers: []ebpf.Nameserver{{Addr: toldServer[true], Port: ownPort[true]}}}
	if c.IPv6 {
		p.Addr6 = podAddr[false]
		p.Nameservers = append(p.Nameservers, ebpf.Nameserver{Addr: toldServer[false], Port: ownPort[false]})
	}
	if err := k.datapath.PutPod(k.cookie, p); err != nil {
		t.Fatal(err)
	}
}

// store makes a table what is answered, here and by s.
func (k *kernelHalf) store(t testing.TB, s *Server, table *names.Table) {
	t.Helper()
	k.datapath.Beat()
	k.answers.Forget(table.Generation())
	_, err := k.answers.Apply(func(yield func(ebpf.Declared) bool) {
		if table == nil {
			return
		}
		for d := range table.Declared() {
			if !yield(ebpf.Declared{Host: d.Name, View: ebpf.ViewOf(d.View), A: d.A, AAAA: d.AAAA, TTL: d.TTL, Zone: d.Zone,
				Virtual: d.Virtual, Elsewhere: d.Other}) {
				return
			}
		}
	}, false)
	if err != nil {
		t.Fatal(err)
	}
	s.Store(table)
}

// learn is Options.Learn.
func (k *kernelHalf) learn(l Learned) {
	if k.tally.taught != nil && len(l.Name) < 128 && len(l.Records) <= 320 && l.Count <= 8 {
		k.tally.taught[taught{l.Name, l.Qtype}] = true
	}
	_ = k.answers.Learn(ebpf.Question{Host: l.Name, Type: l.Qtype, View: ebpf.ViewOf(l.Namespace), Asker: l.Asker}, l.Generation, ebpf.Reply{
		Records: l.Records, Answers: l.Answers, Authorities: l.Authorities, Rcode: l.Rcode,
		Fixed: l.Fixed, Step: l.Step, Count: l.Count,
	})
}
