package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 20 * time.Second

// open opens a door.
func open(t *testing.T, socket string) *Door {
	t.Helper()
	door, err := Listen(socket, func() Self { return Self{Version: "v1", Unwell: "a full disk"} })
	if err != nil {
		t.Fatal(err)
	}
	if err := door.Open(); err != nil {
		t.Fatal(err)
	}
	return door
}

// meet returns both ends of a meeting at a door: who knocked, and who answered.
func meet(t *testing.T) (next, old *Peer) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "handover.sock")
	door := open(t, socket)
	t.Cleanup(func() { _ = door.Close() })
	var answered sync.WaitGroup
	var err error
	answered.Go(func() { old, err = door.Answer() })
	next, failed := Knock(socket, Self{Version: "v2"})
	answered.Wait()
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = next.Close(), old.Close() })
	if next.Version != "v1" || next.Unwell != "a full disk" || old.Version != "v2" || next.PID != os.Getpid() || old.PID != os.Getpid() {
		t.Errorf("they take each other for %+v and %+v", old, next)
	}
	return next, old
}

// note is an item with a file that holds its number.
func note(t *testing.T, n int) Item {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := fmt.Fprint(f, n); err != nil {
		t.Fatal(err)
	}
	return Item{Kind: "number", Note: json.RawMessage(fmt.Sprint(n)), File: f}
}

func check(t *testing.T, item Item, n int) {
	t.Helper()
	defer func() { _ = item.File.Close() }()
	if _, err := item.File.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(item.File)
	if err != nil || item.Kind != "number" || string(item.Note) != fmt.Sprint(n) || string(text) != fmt.Sprint(n) {
		t.Errorf("item %d came as %s %s with %q, %v", n, item.Kind, item.Note, text, err)
	}
}

func TestEverythingChangesHands(t *testing.T) {
	next, old := meet(t)
	const many = 300 // more than the kernel lets one message hold, or a socket queue
	var items []Item
	for n := range many {
		items = append(items, note(t, n))
	}
	var giving sync.WaitGroup
	giving.Go(func() {
		if err := errors.Join(old.Give(items), old.Await(patience)); err != nil {
			t.Error(err)
			return
		}
		if err := old.Pass(Item{Kind: "long", Note: json.RawMessage(`"` + strings.Repeat("x", 90<<10) + `"`)}); err != nil {
			t.Error(err)
		}
		if err := old.Pass(note(t, many)); err != nil {
			t.Error(err)
		}
		_ = old.Close()
	})
	got, err := next.Take(patience)
	if err != nil || len(got) != many {
		t.Fatalf("%d items, %v", len(got), err)
	}
	for n, item := range got {
		check(t, item, n)
	}
	if err := next.Commit(); err != nil {
		t.Fatal(err)
	}
	if item, err := next.Next(); err != nil || item.Kind != "long" || len(item.Note) != 90<<10+2 {
		t.Errorf("a long item came as %s of %d bytes, %v", item.Kind, len(item.Note), err)
	}
	item, err := next.Next()
	if err != nil {
		t.Fatal(err)
	}
	check(t, item, many)
	if _, err := next.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last item: %v", err)
	}
	giving.Wait()
}

func TestWhoChangesHisMindLeavesTheOtherResponsible(t *testing.T) {
	for name, leave := range map[string]func(*Peer){
		"at once":         func(*Peer) {},
		"in the middle":   func(p *Peer) { _, _ = p.receive(patience) },
		"with everything": func(p *Peer) { _, _ = p.Take(patience) },
	} {
		t.Run(name, func(t *testing.T) {
			next, old := meet(t)
			var leaving sync.WaitGroup
			leaving.Go(func() {
				leave(next)
				_ = next.Close()
			})
			defer leaving.Wait()
			err := old.Give([]Item{note(t, 1), note(t, 2)})
			if err == nil {
				err = old.Await(patience)
			}
			if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the old one hears %v", err)
			}
		})
	}
	t.Run("the old one ends", func(t *testing.T) {
		next, old := meet(t)
		if err := old.send(note(t, 1)); err != nil {
			t.Fatal(err)
		}
		_ = old.Close()
		if items, err := next.Take(patience); err == nil {
			t.Errorf("the new one has got all, %d items", len(items))
		}
		if err := next.Commit(); err == nil {
			t.Error("the new one could commit")
		}
	})
}

// However close a commit comes to the end of the other's patience, both believe the same.
func TestExactlyOneIsResponsible(t *testing.T) {
	committed := 0
	for i := range 400 {
		next, old, err := pair()
		if err != nil {
			t.Fatal(err)
		}
		after := time.Duration(i) * 5 * time.Microsecond
		done := make(chan error, 1)
		go func() {
			time.Sleep(after) // to meet the other's end of waiting, before and behind
			done <- next.Commit()
		}()
		relieved := old.Await(time.Millisecond)
		commits := <-done
		if (relieved == nil) != (commits == nil) {
			t.Fatalf("the new one's commit: %v; the old one: %v", commits, relieved)
		}
		if commits == nil {
			committed++
		}
		_, _ = next.Close(), old.Close()
	}
	if committed == 0 || committed == 400 {
		t.Logf("%d of 400 were in time", committed) // a machine too slow to try both
	}
}

