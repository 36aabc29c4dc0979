package attach

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var key = Key{"c1", "eth0"}

// patience is far more than anything here takes; short is the deadline of a ring meant to miss it.
const (
	patience = 20 * time.Second
	short    = 50 * time.Millisecond
)

func ring(t *testing.T, socket string, timeout time.Duration, op Op, k Key) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return Ring(ctx, socket, op, k)
}

// serve rings answer's bell at a socket until the test ends.
func serve(t *testing.T, answer func(context.Context, Op, Key) error) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "run", "bell.sock")
	bell, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- bell.Serve(ctx, answer) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return socket
}

func TestRingIsAnswered(t *testing.T) {
	var mu sync.Mutex
	var heard []string
	socket := serve(t, func(_ context.Context, op Op, k Key) error {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, fmt.Sprint(op, " ", k))
		if op == OpCheck {
			return errors.New("no listener on 10.1.2.3\nat all")
		}
		return nil
	})
	if err := ring(t, socket, patience, OpAdd, key); err != nil {
		t.Error(err)
	}
	if err := ring(t, socket, patience, OpDel, Key{"c2", "net1"}); err != nil {
		t.Error(err)
	}
	if err := ring(t, socket, patience, OpCheck, key); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "no listener on 10.1.2.3\nat all") {
		t.Errorf("refusal arrived as: %v", err)
	}
	if err := ring(t, socket, patience, OpAdd, Key{"../c1", "eth0"}); err == nil {
		t.Error("a key that is no key was passed on")
	}
	want := "[add c1:eth0 del c2:net1 check c1:eth0]"
	if got := fmt.Sprint(heard); got != want {
		t.Errorf("heard %s; want %s", got, want)
	}
}

func TestRingWithoutDaemon(t *testing.T) {
	dir := t.TempDir()
	if err := ring(t, filepath.Join(dir, "absent.sock"), patience, OpAdd, key); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("absent socket: %v", err)
	}
	stale := filepath.Join(dir, "stale.sock")
	bell, err := Listen(stale)
	if err != nil {
		t.Fatal(err)
	}
	if err := bell.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(stale); err != nil {
		t.Fatalf("want the socket to stay: %v", err)
	}
	if err := ring(t, stale, patience, OpAdd, key); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("stale socket: %v", err)
	}
}

// Whatever a peer does, Ring comes back when its context is done, or before with an error.
func TestRingOutlivesEveryPeer(t *testing.T) {
	hang := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	for name, peer := range map[string]struct {
		serve    func(net.Conn)
		deadline bool
	}{
		"never accepts":         {nil, true},
		"never answers":         {hang, true},
		"answers half a line":   {func(c net.Conn) { _, _ = io.WriteString(c, `{"ok":`); hang(c) }, true},
		"hangs up":              {func(net.Conn) {}, false},
		"says something else":   {func(c net.Conn) { _, _ = io.WriteString(c, "220 mail ready\n"); hang(c) }, false},
		"never ends its line":   {func(c net.Conn) { _, _ = io.WriteString(c, strings.Repeat("x", maxLine)); hang(c) }, false},
		"says no and no more":   {func(c net.Conn) { _, _ = io.WriteString(c, "{}\n") }, false},
		"answers half and dies": {func(c net.Conn) { _, _ = io.WriteString(c, `{"ok":true}`) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := filepath.Join(t.TempDir(), "s")
			ln, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			var conns sync.WaitGroup
			defer conns.Wait()
			defer func() { _ = ln.Close() }()
			if peer.serve != nil {
				conns.Go(func() {
					for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
						conns.Go(func() {
							defer func() { _ = c.Close() }()
							peer.serve(c)
						})
					}
				})
			}
			timeout := patience
			if peer.deadline {
				timeout = short
			}
			err = ring(t, socket, timeout, OpAdd, key)
			if err == nil || errors.Is(err, ErrNoDaemon) || errors.Is(err, context.DeadlineExceeded) != peer.deadline {
				t.Errorf("Ring: %v; want the deadline's error: %v", err, peer.deadline)
			}
			if !peer.deadline {
				return
			}
			// Cancelled, without any deadline.
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(short, cancel)
			if err := Ring(ctx, socket, OpAdd, key); !errors.Is(err, context.Canceled) {
				t.Errorf("Ring, cancelled: %v", err)
			}
		})
	}
}

// Answers that wait for each other can only be given by a bell that hears all of them at once.
func TestManyRingsAtOnce(t *testing.T) {
	const n = 50
	var all sync.WaitGroup
	all.Add(n)
	socket := serve(t, func(context.Context, Op, Key) error {
		all.Done()
		all.Wait()
		return nil
	})
	var rings sync.WaitGroup
	for i := range n {
		rings.Go(func() {
			if err := ring(t, socket, patience, OpAdd, Key{fmt.Sprint("c", i), "eth0"}); err != nil {
				t.Error(err)
			}
		})
	}
	rings.Wait()
}

func TestBellBearsBadCallers(t *testing.T) {
	socket := serve(t, func(context.Context, Op, Key) error { return nil })
	for _, line := range []string{"", "\n", "{}\n", "GET / HTTP/1.1\r\n\r\n", `{"op":"add","containerID":1}` + "\n", strings.Repeat("x", 2*maxLine)} {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, line); err != nil {
			t.Fatal(err)
		}
		if line != "" { // the silent one stays on the line till the end of the test
			if answer, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.HasPrefix(answer, `{"ok":false,"error":"`) {
				t.Errorf("%.20q answered by %q, %v", line, answer, err)
			}
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	if err := ring(t, socket, patience, OpAdd, key); err != nil {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "bell.sock")
	old, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(socket)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", st.Mode(), err)
	}
	// The successor takes over although the old one still listens, and keeps it when the old one goes.
	heard := make(chan string, 1)
	bell, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		done <- bell.Serve(context.Background(), func(context.Context, Op, Key) error { heard <- "new"; return nil })
	}()
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ring(t, socket, patience, OpAdd, key); err != nil || <-heard != "new" {
		t.Errorf("after the change: %v", err)
	}
	if err := bell.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Serve of a closed bell: %v", err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("folder holds %q", got)
	}

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("Listen on a file: %v", err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "precious" {
		t.Errorf("the file became %q, %v", data, err)
	}
	if _, err := Listen(filepath.Join(file, "bell.sock")); err == nil {
		t.Error("Listen in a file")
	}
}

// Serve's end cancels the answers under way and waits for them.
func TestServeEndsItsAnswers(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	bell, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	begun, ended := make(chan struct{}), false
	done := make(chan error)
	go func() {
		done <- bell.Serve(ctx, func(ctx context.Context, _ Op, _ Key) error {
			close(begun)
			<-ctx.Done()
			ended = true
			return ctx.Err()
		})
	}()
	rung := make(chan error)
	go func() { rung <- ring(t, socket, patience, OpAdd, key) }()
	<-begun
	cancel()
	if err := <-done; err != nil || !ended {
		t.Errorf("Serve = %v, answer ended: %v", err, ended)
	}
	if err := <-rung; err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("Ring = %v", err)
	}
}
