package serve

import "net"

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