// The old one goes on when the new one writes no more, and not before.
func TestThePenIsPutDownFirst(t *testing.T) {
	next, old := meet(t)
	if err := old.Give(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := next.Take(patience); err != nil {
		t.Fatal(err)
	}
	var writing atomic.Bool
	writing.Store(true)
	var stopping sync.WaitGroup
	stopping.Go(func() {
		if err := next.Lost(); err == nil {
			t.Error("the new one has not heard that it is too late")
		}
		if err := next.Commit(); err == nil {
			t.Error("it could commit")
		}
		writing.Store(false)
		_ = next.Close()
	})
	if err := old.Await(time.Millisecond); err == nil || !strings.Contains(err.Error(), "has not taken over within") || writing.Load() {
		t.Errorf("the old one goes on while the other is writing, %v: %v", writing.Load(), err)
	}
	stopping.Wait()
}

// One that does not put it down is not waited for for ever: here it is this process, which nobody kills.
func TestThePenIsKept(t *testing.T) {
	t.Parallel()
	next, old := meet(t)
	if err := old.Give(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := next.Take(patience); err != nil {
		t.Fatal(err)
	}
	if err := old.Await(time.Millisecond); err == nil || !strings.Contains(err.Error(), "it still has the pen") {
		t.Errorf("the old one hears %v", err)
	}
}

// Who has committed is not told that he has lost what comes after it.
func TestLostOnlyBeforeCommit(t *testing.T) {
	next, old := meet(t)
	var relieved sync.WaitGroup
	relieved.Go(func() {
		if err := errors.Join(old.Give(nil), old.Await(patience), old.Pass(Item{Kind: "late"})); err != nil {
			t.Error(err)
		}
	})
	if _, err := next.Take(patience); err != nil {
		t.Fatal(err)
	}
	if err := next.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := next.Lost(); err != nil {
		t.Error(err)
	}
	if item, err := next.Next(); err != nil || item.Kind != "late" {
		t.Errorf("%+v, %v", item, err)
	}
	relieved.Wait()
	go func() { _ = next.Close() }()
	if err := next.Lost(); err != nil {
		t.Errorf("closed here: %v", err)
	}
}

// Before it is opened the name is somebody else's.
func TestDoorBeforeItIsOpened(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "handover.sock")
	first := open(t, socket)
	defer func() { _ = first.Close() }()
	before, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	next, err := Listen(socket, func() Self { return Self{} })
	if err != nil {
		t.Fatal(err)
	}
	if now, err := os.Stat(socket); err != nil || !os.SameFile(before, now) {
		t.Errorf("it has the name already: %v", err)
	}
	_ = next.Close()
	left, err := os.ReadDir(filepath.Dir(socket))
	if err != nil || len(left) != 1 {
		t.Errorf("there is %v, %v", left, err)
	}
}

func TestOtherProtocolsAreRefused(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "handover.sock")
	door := open(t, socket)
	defer func() { _ = door.Close() }()
	answered := make(chan error, 1)
	go func() {
		_, err := door.Answer()
		answered <- err
	}()
	conn, err := net.Dial("unixpacket", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, `{"kind":"hello","note":{"protocol":%d,"version":"v9"},"more":[]}`, Protocol+1); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err == nil || !strings.Contains(err.Error(), fmt.Sprintf("dnsd v9 hands over by protocol %d", Protocol+1)) {
		t.Errorf("the old one says %v", err)
	}
	text := make([]byte, 1000)
	if n, err := conn.Read(text); err != nil || !strings.Contains(string(text[:n]), `"version":"v1"`) {
		t.Errorf("the new one is told %q, %v", text[:n], err)
	}
	if _, err := conn.Read(text); !errors.Is(err, io.EOF) {
		t.Errorf("and then %v", err)
	}
}

func TestDoorThatSomebodyRemovesIsMadeAnew(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "handover.sock")
	door := open(t, socket)
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 2)
	go func() {
		for range 2 {
			_, err := door.Answer()
			answered <- err
		}
	}()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		peer, err := Knock(socket, Self{Version: "v2"})
		if err == nil {
			_ = peer.Close()
			break
		}
		if !errors.Is(err, ErrNobody) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	_ = door.Close()
	if err := <-answered; !errors.Is(err, net.ErrClosed) {
		t.Errorf("after it was closed: %v", err)
	}
}

func TestKnockingAtNobody(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "handover.sock")
	if _, err := Knock(socket, Self{Version: "v2"}); !errors.Is(err, ErrNobody) {
		t.Errorf("without a socket: %v", err)
	}
	door := open(t, socket)
	// It hangs: the connection stands, and nothing comes.
	if _, err := Knock(socket, Self{Version: "v2"}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("at one that hangs: %v", err)
	}
	_ = door.Close()
	if _, err := Knock(socket, Self{Version: "v2"}); !errors.Is(err, ErrNobody) {
		t.Errorf("at one that is gone: %v", err)
	}
	// The next one has the name, whatever was there.
	_ = open(t, socket).Close()
}

// pair returns two peers that are each other's.
func pair() (a, b *Peer, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	var peers [2]*Peer
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "")
		conn, cerr := net.FileConn(file)
		_ = file.Close()
		if err = errors.Join(err, cerr); err == nil {
			peers[i], err = newPeer(conn.(*net.UnixConn))
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	return peers[0], peers[1], nil
}
