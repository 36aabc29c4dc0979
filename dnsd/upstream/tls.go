package upstream

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxStreams is how many connections to one server are used at a time. One would do for a server
	// that answers out of turn, as it should (RFC 7766, section 6.2.1.1); many do not.
	maxStreams = 4
	// stuckAfter is how long a connection may owe answers without giving one before new questions go
	// elsewhere: it hangs, or its server waits for a slow name.
	stuckAfter = 700 * time.Millisecond
	// streamIdle is how long a connection that nothing comes over is kept (RFC 7858, section 3.4).
	streamIdle = 30 * time.Second
)

// link is the way to one server over TLS: a few connections, made when needed, each with many questions
// on it at once.
type link struct {
	addr string
	dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu      sync.Mutex // guards the following, and the state of every stream
	streams []*stream  // those that take questions
}

func newLink(s Server) *link {
	return &link{addr: s.Addr.String(), dial: (&tls.Dialer{Config: s.tlsConfig()}).DialContext}
}

// stream is one connection, being made or in use.
type stream struct {
	link  *link
	ready chan struct{} // closed when conn is set, or done is closed
	done  chan struct{} // closed when err is set
	conn  net.Conn

	writing sync.Mutex // held while a message is written

	// Guarded by link.mu.
	waiting map[uint16]chan []byte // by the ID on the connection
	owing   time.Time              // since when it has owed an answer without giving any
	proven  bool                   // it has given one
	retired bool                   // takes no more questions
	err     error                  // why it has ended
}

// exchange sends packet, a query, and returns the reply with the same ID. It blocks until then, or until
// ctx ends.
func (l *link) exchange(ctx context.Context, packet []byte) ([]byte, error) {
	for again := true; ; again = false {
		s, id, proven := l.board()
		reply, err := s.exchange(ctx, id, packet)
		if err != nil && again && proven && ctx.Err() == nil {
			continue // the server may close a connection at any time; that says nothing about it
		}
		return reply, err
	}
}

// board finds a place for a question: an ID on the connection with the fewest. It says whether that
// connection has worked before.
func (l *link) board() (s *stream, id uint16, proven bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.streams = slices.DeleteFunc(l.streams, func(s *stream) bool {
		s.retired = len(s.waiting) > 0 && now.Sub(s.owing) > stuckAfter
		return s.retired
	})
	for _, other := range l.streams {
		if s == nil || len(other.waiting) < len(s.waiting) {
			s = other
		}
	}
	if s == nil || len(s.waiting) > 0 && len(l.streams) < maxStreams {
		s = &stream{link: l, ready: make(chan struct{}), done: make(chan struct{}), waiting: make(map[uint16]chan []byte)}
		l.streams = append(l.streams, s)
		go s.run()
	}
	if len(s.waiting) == 0 {
		s.owing = now
	}
	for id = dns.Id(); s.waiting[id] != nil; id = dns.Id() {
	}
	s.waiting[id] = make(chan []byte, 1)
	return s, id, s.proven
}

// exchange sends packet under id, and takes it off the stream when that has ended.
func (s *stream) exchange(ctx context.Context, id uint16, packet []byte) ([]byte, error) {
	s.link.mu.Lock()
	answered := s.waiting[id]
	s.link.mu.Unlock()
	defer s.leave(id)
	select {
	case <-s.ready:
	case <-s.done:
		return nil, s.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	frame := binary.BigEndian.AppendUint16(nil, uint16(len(packet)))
	frame = append(frame, packet...)
	binary.BigEndian.PutUint16(frame[2:], id)
	if err := s.write(frame); err != nil {
		s.end(err)
		return nil, err
	}
	select {
	case reply := <-answered:
		copy(reply[:2], packet)
		return reply, nil
	case <-s.done:
		return nil, s.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// write writes one message. It blocks no longer than a question may take.
func (s *stream) write(frame []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	_ = s.conn.SetWriteDeadline(time.Now().Add(budget)) // a deadline that was met ends the stream
	_, err := s.conn.Write(frame)
	return err
}

// leave gives up the place of id.
func (s *stream) leave(id uint16) {
	s.link.mu.Lock()
	delete(s.waiting, id)
	last := s.retired && len(s.waiting) == 0
	s.link.mu.Unlock()
	if last {
		s.end(errors.New("the connection had stopped answering"))
	}
}

// run connects, and then hands out what comes until the connection ends.
func (s *stream) run() {
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	conn, err := s.link.dial(ctx, "tcp", s.link.addr)
	if err != nil {
		s.end(err)
		return
	}
	s.link.mu.Lock()
	s.conn = conn
	ended := s.err != nil
	s.link.mu.Unlock()
	if ended {
		_ = conn.Close()
		return
	}
	close(s.ready)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(streamIdle))
		reply, err := readMessage(conn)
		if err != nil {
			s.end(err)
			return
		}
		s.deliver(reply)
	}
}

// deliver hands a reply to who waits for it, if anybody still does.
func (s *stream) deliver(reply []byte) {
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	s.proven, s.owing = true, time.Now()
	select {
	case s.waiting[binary.BigEndian.Uint16(reply)] <- reply:
	default: // a nil channel, or a second reply
	}
}

// end takes the stream out of use. Only the first reason counts.
func (s *stream) end(why error) {
	l := s.link
	l.mu.Lock()
	first, conn := s.err == nil, s.conn
	if first {
		s.err = why
		close(s.done)
		l.streams = slices.DeleteFunc(l.streams, func(other *stream) bool { return other == s })
	}
	l.mu.Unlock()
	if first && conn != nil {
		_ = conn.Close() // may wait to say goodbye
	}
}

// readMessage reads one message with its length before it (RFC 1035, section 4.2.2).
func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(size[:]))
	if len(message) < headerBytes {
		return nil, errors.New("less than a DNS header")
	}
	_, err := io.ReadFull(r, message)
	return message, err
}
