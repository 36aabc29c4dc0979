package resolve

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/upstream"
)

// world is a DNS as the tests want it to be, and what came out of the resolver.
type world struct {
	mu      sync.Mutex
	answers map[string]any // by "name TYPE": records, an rcode, an error, or a func() any
	asked   map[string][]time.Duration
	servers []upstream.Servers
	others  []netip.AddrPort // to ask, instead of nodeServers
	began   time.Time
	running int
	most    int
	emitted []mesh.Input
	then    func(mesh.Input) // told of each emission, too
}

func newWorld() *world {
	return &world{answers: make(map[string]any), asked: make(map[string][]time.Duration), began: time.Now()}
}

// set says what there is; records are in zone file form, joined by semicolons.
func (w *world) set(question string, answer any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[question] = answer
}

// count is how often a question was asked so far.
func (w *world) count(question string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.asked[question])
}

// times are when it was, from the start.
func (w *world) times(question string) []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.asked[question])
}

func (w *world) exchange(ctx context.Context, s upstream.Servers, q *dns.Msg) (*dns.Msg, error) {
	question := q.Question[0].Name + " " + dns.TypeToString[q.Question[0].Qtype]
	w.mu.Lock()
	w.asked[question] = append(w.asked[question], time.Since(w.began))
	w.servers = append(w.servers, s)
	w.running++
	w.most = max(w.most, w.running)
	answer := w.answers[question]
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.running--
		w.mu.Unlock()
	}()
	if f, ok := answer.(func(context.Context) any); ok {
		answer = f(ctx)
	}
	m := new(dns.Msg).SetReply(q)
	switch answer := answer.(type) {
	case nil:
		m.Rcode = dns.RcodeNameError
	case error:
		return nil, answer
	case int:
		m.Rcode = answer
	case *dns.Msg:
		answer.CopyTo(m)
	case string:
		for s := range strings.SplitSeq(answer, ";") {
			if s = strings.TrimSpace(s); s == "" {
				continue
			}
			rr, err := dns.NewRR(s)
			if err != nil {
				panic(err)
			}
			m.Answer = append(m.Answer, rr)
		}
	}
	return m, nil
}

// silent answers nothing until the asker gives up.
func silent(ctx context.Context) any {
	select {
	case <-ctx.Done():
	case <-time.After(2400 * time.Millisecond):
	}
	return errors.New("no answer in time")
}

func (w *world) emit(in mesh.Input) {
	w.mu.Lock()
	w.emitted = append(w.emitted, in)
	then := w.then
	w.mu.Unlock()
	if then != nil {
		then(in)
	}
}

func (w *world) emissions() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.emitted)
}

// known is what the newest emission says of a lookup.
func (w *world) known(l mesh.Lookup) (res mesh.Resolution, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.emitted) == 0 {
		return res, false
	}
	for _, res := range w.emitted[len(w.emitted)-1].Resolutions {
		if res.Lookup == l {
			return res, true
		}
	}
	return res, false
}

// expect fails unless the newest emission has exactly these addresses for l.
func (w *world) expect(t *testing.T, l mesh.Lookup, negative bool, addresses ...string) {
	t.Helper()
	synctest.Wait()
	res, ok := w.known(l)
	if !ok {
		t.Fatalf("%s was not emitted", l.Name)
	}
	var got []string
	for _, a := range res.Addresses {
		got = append(got, a.String())
	}
	if !slices.Equal(got, addresses) || res.Negative != negative {
		t.Fatalf("%s is %v, negative %v (%s); want %v, %v", l.Name, got, res.Negative, res.Error, addresses, negative)
	}
}

var nodeServers = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}

func (w *world) setServers(addrs ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.others = nil
	for _, a := range addrs {
		w.others = append(w.others, netip.MustParseAddrPort(a))
	}
}

func (w *world) nameservers() []netip.AddrPort {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.others != nil {
		return w.others
	}
	return nodeServers
}

// run starts a resolver in a bubble, and sees to it that nothing is left of it.
func run(t *testing.T, w *world, f func(r *Resolver), initial ...mesh.Resolution) {
	t.Helper()
	r := New(Options{Exchange: w.exchange, Emit: w.emit, Initial: initial,
		Servers: w.nameservers})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.running != 0 {
			t.Errorf("%d queries outlive Run", w.running)
		}
	}()
	f(r)
}

// expectIdle fails unless r has nothing under way and this many lookups waiting.
func expectIdle(t *testing.T, r *Resolver, queued int) {
	t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.queue.well) + len(r.queue.failing); r.running != 0 || r.failing != 0 || n != queued || len(r.lookups) != queued {
		t.Errorf("%d running, %d of them failing, %d queued of %d; want %d", r.running, r.failing, n, len(r.lookups), queued)
	}
}

// a is what db.example answers: these addresses, in this order.
func a(addrs ...string) string { return records("db.example", 30, addrs...) }

// records is what name answers with addresses of one family.
func records(name string, ttl int, addrs ...string) string {
	var b strings.Builder
	for _, addr := range addrs {
		kind := "A"
		if strings.Contains(addr, ":") {
			kind = "AAAA"
		}
		fmt.Fprintf(&b, "%s. %d IN %s %s;", name, ttl, kind, addr)
	}
	return b.String()
}

func v4(name string) mesh.Lookup { return mesh.Lookup{Name: name, Family: mesh.V4Only} }

func watch(l mesh.Lookup, s ...mesh.Schedule) mesh.Watch {
	if len(s) == 0 {
		s = []mesh.Schedule{{}}
	}
	return mesh.Watch{Lookup: l, Schedules: s}
}

func addrs(list ...string) (all []netip.Addr) {
	for _, a := range list {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}
