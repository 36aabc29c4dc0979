package pods

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/ebpf"
)

// State is how far a pod has come.
type State string

// The states of a pod.
const (
	// Captured: its nameservers have listeners and the kernel turns its queries to them.
	Captured State = "captured"
	// Balanced: it has a row without listeners; Reason says why.
	Balanced State = "balanced"
	// Shared: another attachment stands for the same network namespace.
	Shared State = "shared"
	// Opening: its namespace is being opened.
	Opening State = "opening"
	// Failed: it has no listeners, and is tried again by the next sweep; Reason says why.
	Failed State = "failed"
)

// Pod is one attachment as List shows it.
type Pod struct {
	Key             attach.Key
	Namespace, Name string // empty where no Kubernetes is
	Netns           string
	// Cookie is the kernel's number for the network namespace; zero while unknown.
	Cookie    uint64
	Addresses []netip.Prefix
	// Nameservers are those captured, each with the port of its listeners.
	Nameservers []ebpf.Nameserver
	// Asker is as whom the kernel answers it, 0 where it does not.
	Asker uint64
	// Slow is why it does not although it is to.
	Slow string
	// Client is as whom it asks.
	Client names.Client
	State  State
	Reason string
	Since  time.Time
}

// Problem is something that keeps a pod from being captured as it should be.
type Problem struct{ Object, Reason string }

// view is what other goroutines see. It is never edited.
type view struct {
	pods        []Pod
	problems    []Problem
	nameservers []netip.AddrPort
	namespaces  []string
}

// List returns the pods of this node, sorted by name. The caller must not edit what the slices hold.
func (p *Pods) List() []Pod { return slices.Clone(p.view.Load().pods) }

// Problems returns the attachment files that cannot be read and the pods that failed.
func (p *Pods) Problems() []Problem { return slices.Clone(p.view.Load().problems) }

// Nameservers returns the distinct nameservers of the pods here that are captured or to be, those of
// most pods first. So it knows them from the first reading of the files, before any namespace is open.
func (p *Pods) Nameservers() []netip.AddrPort { return slices.Clone(p.view.Load().nameservers) }

// Namespaces returns the distinct namespaces of the pods here, sorted. It knows them from the first reading
// of the files too; a pod of which Kubernetes knows nothing has the namespace "".
func (p *Pods) Namespaces() []string { return slices.Clone(p.view.Load().namespaces) }

// Settled says that each pod that was there at the start is captured, or is known not to be, or cannot be
// opened for some seconds already. It stays so.
func (p *Pods) Settled() bool { return p.settled.Load() }

// publish shows the pods as they are now to List and the others.
func (p *Pods) publish() {
	v := &view{problems: slices.Clone(p.broken)}
	settled := p.swept
	used := map[netip.AddrPort]int{}
	namespaces := map[string]bool{}
	for _, q := range p.pods {
		shown := q.show()
		v.pods = append(v.pods, shown)
		namespaces[shown.Namespace] = true
		if q.state == Failed {
			v.problems = append(v.problems, Problem{Object: q.name(), Reason: q.reason})
		}
		settled = settled && (q.state != Opening || time.Since(q.since) > sweepEvery)
		for _, addr := range p.wish(q.attachment).nameservers {
			used[netip.AddrPortFrom(addr, dnsPort)]++
		}
	}
	slices.SortFunc(v.pods, func(a, b Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Key.String(), b.Key.String()))
	})
	slices.SortFunc(v.problems, func(a, b Problem) int { return cmp.Compare(a.Object, b.Object) })
	v.nameservers = slices.SortedFunc(maps.Keys(used), func(a, b netip.AddrPort) int {
		return cmp.Or(cmp.Compare(used[b], used[a]), a.Compare(b))
	})
	v.namespaces = slices.Sorted(maps.Keys(namespaces))
	if settled && !p.settled.Swap(true) {
		p.estate.closeAll() // what nobody has claimed
		if p.o.Settled != nil {
			p.o.Settled()
		}
	}
	if old := p.view.Swap(v); !slices.Equal(old.nameservers, v.nameservers) || !slices.Equal(old.namespaces, v.namespaces) {
		p.o.Changed()
	}
}
