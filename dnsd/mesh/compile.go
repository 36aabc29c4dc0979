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
// the same source says, a namespace's own before everybody's. Left alone, as if we did not know them,
// are headless addresses, ORIGINAL_DST and clusters that want TLS. Refused is what would otherwise put
// a packet for a virtual address on the wire: a cluster that is not there (yet), that has no endpoint
// or that waits for its first lookup, and a port nobody declared, unless the host's own address is
// among the cluster's lookups.
//
// Nothing in the inputs stops the rest of them from working: what cannot be used becomes a Problem.
func Compile(inputs []Input, vips *VIPs) *Plan {
	names := make([]string, len(inputs))
	for i := range inputs {
		names[i] = inputs[i].Source
	}
	c := NewCompiler(vips, names)
	for i := range inputs {
		c.Take(inputs[i])
	}
	return c.Compile()
}

// Compiler makes the plan of what its sources said last, again and again. It remembers the plan before,
// and what that followed from: the work is in proportion to what is news, and what follows from nothing
// new is not only equal in both plans but the same memory. In all else its plans are those of Compile.
//
// What is compiled together is a part: hosts that have an address in common, and the listeners there.
// What a part depends on beside that, it notes: the clusters it has asked for, and the lookups behind
// them. One that depends on news is taken apart and compiled anew.
//
// A Compiler belongs to one goroutine, as its VIPs do.
type Compiler struct {
	// Yield, if set, is called every now and then while much is compiled, to let others have their turn.
	Yield func()

	vips    *VIPs
	sources []*source // in order of precedence
	partial bool

	units    map[string]*unit       // by host
	uneasy   map[*unit]bool         // those that must be looked at every time
	at       map[netip.Addr]*part   // whose an address is
	parts    []*part                // all
	assigned map[string]*assigned   // in use, by name
	wanters  map[Lookup][]*assigned // of those, which a lookup is for
	plan     *Plan                  // the last one
}

// yieldEvery is after how many parts: a fraction of a millisecond.
const yieldEvery = 50

// NewCompiler returns a Compiler for sources that have not spoken yet, the strongest first.
func NewCompiler(vips *VIPs, sources []string) *Compiler {
	c := &Compiler{
		vips:     vips,
		units:    make(map[string]*unit),
		uneasy:   make(map[*unit]bool),
		at:       make(map[netip.Addr]*part),
		assigned: make(map[string]*assigned),
		wanters:  make(map[Lookup][]*assigned),
	}
	for i, name := range sources {
		c.sources = append(c.sources, newSource(i, name))
	}
	return c
}

// Take makes in what its source says from now on. What it repeats of before is forgotten, in favour of
// what it was said with then. An input of a source that NewCompiler was not told of is left out.
func (c *Compiler) Take(in Input) {
	for _, s := range c.sources {
		if s.name == in.Source {
			s.take(&in, c.vips)
			return
		}
	}
}

// Compile returns the plan of all that has been taken. It gives and frees pairs of VIPs.
func (c *Compiler) Compile() *Plan {
	r := c.begin()
	if !r.any && len(r.queue) == 0 && c.plan != nil {
		return c.plan
	}
	r.giveAddresses()
	r.gather()
	for i, p := range r.come {
		r.compile(p)
		if r.Yield != nil && i%yieldEvery == yieldEvery-1 {
			r.Yield()
		}
	}
	c.plan = r.finish()
	return c.plan
}

// Without returns the plan less the names and frontends of some hosts: of those it cannot be kept for
// yet. The plan itself stays as it is.
func (p *Plan) Without(hosts map[string]bool) *Plan {
	if len(hosts) == 0 {
		return p
	}
	less := *p
	less.Names = slices.DeleteFunc(slices.Clone(p.Names), func(n *Name) bool { return hosts[n.Host] })
	less.Frontends = slices.DeleteFunc(slices.Clone(p.Frontends), func(f *Frontend) bool { return hosts[f.Host] })
	return &less
}

// virtualRanges are never routed: 240.0.0.0/4 is reserved (RFC 1112), 2001:2::/48 is for benchmarks
// (RFC 5180). Istio's virtual addresses are from them, and so are ours by default.
var virtualRanges = [...]netip.Prefix{
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("2001:2::/48"),
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// virtual says whether a packet to addr could only get lost.
func (c *Compiler) virtual(addr netip.Addr) bool {
	for _, p := range virtualRanges {
		if p.Contains(addr) {
			return true
		}
	}
	return c.vips.contains(addr)
}

// resolution returns the newest outcome of a lookup, or nil.
func (c *Compiler) resolution(l Lookup) *Resolution {
	for _, s := range c.sources {
		if res := s.resolutions.one(l); res != nil {
			return res
		}
	}
	return nil
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

// reports collects problems.
type reports struct{ all []Problem }

// conflict reports that what an object says of a host gives way to another's word.
func (r *reports) conflict(s *source, object, host, format string, args ...any) {
	r.report(s, object, format, args...)
	r.all[len(r.all)-1].Conflict = host
}

func (r *reports) report(s *source, object, format string, args ...any) {
	reason := format
	if len(args) > 0 {
		reason = fmt.Sprintf(format, args...)
	}
	r.all = append(r.all, Problem{Source: s.name, Object: object, Reason: reason})
}
