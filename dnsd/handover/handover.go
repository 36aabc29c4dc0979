// Package handover passes what a dnsd has open to the one that relieves it, and settles which of the two is
// responsible at every moment, and which may write.
//
// The new one knocks at a socket in a folder of root's. Both say which protocol they speak; who hears another
// one hangs up. The old one stops writing, to the kernel and to the disk, and gives what it has open,
// descriptor by descriptor, and with the last of it the pen: one end of a pipe. It goes on reading its sockets,
// which are now both's. When the new one could do all that the old one does, it commits, by one message. Up to
// the moment it is sent the old one is responsible, and a connection that ends without it tells the old one that
// it stays so; from then on the new one is, whatever happens to either. What the old one can let go of only
// later, it passes on after that.
//
// Whoever has the pen writes. The new one puts it down, by [Peer.Close], when it has stopped; should it die, the
// kernel does. The old one that stays responsible waits for that before it goes on: see [Peer.Await].
package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Protocol is the number of what is said here. It changes with the meaning of any of it, of kinds of items too.
const Protocol = 1

const (
	// silence is how long a peer may take for what it can do at once: one that is stopped is found by it.
	silence = 5 * time.Second
	// stopsWithin is how long who has lost may take to put down the pen: it first looks, for as long as silence,
	// whether the other has ended, and then ends what it does.
	stopsWithin = 3 * silence
	// maxMessage is above 64 KiB, what may have been read of a DNS message, in JSON.
	maxMessage = 128 << 10
)

// The kinds of messages that are no items.
const (
	hello  = "hello"
	end    = "end" // of what is given before the other commits
	commit = "commit"
)

// ErrNobody says that no dnsd that could hand anything over is at the socket.
var ErrNobody = errors.New("nobody is there to hand over")

// Item is something that changes hands.
type Item struct {
	Kind string          `json:"kind"` // for both to agree on; none of this package's
	Note json.RawMessage `json:"note,omitempty"`
	File *os.File        `json:"-"` // of sockets, one that does not block; nil for none; whoever received it owns it
}

// Self is what a dnsd says of itself.
type Self struct {
	Version string `json:"version"`
	// Unwell is what it cannot do of all it should, or empty.
	Unwell string `json:"unwell,omitempty"`
}

type greeting struct {
	Protocol int `json:"protocol"`
	Self
}

// Peer is the other dnsd. Its methods may block for as long as they say.
type Peer struct {
	Self
	PID int // its process, or 0 where that has no number here

	conn *net.UnixConn
	buf  []byte
	pen  *os.File // of who takes: the end to be closed; of who gives: the end that sees it
}

// Knock asks the dnsd at socket to be relieved. It blocks for some seconds at most. The caller must Close the
// peer, which before Commit means to have changed one's mind.
func Knock(socket string, self Self) (*Peer, error) {
	conn, err := net.DialTimeout("unixpacket", socket, silence)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: %w", ErrNobody, err)
	}
	if err != nil {
		return nil, fmt.Errorf("knock: %w", err)
	}
	p, err := newPeer(conn.(*net.UnixConn))
	if err == nil {
		err = p.greet(self)
	}
	if err == nil {
		err = p.heed()
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("knock at %s: %w", socket, err)
	}
	return p, nil
}

