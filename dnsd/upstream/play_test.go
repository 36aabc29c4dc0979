package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// play is a game of a Line against everything that may happen to it, in an order that its player chooses. Its
// sockets are real and so is what waits for them, while time is not; what goes on without the Line goes
// through pipes.
type play struct {
	*pipes
	t       testing.TB
	c       *Client
	line    *Line
	epoll   int
	server  int // a socket
	servers Servers
	open    map[int]bool // guarded by the Line's mu, but at the end
	refused bool         // no socket can be made
	queries []arrived
	waiters []*player
	later   sync.WaitGroup
}

// arrived is a query that the server has got.
type arrived struct {
	packet []byte
	from   unix.Sockaddr
}

// player waits for one question.
type player struct {
	p             *play
	q             *dns.Msg
	large         bool // no answer fits
	answers, ends int
	rcode         int // of the answer; -1 if there is none
	err           error
}

func (w *player) Answer(reply []byte, _ netip.AddrPort) bool {
	w.answers++
	if w.large {
		return false
	}
	w.ends++
	w.rcode = parse(reply).Rcode
	return true
}

func (w *player) Later(ask func(context.Context, Servers, *dns.Msg) (*dns.Msg, error)) {
	w.ends++
	w.p.later.Go(func() {
		var m *dns.Msg
		if m, w.err = ask(context.Background(), Servers{}, w.q); w.err == nil {
			w.rcode = m.Rcode
		}
	})
}

func (p *play) OpenUDP(family int, fds []int) (int, error) {
	if p.refused {
		return 0, errors.New("no more sockets")
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	p.open[fd] = true
	fds[0] = fd
	return 1, nil
}

func (p *play) CloseUDP(fd int) {
	if !p.open[fd] {
		p.t.Errorf("closes %d, which is not open", fd)
	}
	delete(p.open, fd)
	_ = unix.Close(fd)
}

func newPlay(t testing.TB) *play {
	p := &play{t: t, c: New(Options{}), open: map[int]bool{}}
	p.pipes = &pipes{handle: func(_, _ string, q *dns.Msg) *dns.Msg {
		switch q.Question[0].Name {
		case "n0.example.com.":
			return nil
		case "n1.example.com.":
			return soaDenial(q, dns.RcodeNameError)
		}
		return there(q)
	}}
	var err error
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if p.server, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(p.server, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(p.server)
	if err != nil {
		t.Fatal(err)
	}
	p.servers = Servers{Dial: p, Addrs: []netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(at.(*unix.SockaddrInet4).Port))}}
	p.line = p.c.NewLine(p.epoll, 1)
	return p
}

// there is an answer to q, of A or AAAA.
func there(q *dns.Msg) *dns.Msg {
	data := map[uint16]string{dns.TypeA: "A 192.0.2.1", dns.TypeAAAA: "AAAA 2001:db8::1"}
	return compressed(reply(q, q.Question[0].Name+" 60 IN "+data[q.Question[0].Qtype]))
}

// ask asks one of four names for A or AAAA.
func (p *play) ask(n byte) {
	q := query(fmt.Sprintf("n%d.example.com.", n>>1&3), [...]uint16{dns.TypeA, dns.TypeAAAA}[n&1])
	w := &player{p: p, q: q, large: n&16 != 0, rcode: -1}
	asked := plainQuestion(q)
	asked.Guess = n&8 == 0
	if p.line.Ask(p.servers, asked, w) {
		p.waiters = append(p.waiters, w)
	} else if w.ends != 0 {
		p.t.Error("a question that is not asked has an end")
	}
}

// listen has the server read what came.
func (p *play) listen() {
	buf := make([]byte, maxMessage)
	for {
		size, from, err := unix.Recvfrom(p.server, buf, 0)
		if err != nil {
			return
		}
		p.queries = append(p.queries, arrived{slices.Clone(buf[:size]), from})
	}
}

// await waits until so many queries are there to be served.
func (p *play) await(n int) {
	p.t.Helper()
	for p.listen(); len(p.queries) < n; p.listen() {
		poll := []unix.PollFd{{Fd: int32(p.server), Events: unix.POLLIN}}
		if came, err := unix.Poll(poll, int(hang/time.Millisecond)); came == 0 || err != nil && err != unix.EINTR {
			p.t.Fatalf("%d queries have come, want %d: %v", len(p.queries), n, err)
		}
	}
}

// says is what a server may say.
var says = [...]func(*dns.Msg) *dns.Msg{
	there,
	func(q *dns.Msg) *dns.Msg { return soaDenial(q, dns.RcodeNameError) },
	func(q *dns.Msg) *dns.Msg { return soaDenial(q, dns.RcodeSuccess) },
	serverFail,
}

