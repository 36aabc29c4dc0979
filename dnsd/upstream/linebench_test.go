package upstream

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// yes answers query with one address, as cheaply as can be.
func yes(query []byte) []byte {
	m := query[:len(query)-optBytes]
	qtype := binary.BigEndian.Uint16(m[len(m)-4:])
	size := 4
	if qtype == dns.TypeAAAA {
		size = 16
	}
	m[2], m[3], m[7], m[11] = m[2]|0x80, 0x80, 1, 0
	m = binary.BigEndian.AppendUint16(append(m, 0xc0, headerBytes), qtype)
	m = binary.BigEndian.AppendUint16(append(m, 0, dns.ClassINET, 0, 1, 0, 0), uint16(size))
	return append(m, make([]byte, size)...)
}

// thrifty is a Waiter that does not care.
type thrifty struct{ answers int }

func (w *thrifty) Answer([]byte, netip.AddrPort) bool {
	w.answers++
	return true
}

func (*thrifty) Later(func(context.Context, Servers, *dns.Msg) (*dns.Msg, error)) {}

// What a question costs that nobody has asked before, the server's part included: alone, and as one of the
// two of a look-up.
func BenchmarkLine(b *testing.B) {
	for name, types := range map[string][]uint16{"alone": {dns.TypeA}, "lookup": {dns.TypeA, dns.TypeAAAA}} {
		b.Run(name, func(b *testing.B) {
			p := newPlay(b)
			defer p.end()
			buf, events, w, n := make([]byte, maxMessage), make([]unix.EpollEvent, 16), &thrifty{}, 0
			b.ReportAllocs()
			for b.Loop() {
				n++
				q := Query{Name: fmt.Sprintf("w%d.example.com.", n), RD: true}
				for _, q.Qtype = range types {
					p.line.Ask(p.servers, q, w)
				}
				for range types {
					size, from, err := unix.Recvfrom(p.server, buf, 0)
					if err != nil {
						b.Fatal(err)
					}
					_ = unix.Sendto(p.server, yes(buf[:size]), 0, from)
				}
				ready, _ := unix.EpollWait(p.epoll, events, 0)
				for _, e := range events[:ready] {
					p.line.Ready(e.Fd, e.Events)
				}
				p.line.Tick(time.Now())
			}
			if w.answers != n*len(types) {
				b.Errorf("%d answers to %d questions", w.answers, n*len(types))
			}
		})
	}
}

// What a question costs a loop that was asked before.
func BenchmarkRemembered(b *testing.B) {
	p := newPlay(b)
	defer p.end()
	p.ask(4)
	p.serve(0, there, true)
	p.ready()
	q := plainQuestion(p.waiters[0].q)
	buf := make([]byte, 1232)
	b.ReportAllocs()
	for b.Loop() {
		if p.c.Cached(p.servers, q, buf, len(buf)) == nil {
			b.Fatal("not remembered")
		}
	}
}
