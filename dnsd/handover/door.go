package handover

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/nodens-dns/nodens/dnsd/replace"
)

// lookEvery is how soon a socket that somebody has removed is there again.
const lookEvery = 5 * time.Second

// Door is where a dnsd hears others knock.
type Door struct {
	socket string
	self   func() Self

	mu     sync.Mutex // guards the following
	ln     *replace.Socket
	closed bool
}

// Listen makes the socket, open to its owner only, in a folder that exists. Nobody can knock before Open: until
// then the name may be another dnsd's. What self returns is told to whoever knocks.
func Listen(socket string, self func() Self) (*Door, error) {
	ln, err := listen(socket)
	if err != nil {
		return nil, err
	}
	return &Door{socket: socket, self: self, ln: ln}, nil
}

func listen(socket string) (*replace.Socket, error) {
	ln, err := replace.Listen("unixpacket", socket, 0o600)
	if err != nil {
		return nil, fmt.Errorf("listen for who takes over: %w", err)
	}
	return ln, nil
}

// Open gives the socket its name. One that is there is replaced: it is that of a dnsd which is gone, or has
// handed over. Should it fail, Answer tries again.
func (d *Door) Open() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.ln.Place(); err != nil {
		return fmt.Errorf("nobody can take over for now: %w", err)
	}
	return nil
}

// Answer waits until somebody knocks who could take over. An error that is not net.ErrClosed says why somebody
// who knocked could not. It belongs to one goroutine.
func (d *Door) Answer() (*Peer, error) {
	conn, err := d.accept()
	if err != nil {
		return nil, err
	}
	p, err := newPeer(conn)
	if err == nil {
		err = p.greet(d.self()) // before anything else, for the other to know why if it fails
	}
	if err == nil {
		err = p.heed()
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("somebody who knocked: %w", err)
	}
	return p, nil
}

// accept waits for a connection, and makes the socket anew when somebody has removed it.
func (d *Door) accept() (*net.UnixConn, error) {
	for {
		if err := d.ln.SetDeadline(time.Now().Add(lookEvery)); err != nil {
			return nil, err
		}
		conn, err := d.ln.AcceptUnix()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return conn, err
		}
		d.look()
	}
}

// look makes the socket anew if it has no name. That this fails is no reason to end: it is tried again.
func (d *Door) look() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || !d.ln.Lost() {
		return
	}
	if ln, err := listen(d.socket); err == nil {
		_ = d.ln.Close()
		d.ln = ln
		_ = d.ln.Place()
	}
}

// Close ends Answer with net.ErrClosed.
func (d *Door) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return d.ln.Close()
}