// serve has the server reply to one query, and more than once if it does not play fair.
func (p *play) serve(i int, answer func(*dns.Msg) *dns.Msg, fair bool) {
	if p.listen(); len(p.queries) == 0 {
		return
	}
	i %= len(p.queries)
	a := p.queries[i]
	p.queries = slices.Delete(p.queries, i, i+1)
	m := pack(answer(parse(a.packet)))
	if !fair {
		_ = unix.Sendto(p.server, append([]byte{m[0] ^ 1}, m[1:]...), 0, a.from)
		_ = unix.Sendto(p.server, m, 0, a.from)
	}
	_ = unix.Sendto(p.server, m, 0, a.from)
}

// ready has the Line read what is there.
func (p *play) ready() { p.read(0) }

// hear has the Line read what is on its way. That takes no time in the game.
func (p *play) hear() {
	p.t.Helper()
	if p.read(hang) == 0 {
		p.t.Fatal("nothing comes")
	}
}

func (p *play) read(wait time.Duration) int {
	events := make([]unix.EpollEvent, 16)
	n, err := unix.EpollWait(p.epoll, events, int(wait/time.Millisecond))
	for err == unix.EINTR {
		n, err = unix.EpollWait(p.epoll, events, int(wait/time.Millisecond))
	}
	for _, e := range events[:max(n, 0)] {
		p.line.Ready(e.Fd, e.Events)
	}
	return n
}

// move is one of what may happen.
func (p *play) move(op byte) {
	n := op >> 3
	switch op & 7 {
	case 0, 1:
		p.ask(n)
	case 2:
		p.serve(int(n>>2), says[n&3], false)
	case 3:
		p.serve(int(n>>2), says[n&3], true)
		p.ready()
	case 4:
		p.ready()
	case 5:
		time.Sleep([]time.Duration{time.Millisecond, patience / 2, patience, firstTry / 2, firstTry}[n%5])
		p.line.Tick(time.Now())
	case 6:
		p.line.Leave(func(w Waiter) bool { return slices.Index(p.waiters, w.(*player))%4 == int(n%4) })
	case 7:
		p.refused = n%2 == 0
		if n%8 == 7 {
			p.line.mu.Lock()
			for fd := range p.open {
				_ = unix.Shutdown(fd, unix.SHUT_RDWR)
			}
			p.line.mu.Unlock()
		}
	}
}

// rest waits until nothing happens any more, and sees that everybody has had an end, and nothing is left.
func (p *play) rest() {
	for range 5 {
		time.Sleep(firstTry)
		p.ready()
		p.line.Tick(time.Now())
	}
	p.later.Wait()
	synctest.Wait()
	for _, w := range p.waiters {
		if w.ends != 1 || w.answers > 1 {
			p.t.Errorf("%s %s: %d ends, %d answers", w.q.Question[0].Name, dns.TypeToString[w.q.Question[0].Qtype], w.ends, w.answers)
		}
	}
	l := p.line
	l.mu.Lock()
	for _, port := range l.ports.all {
		if port.call != nil || !slices.Contains(l.ports.idle[port.kind], port) {
			p.t.Errorf("port %d is not given back", port.number)
		}
	}
	if l.sent != (calls{}) || l.held != (calls{}) {
		p.t.Errorf("sent %v, held %v", l.sent, l.held)
	}
	l.mu.Unlock()
	if n := len(p.c.cache.flights); n != 0 {
		p.t.Errorf("%d flights", n)
	}
	for _, s := range p.c.Stats().Servers {
		if s.RTT.Total() > s.Queries {
			p.t.Errorf("%d answers to %d queries", s.RTT.Total(), s.Queries)
		}
	}
	p.end()
}

// end closes the Line.
func (p *play) end() {
	p.line.Close()
	if len(p.open) != 0 {
		p.t.Errorf("%d sockets are open", len(p.open))
	}
	_, _ = unix.Close(p.epoll), unix.Close(p.server)
}

func playAll(t *testing.T, ops []byte) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlay(t)
		for _, op := range ops {
			p.move(op)
		}
		p.rest()
	})
}

// Whatever happens to the questions of a Line, in whichever order: each has one end, and gives back its port.
func TestLineAtRandom(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		ops := make([]byte, 20+r.IntN(100))
		for i := range ops {
			ops[i] = byte(r.Uint32())
		}
		if playAll(t, ops); t.Failed() {
			t.Fatalf("with the moves %x", ops)
		}
	}
}

func FuzzLine(f *testing.F) {
	f.Add([]byte{0x00, 0x08, 0x15, 0x03, 0x04, 0x25})
	f.Fuzz(playAll)
}