// newPeer makes a peer of a connection, if it is root or who we are.
func newPeer(conn *net.UnixConn) (*Peer, error) {
	p := &Peer{conn: conn, buf: make([]byte, maxMessage)}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var who *unix.Ucred
	control := raw.Control(func(fd uintptr) { who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(control, err); err != nil {
		return nil, fmt.Errorf("ask who the other is: %w", err)
	}
	if who.Uid != 0 && int(who.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("the other is user %d, not root", who.Uid)
	}
	p.PID = int(who.Pid)
	return p, nil
}

func (p *Peer) greet(self Self) error {
	note, err := json.Marshal(greeting{Protocol, self})
	if err != nil {
		return err
	}
	return p.send(Item{Kind: hello, Note: note})
}

// heed hears the other's greeting.
func (p *Peer) heed() error {
	item, err := p.receive(silence)
	if err != nil {
		return fmt.Errorf("no greeting: %w", err)
	}
	var g greeting
	if err := json.Unmarshal(item.Note, &g); err != nil || item.Kind != hello {
		item.Close()
		return fmt.Errorf("no greeting but a message of kind %q", item.Kind)
	}
	if p.Self = g.Self; g.Protocol != Protocol {
		return fmt.Errorf("dnsd %s hands over by protocol %d, this one by %d: stop it for this one to start", g.Version, g.Protocol, Protocol)
	}
	return nil
}

// Give gives the other what there is, and the pen: the caller must have stopped writing. The caller keeps the
// files.
func (p *Peer) Give(items []Item) error {
	seen, pen, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pen: %w", err)
	}
	p.pen = seen
	defer func() { _ = pen.Close() }()
	for _, item := range append(items, Item{Kind: end, File: pen}) {
		if err := p.send(item); err != nil {
			return fmt.Errorf("give what is open: %w", err)
		}
	}
	return nil
}

// Take returns what the other gives, the first of it within patience. The caller owns the files, and may write
// until it closes the peer.
func (p *Peer) Take(patience time.Duration) ([]Item, error) {
	var items []Item
	for {
		item, err := p.receive(patience)
		if err == nil && item.Kind == end {
			p.pen = item.File
			return items, nil
		}
		if err != nil {
			for _, item := range items {
				item.Close()
			}
			return nil, fmt.Errorf("take what is open: %w", err)
		}
		items = append(items, item)
		patience = silence
	}
}

// Commit makes the caller responsible. After an error it is not, and never will be.
func (p *Peer) Commit() error {
	if err := p.send(Item{Kind: commit}); err != nil {
		return fmt.Errorf("the other goes on, or is gone: %w", err)
	}
	return nil
}

// Lost blocks until the other has hung up, before the caller has committed, and says so: the caller must stop
// writing. It returns nil when the other, relieved, passes something on, or the caller has closed the peer.
func (p *Peer) Lost() error {
	raw, err := p.conn.SyscallConn()
	if err == nil {
		err = p.conn.SetReadDeadline(time.Time{})
	}
	if err != nil {
		return nil // closed
	}
	lost := false
	err = raw.Read(func(fd uintptr) bool {
		one := make([]byte, 1)
		n, _, err := unix.Recvfrom(int(fd), one, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		lost = n == 0 || err != nil
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if err == nil && lost {
		return errors.New("the other has hung up: it goes on, or has ended")
	}
	return nil
}

// Await waits for the other to commit. After an error the caller stays responsible, and may write again: the
// other has changed its mind, has ended, or has taken longer than patience; it cannot commit any more, and has put
// down the pen. One that does not at once is killed, if its process can be named, and in the end not waited for,
// after as long as patience: it has been told, and will hear of it first should it wake up.
func (p *Peer) Await(patience time.Duration) error {
	err := p.await(patience)
	if err != nil {
		_ = p.conn.CloseWrite() // for the other to hear of it
		if p.pen != nil && !p.putDown(stopsWithin) {
			if p.PID > 0 && p.PID != os.Getpid() {
				_ = unix.Kill(p.PID, unix.SIGKILL)
			}
			if !p.putDown(patience) {
				err = fmt.Errorf("%w; it still has the pen, which it must not use", err)
			}
		}
	}
	return err
}

func (p *Peer) await(patience time.Duration) error {
	item, err := p.receive(patience)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// From here on it cannot send any more; what it has sent until now counts.
		if err := p.conn.CloseRead(); err != nil {
			return err
		}
		if item, err = p.receive(patience); err != nil {
			return fmt.Errorf("the other has not taken over within %v", patience)
		}
	}
	if errors.Is(err, io.EOF) {
		return errors.New("the other has ended before it took over")
	}
	if err == nil && item.Kind != commit {
		item.Close()
		err = fmt.Errorf("a message of kind %q", item.Kind)
	}
	return err
}

// putDown reports whether the other puts the pen down within patience.
func (p *Peer) putDown(patience time.Duration) bool {
	_ = p.pen.SetReadDeadline(time.Now().Add(patience))
	_, err := p.pen.Read(make([]byte, 1))
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// Pass gives one more item after the other has committed; the caller keeps the file. Pass and Close may be
// called by several goroutines.
func (p *Peer) Pass(item Item) error { return p.send(item) }

// Next returns what the other passes on after Commit, and io.EOF when there is no more. It blocks for as long
// as the other takes.
func (p *Peer) Next() (Item, error) { return p.receive(0) }

// Close hangs up, and puts down the pen: who has taken and not committed must have stopped writing.
func (p *Peer) Close() error {
	if p.pen != nil {
		_ = p.pen.Close()
	}
	return p.conn.Close()
}

// send sends a message in one piece.
func (p *Peer) send(item Item) error {
	text, err := json.Marshal(item)
	if err != nil {
		return err
	}
	if len(text) > maxMessage {
		return fmt.Errorf("an item of kind %s of %d bytes: %d is the most", item.Kind, len(text), maxMessage)
	}
	if err := p.conn.SetWriteDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	if item.File == nil {
		_, _, err = p.conn.WriteMsgUnix(text, nil, nil)
		return err
	}
	// Not by Fd, which may make a socket block, in both processes.
	raw, err := item.File.SyscallConn()
	if err != nil {
		return err
	}
	control := raw.Control(func(fd uintptr) { _, _, err = p.conn.WriteMsgUnix(text, unix.UnixRights(int(fd)), nil) })
	return errors.Join(control, err)
}

// receive waits for a message, for ever if patience is 0.
func (p *Peer) receive(patience time.Duration) (item Item, err error) {
	deadline := time.Time{}
	if patience > 0 {
		deadline = time.Now().Add(patience)
	}
	if err := p.conn.SetReadDeadline(deadline); err != nil {
		return item, err
	}
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, flags, _, err := p.conn.ReadMsgUnix(p.buf, oob)
	if err != nil {
		return item, err
	}
	file, err := descriptor(oob[:oobn])
	if err == nil && flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 {
		err = errors.New("a part of a message is lost: there may be no descriptor left (see the limit of open files)")
	}
	if err == nil {
		err = json.Unmarshal(p.buf[:n], &item)
	}
	if item.File = file; err != nil {
		item.Close()
	}
	return item, err
}

// descriptor finds the one that came with a message, if any did.
func descriptor(oob []byte) (*os.File, error) {
	controls, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(controls) == 0 {
		return nil, err
	}
	fds, err := unix.ParseUnixRights(&controls[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("no descriptor where one should be: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), ""), nil
}

// Close closes the item's file, if it has one.
func (i Item) Close() {
	if i.File != nil {
		_ = i.File.Close()
	}
}
