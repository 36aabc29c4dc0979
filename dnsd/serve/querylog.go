package serve

import (
	"bytes"
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// tapSize is how many queries a Tap holds for its reader. At 100,000 a second of them, that is time enough
// for a line to be written and not for a terminal that has stopped.
const tapSize = 4096

// Entry is one query and what became of it.
type Entry struct {
	// Time is when the query was read, Took how long it took from there until there was a reply.
	Time time.Time
	Took time.Duration
	// Pod is the pod's namespace/name, Client the address and port it asked from.
	Pod    string
	Client netip.AddrPort
	// Network is "udp" or "tcp", Nameserver the one the pod asked.
	Network    string
	Nameserver netip.AddrPort
	// Name and Type are the question's, the name in presentation form; Type is empty where there is none.
	Name, Type string
	// Rcode is the reply's mnemonic, or "none" for no reply.
	Rcode string
	// Source is where the answer came from, in the words of AnswerCount. Object is what the name was
	// declared by, if it was; Server the nameserver that answered, if one was asked for this.
	Source, Object string
	Server         netip.AddrPort
}

// Tap shows queries as they are answered. It costs the answers nothing but the time to write an Entry:
// what its reader does not take in time is lost, and counted.
type Tap struct {
	pod     string // empty means all
	every   int
	entries chan *Entry
	lost    atomic.Uint64
}

// Entries are the queries, for one reader, who must not change them: others may have the same. It is never
// closed.
func (t *Tap) Entries() <-chan *Entry { return t.entries }

// Lost is how many queries there was no room for.
func (t *Tap) Lost() uint64 { return t.lost.Load() }

func newTap(pod string, every int) *Tap {
	return &Tap{pod: pod, every: max(every, 1), entries: make(chan *Entry, tapSize)}
}

// Tap opens a view of the queries of a pod (namespace/name), or with "" of all pods that are here or come
// later: of one in every so many of them, taken by chance. The caller must Untap it.
func (s *Server) Tap(pod string, every int) *Tap {
	t := newTap(pod, every)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taps = append(s.taps, t)
	s.retap()
	return t
}

// Untap ends t.
func (s *Server) Untap(t *Tap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taps = slices.DeleteFunc(s.taps, func(other *Tap) bool { return other == t })
	s.retap()
}

// Log is the Tap of those clients that want to be logged always.
func (s *Server) Log() *Tap { return s.log }

// watch is a Tap as one pod has it.
type watch struct {
	tap   *Tap
	every int
}

// retap tells all gates which taps there are. The caller holds s.mu.
func (s *Server) retap() {
	for pod, g := range s.gates {
		g.watch(s, pod)
	}
}

// watch tells g which taps there are for it. The caller holds s.mu.
func (g *gate) watch(s *Server, pod string) {
	var all []watch
	if g.logEvery > 0 {
		all = append(all, watch{s.log, g.logEvery})
	}
	for _, t := range s.taps {
		if t.pod == "" || t.pod == pod {
			all = append(all, watch{t, t.every})
		}
	}
	if all == nil {
		g.watches.Store(nil)
		return
	}
	g.watches.Store(&all)
}

// watched reports whether anybody might want to see the pod's next query.
func (k *socket) watched() bool { return k.gate.watches.Load() != nil }

// arrival is a query as it came, for those who watch.
type arrival struct {
	at     time.Time
	from   netip.AddrPort
	packet []byte
}

// arrived notes when packet came, if anybody watches. The packet is only lent; keep makes it last.
func (k *socket) arrived(packet []byte, from netip.AddrPort) arrival {
	if !k.watched() {
		return arrival{}
	}
	return arrival{time.Now(), from, packet}
}

// keep is a for the time after its packet has been overwritten.
func (a arrival) keep() arrival {
	a.packet = bytes.Clone(a.packet)
	return a
}

// done counts a query whose reply is about to be sent, and shows it to those who watch.
func (k *socket) done(v *verdict, a *arrival) {
	k.gate.counts.verdict(v)
	if watches := k.gate.watches.Load(); watches != nil && !a.at.IsZero() {
		k.show(*watches, v, a)
	}
}

func (k *socket) show(watches []watch, v *verdict, a *arrival) {
	var e *Entry
	for _, w := range watches {
		// By chance, since many clients ask by turns for A and AAAA: every second would be all of one type.
		if w.every > 1 && rand.IntN(w.every) > 0 {
			continue
		}
		if e == nil {
			e = k.entry(v, a)
		}
		select {
		case w.tap.entries <- e:
		default:
			w.tap.lost.Add(1)
		}
	}
}

func (k *socket) entry(v *verdict, a *arrival) *Entry {
	e := &Entry{
		Time: a.at, Took: time.Since(a.at), Pod: k.client.Pod, Client: a.from, Network: k.network,
		Nameserver: k.client.Nameserver, Source: k.server.sourceName(v.source), Server: v.server, Rcode: rcodeName(noReply),
	}
	if v.rcode >= 0 {
		e.Rcode = cmp.Or(dns.RcodeToString[v.rcode], "RCODE"+strconv.Itoa(v.rcode))
	}
	if v.row != nil {
		e.Object = v.row.Object
	}
	if len(a.packet) < headerSize {
		return e
	}
	if name, end, err := dns.UnpackDomainName(a.packet, headerSize); err == nil && end+2 <= len(a.packet) {
		// A blank in a name must not look like the end of it.
		e.Name = strings.ReplaceAll(name, `\ `, `\032`)
		e.Type = dns.Type(uint16(a.packet[end])<<8 | uint16(a.packet[end+1])).String()
	}
	return e
}
