package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// lineLoop drives a Line, as serve's loops do.
type lineLoop struct {
	*Line
	epoll, wake int
	do          chan func()
	ended       chan struct{}
}

func newLineLoop(t testing.TB, c *Client) *lineLoop {
	t.Helper()
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		t.Fatal(err)
	}
	l := &lineLoop{Line: c.NewLine(epoll, 1), epoll: epoll, wake: wake, do: make(chan func(), 1000), ended: make(chan struct{})}
	go l.run()
	t.Cleanup(func() {
		l.post(nil)
		<-l.ended
		_, _ = unix.Close(epoll), unix.Close(wake)
	})
	return l
}

func (l *lineLoop) post(f func()) {
	l.do <- f
	_, _ = unix.Write(l.wake, binary.NativeEndian.AppendUint64(nil, 1))
}

func (l *lineLoop) run() {
	defer close(l.ended)
	defer l.Close()
	ready := make([]unix.EpollEvent, 16)
	var count [8]byte
	for {
		wait := -1
		if next, ok := l.Tick(time.Now()); ok {
			wait = int(next/time.Millisecond) + 1
		}
		n, _ := unix.EpollWait(l.epoll, ready, wait)
		for _, e := range ready[:max(n, 0)] {
			if e.Pad == 1 {
				l.Ready(e.Fd, e.Events)
				continue
			}
			_, _ = unix.Read(l.wake, count[:])
			for len(l.do) > 0 {
				f := <-l.do
				if f == nil {
					return
				}
				f()
			}
		}
	}
}

// waiting is a Waiter that notes what it is told.
type waiting struct {
	reply  chan []byte
	later  chan func(context.Context, Servers, *dns.Msg) (*dns.Msg, error)
	refuse bool
}

func newWaiting() *waiting {
	return &waiting{reply: make(chan []byte, 1), later: make(chan func(context.Context, Servers, *dns.Msg) (*dns.Msg, error), 1)}
}

func (w *waiting) Answer(reply []byte, _ netip.AddrPort) bool {
	if !w.refuse {
		w.reply <- append([]byte(nil), reply...)
	}
	return !w.refuse
}

func (w *waiting) Later(ask func(context.Context, Servers, *dns.Msg) (*dns.Msg, error)) {
	w.later <- ask
}

// ask has the Line ask; nil means that it does not.
func (l *lineLoop) ask(s Servers, q Query) *waiting {
	w, asked := newWaiting(), make(chan bool)
	l.post(func() { asked <- l.Ask(s, q, w) })
	if !<-asked {
		return nil
	}
	return w
}

// end is what becomes of a question, and whether the Line answered it by itself.
func (w *waiting) end(t testing.TB, q *dns.Msg) (m *dns.Msg, plain bool, err error) {
	t.Helper()
	if w == nil {
		t.Fatal("the line does not ask")
	}
	select {
	case b := <-w.reply:
		return parse(b), true, nil
	case ask := <-w.later:
		m, err = ask(t.Context(), Servers{}, q)
		return m, false, err
	case <-time.After(hang):
		t.Fatal("no end")
	}
	return nil, false, nil
}

func plainQuestion(q *dns.Msg) Query {
	return Query{Name: q.Question[0].Name, Qtype: q.Question[0].Qtype, RD: q.RecursionDesired}
}

// What comes of a question is the same on a Line as without it, whatever the server does.
func TestLine(t *testing.T) {
	denial := func(q *dns.Msg) *dns.Msg {
		m := rcode(q, dns.RcodeNameError)
		m.Ns = []dns.RR{rr("example.com. 60 IN SOA ns.example.com. h.example.com. 1 2 3 4 20")}
		return m
	}
	for _, tc := range []struct {
		name  string
		plain bool
		h     handler
	}{
		{"address", true, func(_ string, q *dns.Msg) *dns.Msg { return compressed(reply(q, a1)) }},
		{"alias", true, func(_ string, q *dns.Msg) *dns.Msg {
			return compressed(reply(q, "www.example.com. 60 IN CNAME web.example.net.", "web.example.net. 30 IN A 192.0.2.1"))
		}},
		{"denied", true, func(_ string, q *dns.Msg) *dns.Msg { return compressed(denial(q)) }},
		{"no data", true, func(_ string, q *dns.Msg) *dns.Msg {
			m := denial(q)
			m.Rcode = dns.RcodeSuccess
			return compressed(m)
		}},
		{"not compressed", false, func(_ string, q *dns.Msg) *dns.Msg { return reply(q, a1) }},
		{"failure", false, func(_ string, q *dns.Msg) *dns.Msg { return serverFail(q) }},
		{"no EDNS", false, func(_ string, q *dns.Msg) *dns.Msg {
			if q.IsEdns0() != nil {
				return rcode(q, dns.RcodeFormatError)
			}
			return reply(q, a1)
		}},
		{"cut short", false, func(network string, q *dns.Msg) *dns.Msg {
			m := reply(q, a1)
			m.Truncated = network == "udp"
			return m
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, q := serve(t, tc.h), query("www.example.com.", dns.TypeA)
			want, wantErr := New(Options{}).Exchange(t.Context(), to(s.addr), q)
			c := New(Options{})
			m, plain, err := newLineLoop(t, c).ask(to(s.addr), plainQuestion(q)).end(t, q)
			if (err == nil) != (wantErr == nil) || plain != tc.plain {
				t.Fatalf("plain %v, error %v; want %v, %v", plain, err, tc.plain, wantErr)
			}
			again, err := c.Exchange(t.Context(), to(s.addr), q)
			for _, m := range []*dns.Msg{m, must(t, again, err)} {
				if m.Rcode != want.Rcode || fmt.Sprint(addresses(m)) != fmt.Sprint(addresses(want)) || len(m.Ns) != len(want.Ns) {
					t.Errorf("got\n%v\nwant\n%v", m, want)
				}
			}
			if n := c.Stats(); n.Misses != 1 || n.Servers[0].Queries == 0 {
				t.Errorf("%+v", n)
			}
		})
	}
}

