package app

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Flood is as many queries as the machine can send, without waiting for an answer.
type Flood struct {
	// Name is asked for with A. A "%" in it is another number in each query, so that no name comes twice.
	Name   string
	Server string
	For    time.Duration
	// Count is how many queries are sent at most; 0 means no limit.
	Count int
}

// Flooded is what came of it.
type Flooded struct {
	Sent int
	// Replies counts what came back by rcode.
	Replies map[string]int
	Took    time.Duration
}

// Flood sends, from two sockets at once, and counts what comes back.
func (a *App) Flood(f Flood, out *Flooded) error {
	server, err := serverOf(f.Server)
	if err != nil {
		return err
	}
	var sent atomic.Int64
	var mu sync.Mutex
	out.Replies = map[string]int{}
	var all sync.WaitGroup
	start := time.Now()
	errs := make([]error, 2)
	for i := range errs {
		conn, err := net.Dial("udp", server.String())
		if err != nil {
			return err
		}
		all.Go(func() { // reads until nothing comes any more
			defer func() { _ = conn.Close() }()
			for buf := make([]byte, 4096); ; {
				_ = conn.SetReadDeadline(start.Add(f.For + time.Second))
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				if n >= 12 {
					mu.Lock()
					out.Replies[dns.RcodeToString[int(buf[3]&0xf)]]++
					mu.Unlock()
				}
			}
		})
		all.Go(func() { errs[i] = pour(conn, f, start, &sent) })
	}
	all.Wait()
	out.Sent, out.Took = int(sent.Load()), f.For
	return errors.Join(errs...)
}

// pour sends until the time is over.
func pour(conn net.Conn, f Flood, start time.Time, sent *atomic.Int64) error {
	packet, err := new(dns.Msg).SetQuestion(dns.Fqdn(f.Name), dns.TypeA).Pack()
	if err != nil {
		return err
	}
	var numbered []int // the places of the digits
	for i, c := range packet {
		if c == '%' {
			numbered = append(numbered, i)
		}
	}
	for i := 0; i%64 > 0 || time.Since(start) < f.For; i++ {
		n := int(sent.Add(1))
		if f.Count > 0 && n > f.Count {
			sent.Add(-1)
			return nil
		}
		binary.BigEndian.PutUint16(packet, uint16(n))
		for _, at := range numbered {
			packet[at] = "0123456789abcdefghijklmnopqrstuv"[n%32]
			n /= 32
		}
		if _, err := conn.Write(packet); err != nil {
			return fmt.Errorf("flood %s: %w", f.Server, err)
		}
	}
	return nil
}
