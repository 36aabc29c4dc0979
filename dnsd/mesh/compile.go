package mesh

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Compile says what follows from inputs, which come in order of precedence, the strongest first.
// Equal inputs give equal plans, whatever order their objects are in; vips is the only memory.
//
// Hosts: of all sources that declare a host, the strongest is believed about everything but one
// thing: if it announces no address and asks for a virtual one, an address announced by a weaker
// source is adopted. Several objects of one source are united; where two of them say different things
// about one port the first by name counts. What a namespace sees is compiled for it whole.
//
// Connections: every address and port of a host goes to the port's cluster, or to what a listener of
// the same source says, a namespace's own before everybody's. Left alone, as if we did not know them, are headless addresses, ORIGINAL_DST
// and clusters that want TLS. Refused is what would otherwise put a packet for a virtual address on
// the wire: a cluster that is not there (yet), that has no endpoint or that waits for its first
// lookup, and a port nobody declared, unless the host's own address is among the cluster's lookups.
//
// Nothing in the inputs stops the rest of them from working: what cannot be used becomes a Problem.
func Compile(inputs []Input, vips *VIPs) *Plan {
	c := newCompiler(inputs, vips)
	rows := c.rows()
	c.giveAddresses(rows)
	rows = c.distinguish(rows)
	c.frontends = make(map[frontendKey]binding, 4*len(rows))
	for _, s := range c.sources {
		for _, r := range rows {
			if r.source == s {
				c.bindRow(r)
			}
		}
		c.bindListeners(s)
	}
	c.bindGuards()
	plan := &Plan{Partial: c.partial}
	plan.Frontends, plan.Assignments, plan.Watch = c.connections()
	plan.Names = c.names(rows)
	plan.Problems = c.sortedProblems(inputs)
	return plan
}

// Without returns the plan less the names and frontends of some hosts: of those it cannot be kept for
// yet. The plan itself stays as it is.
func (p *Plan) Without(hosts map[string]bool) *Plan {
	if len(hosts) == 0 {
		return p
	}
	less := *p
	less.Names = slices.DeleteFunc(slices.Clone(p.Names), func(n Name) bool { return hosts[n.Host] })
	less.Frontends = slices.DeleteFunc(slices.Clone(p.Frontends), func(f Frontend) bool { return hosts[f.Host] })
	return &less
}

// virtualRanges are never routed: 240.0.0.0/4 is reserved (RFC 1112), 2001:2::/48 is for benchmarks
// (RFC 5180). Istio's virtual addresses are from them, and so are ours by default.
var virtualRanges = [...]netip.Prefix{
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("2001:2::/48"),
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// compiler holds what one Compile has gathered so far.
type compiler struct {
	vips      *VIPs
	partial   bool
	sources   []*source
	resolved  map[Lookup]*Resolution
	announced map[netip.Addr]bool // by any source, for any host or listener

	assigned  map[string]*assigned // by name
	frontends map[frontendKey]binding
	guarded   map[netip.Addr]*row // see guard
	problems  []Problem
}

// source is an Input with its clusters and listeners found by what they are asked for.
type source struct {
	rank      int // place in the order of precedence, 0 the strongest
	name      string
	hosts     []Host
	clusters  map[string]*Cluster
	listeners map[frontendKey]*Listener
	binds     []frontendKey     // of listeners, sorted
	private   map[bind][]string // where namespaces have listeners of their own, and which do
}

// bind is what a connection asks for.
type bind struct {
	addr     netip.Addr
	port     uint16
	protocol Protocol
}

func (b bind) String() string {
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(b.addr, b.port), b.protocol)
}

// frontendKey is a bind as one view sees it.
type frontendKey struct {
	bind
	view string
}

func (k frontendKey) String() string {
	if k.view == "" {
		return k.bind.String()
	}
	return k.bind.String() + " for " + k.view
}

func compareKeys(a, b frontendKey) int {
	return cmp.Or(
		a.addr.Compare(b.addr), cmp.Compare(a.port, b.port), cmp.Compare(a.protocol, b.protocol),
		cmp.Compare(a.view, b.view),
	)
}

func newCompiler(inputs []Input, vips *VIPs) *compiler {
	c := &compiler{
		vips:      vips,
		resolved:  make(map[Lookup]*Resolution),
		announced: make(map[netip.Addr]bool),
		assigned:  make(map[string]*assigned),
		guarded:   make(map[netip.Addr]*row),
		problems:  slices.Clone(vips.problems),
	}
	for i := range inputs {
		in := &inputs[i]
		c.partial = c.partial || in.Pending
		for j := range in.Resolutions {
			r := &in.Resolutions[j]
			if c.resolved[r.Lookup] == nil {
				c.resolved[r.Lookup] = r
			}
		}
		s := &source{rank: i, name: in.Source, hosts: in.Hosts}
		c.indexClusters(s, in.Clusters)
		c.indexListeners(s, in.Listeners)
		c.sources = append(c.sources, s)
	}
	return c
}

// virtual says whether a packet to addr could only get lost.
func (c *compiler) virtual(addr netip.Addr) bool {
	for _, p := range virtualRanges {
		if p.Contains(addr) {
			return true
		}
	}
	return c.vips.contains(addr)
}

func (c *compiler) report(s *source, object, format string, args ...any) {
	c.problems = append(c.problems, Problem{Source: s.name, Object: object, Reason: fmt.Sprintf(format, args...)})
}

// sortedProblems returns the problems of all sources and our own, each once.
func (c *compiler) sortedProblems(inputs []Input) []Problem {
	for i := range inputs {
		c.problems = append(c.problems, inputs[i].Problems...)
	}
	slices.SortFunc(c.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Reason, b.Reason))
	})
	return slices.Compact(c.problems)
}

// names turns rows into what DNS answers. A host with nothing to answer has no name of ours and goes
// upstream; a headless Kubernetes service without endpoints is ours, and empty.
func (c *compiler) names(rows []*row) []Name {
	names := make([]Name, 0, len(rows))
	for _, r := range rows {
		if len(r.addrs) == 0 && len(r.records) == 0 && r.externalName == "" && (!r.kubernetes || !r.headless) {
			continue
		}
		n := c.name(r)
		if r.all != nil {
			all := c.name(r.all)
			if slices.Equal(n.Addr4, all.Addr4) && slices.Equal(n.Addr6, all.Addr6) && n.Virtual == all.Virtual {
				continue // only its connections differ
			}
		}
		names = append(names, n)
	}
	return names
}

func (c *compiler) name(r *row) Name {
	n := Name{
		Host: r.host, View: r.view,
		Source: r.source.name, Object: r.object,
		Namespace: r.namespace, Kubernetes: r.kubernetes, Virtual: r.balanced,
		CNAME: r.externalName, Ports: r.ports, Records: r.records,
	}
	for _, addr := range r.addrs {
		switch {
		case c.virtual(addr) && r.deaf(addr):
		case addr.Is4():
			n.Addr4 = append(n.Addr4, addr)
		default:
			n.Addr6 = append(n.Addr6, addr)
		}
	}
	return n
}
