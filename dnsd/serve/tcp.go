package serve

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// ServeTCP answers c's queries on the connections of ln until ln is closed, which is no error; any
// other end is. Then it closes the connections too, since each of them keeps a network namespace in
// being, and returns when nothing of it runs any more. The caller owns ln.
//
// Queries of one connection are answered as the answers are ready, not in turn (RFC 7766 section
// 6.2.1.1); there is no bound on how many a connection may carry.
func (s *Server) ServeTCP(ln net.Listener, c *Client) error {
	ctx, cancel := context.WithCancel(context.Background())
	k := s.enter(c, "tcp")
	slots := make(chan struct{}, maxConnections)
	var open sync.WaitGroup
	defer func() {
		cancel()
		open.Wait()
		s.leave(k)
	}()
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept DNS connections of pod %s to %s: %w", c.Pod, c.Nameserver, err)
		}
		select {
		case slots <- struct{}{}:
		default:
			k.gate.counts.dropped.Add(1)
			_ = conn.Close()
			continue
		}
		open.Go(func() {
			defer func() { <-slots }()
			k.serveConn(ctx, conn)
		})
	}
}

// serveConn answers the queries of conn until the client has no more, says nothing for too long, or ctx
// ends; then it sees those still being asked through and closes conn.
func (k *socket) serveConn(ctx context.Context, conn net.Conn) {
	k.server.connections.Add(1)
	defer k.server.connections.Add(-1)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	var asking sync.WaitGroup
	defer func() {
		asking.Wait()
		stop()
		_ = conn.Close()
	}()
	w := &writer{conn: conn}
	r := bufio.NewReader(conn)
	from := remote(conn)
	out := make([]byte, replySize)
	for {
		packet, err := readMessage(conn, r)
		if err != nil {
			return
		}
		k.gate.counts.tcp.Add(1)
		query := k.arrived(packet, from) // which is nobody else's from here on
		reply, v, later := k.begin(packet, out)
		if later == nil {
			if reply != nil {
				err = w.write(reply)
			}
			k.done(&v, &query)
			if reply == nil || err != nil {
				return // what does not start with a header is not framed as DNS either
			}
			continue
		}
		select {
		case k.gate.slots <- struct{}{}: // a full gate is felt by the client as a slow reader
		case <-ctx.Done():
			return
		}
		asking.Go(func() {
			defer func() { <-k.gate.slots }()
			reply, v := k.wait(ctx, later)
			if reply != nil {
				_ = w.write(reply) // a broken connection is noticed by the reader
			}
			k.done(&v, &query)
		})
	}
}

// remote is the address of conn's other end, if it is one.
func remote(conn net.Conn) netip.AddrPort {
	if addr, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return addr.AddrPort()
	}
	return netip.AddrPort{}
}

// readMessage reads the next message, of up to 64 KiB, giving all of it the idle time to arrive.
func readMessage(conn net.Conn, r *bufio.Reader) ([]byte, error) {
	if err := conn.SetReadDeadline(time.Now().Add(idle)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	packet := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, packet)
	return packet, err
}

// writer sends whole messages on a connection that several goroutines answer.
type writer struct {
	mu   sync.Mutex
	conn net.Conn
}

// write sends reply in one piece with its length (RFC 7766 section 8). A client that does not read for
// the idle time loses its connection.
func (w *writer) write(reply []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.conn.SetWriteDeadline(time.Now().Add(idle))
	if err == nil {
		message := net.Buffers{binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply}
		_, err = message.WriteTo(w.conn)
	}
	if err != nil {
		_ = w.conn.Close() // half a message may be out: nothing after it would make sense
	}
	return err
}
