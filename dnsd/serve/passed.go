package serve

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// TCPListener accepts connections, and those that another server had accepted and passed on when it retired.
type TCPListener struct {
	*net.TCPListener

	mu     sync.Mutex
	passed []net.Conn
	closed bool
}

// Add has Accept return conn, of which early has been read already. It reports false, and leaves conn to the
// caller, if the listener is closed.
func (l *TCPListener) Add(conn *net.TCPConn, early []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.passed = append(l.passed, &passedConn{TCPConn: conn, early: early})
	_ = l.SetDeadline(time.Unix(1, 0)) // so that who waits looks here
	return true
}

// Accept returns the next connection. Those added before the listener was closed it still returns.
func (l *TCPListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.TCPListener.Accept()
		if err == nil {
			return conn, nil
		}
		if conn := l.next(); conn != nil {
			return conn, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
	}
}

// next returns a connection that was passed on, or has Accept wait again.
func (l *TCPListener) next() net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.passed) == 0 {
		_ = l.SetDeadline(time.Time{})
		return nil
	}
	conn := l.passed[0]
	l.passed = l.passed[1:]
	return conn
}

// Close closes the listener, but no connection.
func (l *TCPListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return l.TCPListener.Close()
}

// passedConn gives what was read of a connection before it was passed on, then the rest.
type passedConn struct {
	*net.TCPConn
	early []byte
}

// Read reads from the connection. It belongs to one goroutine.
func (c *passedConn) Read(p []byte) (int, error) {
	if len(c.early) == 0 {
		return c.TCPConn.Read(p)
	}
	n := copy(p, c.early)
	if c.early = c.early[n:]; len(c.early) == 0 {
		c.early = nil
	}
	return n, nil
}
