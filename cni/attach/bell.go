package attach

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/nodens-dns/nodens/dnsd/replace"
)

// Op is what the bell is rung for. The file is written or removed before.
type Op string

const (
	// OpAdd says that the attachment's file has been written. Answered when the pod is served.
	OpAdd Op = "add"
	// OpDel says that it has been removed. Answered when nothing of the daemon's is left in the pod's network
	// namespace, which an open socket would keep alive. One that is being relieved at that moment, or that has
	// not let go of everything yet, holds its own descriptors of the same sockets for as long as that takes.
	OpDel Op = "del"
	// OpCheck asks whether the pod is treated as its attachment wants, and changes nothing.
	OpCheck Op = "check"
)

var (
	// ErrNoDaemon says that nobody listens at the bell's socket.
	ErrNoDaemon = errors.New("dnsd is not running")
	// ErrRefused says that the daemon heard and answered no; its reason follows.
	ErrRefused = errors.New("dnsd refused")
)

// One line each way, in JSON.
type (
	request struct {
		Op          Op     `json:"op"`
		ContainerID string `json:"containerID"`
		IfName      string `json:"ifname"`
	}
	reply struct {
		OK    bool   `json:"ok"`
		Error string `json:"error,omitempty"` // when not OK
	}
)

const (
	maxLine    = 8 << 10
	lineBudget = 5 * time.Second // for a caller to say what it wants, and to take the answer
	// lastAnswers is how long answers under way may take when the bell is closed: more than a ring waits.
	lastAnswers = 2 * time.Second
)

// Ring tells the daemon at socket of op and waits for its answer, until ctx is done and no longer,
// whatever the daemon does. It returns ErrRefused with the daemon's reason, ErrNoDaemon when there is no
// daemon, and ctx's error when the answer did not come in time; the daemon then goes on by itself.
func Ring(ctx context.Context, socket string, op Op, k Key) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nobody listens at %s", ErrNoDaemon, socket)
	case err != nil:
		return fmt.Errorf("ring dnsd: %w", err)
	}
	defer func() { _ = conn.Close() }()
	// Ends a read or write that has begun, also when ctx is cancelled without having a deadline.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	var r reply
	err = send(conn, request{op, k.ContainerID, k.IfName})
	if err == nil {
		err = receive(conn, &r)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("ring dnsd: no answer to %s %s: %w", op, k, ctx.Err())
	case err != nil:
		return fmt.Errorf("ring dnsd: %w", err)
	case !r.OK:
		return fmt.Errorf("%w %s %s: %s", ErrRefused, op, k, r.Error)
	}
	return nil
}

// Mute reports whether nobody listens at socket: it is gone, or one that a daemon has left.
func Mute(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, lineBudget)
	if err == nil {
		_ = conn.Close()
	}
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// send writes v as one line.
func send(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// receive reads one line into v.
func receive(r io.Reader, v any) error {
	line, err := bufio.NewReader(io.LimitReader(r, maxLine)).ReadSlice('\n')
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = json.Unmarshal(line, v)
	}
	if err != nil {
		return fmt.Errorf("no message of one line of at most %d bytes: %w", maxLine, err)
	}
	return nil
}

// Bell is the daemon's end.
type Bell struct{ ln *net.UnixListener }

// Listen makes the bell's socket, and its folder if need be, open to its owner only. A socket already
// there is replaced without a moment in which there is none: it is a dead daemon's, or that of a daemon
// about to be relieved by this one. Anything else there is left alone and is an error.
func Listen(socket string) (*Bell, error) {
	err := os.MkdirAll(filepath.Dir(socket), 0o755)
	var ln *replace.Socket
	if err == nil {
		ln, err = replace.Listen("unix", socket, 0o600)
	}
	if err == nil {
		if err = ln.Place(); err != nil {
			_ = ln.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", socket, err)
	}
	return &Bell{ln: ln.UnixListener}, nil
}

// Inherit is the daemon's end of a bell that another daemon has made and left by its [Bell.File], which the
// caller still owns.
func Inherit(file *os.File) (*Bell, error) {
	ln, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("go on with the bell of another daemon: %w", err)
	}
	bell, ok := ln.(*net.UnixListener)
	if !ok {
		_ = ln.Close()
		return nil, fmt.Errorf("go on with the bell of another daemon: it listens at %s", ln.Addr())
	}
	bell.SetUnlinkOnClose(false)
	return &Bell{ln: bell}, nil
}

// File returns the bell by another descriptor, which the caller must close. Until then whoever rings is not
// sent away when the bell is closed, but waits for whoever gets the descriptor.
func (b *Bell) File() (*os.File, error) {
	file, err := b.ln.File()
	if err != nil {
		return nil, fmt.Errorf("leave the bell to another daemon: %w", err)
	}
	return file, nil
}

// Serve calls answer for every ring, each in a goroutine of its own, and tells the caller what it
// returned. It blocks until ctx is done or the bell is closed, then waits for the answers under way and
// returns nil; two seconds later their context ends. It does not end with the caller's patience: work begun
// is worth finishing when the pod has started without waiting for it.
func (b *Bell) Serve(ctx context.Context, answer func(context.Context, Op, Key) error) error {
	stopped, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(stopped, func() { _ = b.Close() })()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var calls sync.WaitGroup
	defer func() {
		defer time.AfterFunc(lastAnswers, cancel).Stop()
		calls.Wait()
	}()
	for {
		conn, err := b.ln.Accept()
		switch {
		case err == nil:
			calls.Go(func() { answerOne(ctx, conn, answer) })
		case errors.Is(err, net.ErrClosed):
			return nil
		case shortage(err):
			// Ends by itself; to return would leave every later pod waiting for a sweep.
			select {
			case <-stopped.Done():
			case <-time.After(100 * time.Millisecond):
			}
		default:
			return fmt.Errorf("accept at the bell: %w", err)
		}
	}
}

func shortage(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func answerOne(ctx context.Context, conn net.Conn, answer func(context.Context, Op, Key) error) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetReadDeadline(time.Now().Add(lineBudget))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	var q request
	err := receive(conn, &q)
	k := Key{q.ContainerID, q.IfName}
	if err == nil {
		_, err = k.file()
	}
	if err == nil {
		err = answer(ctx, q.Op, k)
	}
	r := reply{OK: err == nil}
	if err != nil {
		r.Error = err.Error()
	}
	// The caller may have gone, which is its right.
	_ = conn.SetWriteDeadline(time.Now().Add(lineBudget))
	_ = send(conn, r)
}

// Close ends Serve. The socket's file stays: see Listen.
func (b *Bell) Close() error { return b.ln.Close() }
