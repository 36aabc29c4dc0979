package serve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// lengthSize is that of the length before a message on a stream (RFC 1035 section 4.2.2).
const lengthSize = 2

// serveConn answers the queries of conn until the client has no more, says nothing for too long, or ctx
// ends; then it sees those still being asked through and closes conn, or passes it on when the server
// retires.
func (k *socket) serveConn(ctx context.Context, conn net.Conn) {
	k.server.connections.Add(1)
	defer k.server.connections.Add(-1)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	r := &reader{Reader: bufio.NewReader(conn), conn: conn, retiring: k.server.retiring}
	interrupt := context.AfterFunc(r.retiring, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	var asking sync.WaitGroup
	defer func() {
		asking.Wait()
		interrupt()
		if stop() && r.interrupted && k.passOn(conn, r.early()) {
			return
		}
		_ = conn.Close()
	}()
	w := &writer{conn: conn}
	from := remote(conn)
	out := make([]byte, lengthSize+replySize)
	for {
		packet, err := r.message()
		if err != nil {
			return
		}
		k.gate.counts.tcp.Add(1)
		if !k.afford(ctx) {
			return
		}
		query := k.arrived(packet, from)
		reply, v, later := k.begin(packet, out[lengthSize:])
		if later == nil {
			k.done(&v, &query)
			if reply != nil {
				message := frame(reply, out)
				err = w.write(message)
				if len(message) > len(out) && len(message) <= maxQuery {
					out = message // who asks for much may do so again
				}
			}
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
		k.gate.budget.spend(time.Now(), 0, 1)
		kept := query.keep() // by itself, since what a goroutine uses is not on the stack
		asking.Go(func() {
			defer func() { <-k.gate.slots }()
			reply, v := k.wait(ctx, later, time.Now())
			k.done(&v, &kept)
			if reply != nil {
				_ = w.write(frame(reply, nil)) // a broken connection is noticed by the reader
			}
		})
	}
}

// passOn has the server that comes next go on with conn, if conn is of a kind that can.
func (k *socket) passOn(conn net.Conn, early []byte) bool {
	switch conn := conn.(type) {
	case *acceptedConn:
		tcp := conn.tcp()
		if tcp == nil {
			return false
		}
		k.server.pass(k.client, tcp, early)
	case *passedConn:
		k.server.pass(k.client, conn.TCPConn, append(early, conn.early...))
	default:
		return false
	}
	return true
}

// remote is the address of conn's other end, if it is one.
func remote(conn net.Conn) netip.AddrPort {
	if addr, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return addr.AddrPort()
	}
	return netip.AddrPort{}
}

// reader reads the messages of a connection.
type reader struct {
	*bufio.Reader
	conn        net.Conn
	retiring    context.Context // when done, the connection's read deadline is in the past
	interrupted bool            // by that
	large       []byte          // what has been read of a message that the buffer does not hold
}

// message reads the next message, of up to 64 KiB, giving all of it the idle time to arrive. It is good
// until the next one is read.
func (r *reader) message() ([]byte, error) {
	err := r.conn.SetReadDeadline(time.Now().Add(idle))
	if err == nil {
		err = r.retiring.Err() // from here on, the deadline set for that is the last one
		r.interrupted = err != nil
	}
	if err != nil {
		return nil, err
	}
	message, err := r.read()
	r.interrupted = errors.Is(err, os.ErrDeadlineExceeded) && r.retiring.Err() != nil
	return message, err
}

func (r *reader) read() ([]byte, error) {
	length, err := r.Peek(lengthSize)
	if err != nil {
		return nil, err
	}
	size := lengthSize + int(binary.BigEndian.Uint16(length))
	if size > r.Size() {
		message := make([]byte, size)
		n, err := io.ReadFull(r, message)
		if err != nil {
			r.large = message[:n]
		}
		return message[lengthSize:], err
	}
	message, err := r.Peek(size)
	if err != nil {
		return nil, err
	}
	_, err = r.Discard(size)
	return message[lengthSize:], err
}

// early is what has been read of the message that was interrupted.
func (r *reader) early() []byte {
	buffered, _ := r.Peek(r.Buffered()) // there is that much
	return append(bytes.Clone(r.large), buffered...)
}

// frame puts reply's length before it, in out if it lies there already with room for that.
func frame(reply, out []byte) []byte {
	if lengthSize+len(reply) <= len(out) && &reply[0] == &out[lengthSize] {
		binary.BigEndian.PutUint16(out, uint16(len(reply)))
		return out[:lengthSize+len(reply)]
	}
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, lengthSize+len(reply)), uint16(len(reply))), reply...)
}

// writer sends whole messages on a connection that several goroutines answer.
type writer struct {
	mu   sync.Mutex
	conn net.Conn
}

// write sends a message in one piece with its length (RFC 7766 section 8). A client that does not read for
// the idle time loses its connection.
func (w *writer) write(message []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.conn.SetWriteDeadline(time.Now().Add(idle))
	if err == nil {
		_, err = w.conn.Write(message)
	}
	if err != nil {
		_ = w.conn.Close() // half a message may be out: nothing after it would make sense
	}
	return err
}