func compressed(m *dns.Msg) *dns.Msg {
	m.Compress = true
	return m
}

// A silent server is asked again, and the next one too, as without a Line; whoever answers late is heard.
func TestLineFailsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlay(t)
		p.ask(6) // which is there, for who is asked next
		p.ask(0) // which is not
		time.Sleep(firstTry)
		p.line.Tick(time.Now())
		synctest.Wait()
		if p.asked.Load() != 2 {
			t.Errorf("%d tries after the first", p.asked.Load())
		}
		time.Sleep(nextTry / 2)
		p.await(2)
		p.serve(1, there, true)
		p.hear()
		p.rest()
		for _, w := range p.waiters {
			if w.rcode != dns.RcodeSuccess || w.answers != 0 {
				t.Errorf("%s: rcode %d, %d answers by the first", w.q.Question[0].Name, w.rcode, w.answers)
			}
		}
	})
}

// Who floods wrong IDs or questions gets nothing in, and each question has its own port.
func TestLineIsNotFooled(t *testing.T) {
	var mu sync.Mutex
	ports, ids := map[string]bool{}, map[uint16]bool{}
	addr := raw(t, func(send func([]byte), from net.Addr, packet []byte) {
		mu.Lock()
		defer mu.Unlock()
		ports[from.String()], ids[binary.BigEndian.Uint16(packet)] = true, true
		q := parse(packet)
		for _, change := range []func(*dns.Msg){
			func(m *dns.Msg) { m.Id++ },
			func(m *dns.Msg) { m.Question[0].Name = "x." + m.Question[0].Name },
			func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
			func(m *dns.Msg) { m.Response = false },
		} {
			m := compressed(reply(q, q.Question[0].Name+" 60 IN A 203.0.113.66"))
			change(m)
			send(pack(m))
		}
		send(pack(compressed(reply(q, q.Question[0].Name+" 60 IN A 192.0.2.1"))))
	})
	c := New(Options{})
	l := newLineLoop(t, c)
	const n = 50
	for i := range n {
		q := query(fmt.Sprintf("w%d.example.com.", i), dns.TypeA)
		m, _, err := l.ask(to(addr), plainQuestion(q)).end(t, q)
		expectA(t, must(t, m, err), "192.0.2.1")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ports) < n*9/10 || len(ids) < n*9/10 || c.Stats().Servers[0].Mismatched != 4*n {
		t.Errorf("%d questions used %d ports and %d IDs; %d mismatched", n, len(ports), len(ids), c.Stats().Servers[0].Mismatched)
	}
}

// Nobody waits for a Line that is gone, and a pod's sockets go when it wants them gone.
func TestLineLeaves(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, func(_ string, q *dns.Msg) *dns.Msg {
		<-release
		return compressed(reply(q, a1))
	})
	l := newLineLoop(t, New(Options{}))
	q := query("www.example.com.", dns.TypeA)
	w := l.ask(to(s.addr), plainQuestion(q))
	l.Leave(func(other Waiter) bool { return other == Waiter(w) })
	close(release)
	m, plain, err := w.end(t, q)
	if expectA(t, must(t, m, err), "192.0.2.1"); plain {
		t.Error("the line answered who had left")
	}
}

// A pod that goes takes the sockets of a Line with it, those that wait and those that idle, which is no
// server's fault.
func TestLineLosesItsSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlay(t)
		p.ask(4)
		p.ask(6)
		p.await(2)
		p.serve(0, there, true)
		p.hear()
		if len(p.open) != 2 {
			t.Errorf("%d sockets", len(p.open))
		}
		for fd := range p.open {
			_ = unix.Shutdown(fd, unix.SHUT_RDWR)
		}
		p.ready()
		p.later.Wait()
		if len(p.open) != 0 {
			t.Errorf("%d sockets are still open", len(p.open))
		}
		if err := p.waiters[1].err; !errors.Is(err, errUnsent) {
			t.Errorf("error %v", err)
		}
		for _, s := range p.c.health.servers {
			if s.silent != 0 {
				t.Error("blames the server")
			}
		}
		p.rest()
	})
}
