package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/config"
	"github.com/nodens-dns/nodens/dnsd/handover"
)

// predecessor is a dnsd that holds the folders of the configuration it returns, and hands over as it is told.
func predecessor(t *testing.T, give func(old *handover.Peer, held locks)) (*config.Config, locks) {
	t.Helper()
	c := &config.Config{StateDir: t.TempDir(), RunDir: t.TempDir(), Listen: "127.0.0.1:9553"}
	held, err := alone(c.StateDir, c.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(held.release)
	if give == nil {
		return c, held
	}
	door, err := handover.Listen(c.Door(), func() handover.Self { return handover.Self{Version: "old"} })
	if err == nil {
		err = door.Open()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = door.Close() })
	go func() {
		if old, err := door.Answer(); err == nil {
			give(old, held)
			_ = old.Close()
		}
		_ = door.Close()
	}()
	return c, held
}

// logged is a log, and a function that waits for a line of it.
func logged(t *testing.T) (*slog.Logger, func(part string)) {
	lines := make(writes, 100)
	return slog.New(slog.NewTextHandler(lines, nil)), func(part string) {
		for line := range lines {
			if strings.Contains(line, part) {
				return
			}
		}
	}
}

type writes chan string

func (w writes) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

func TestAcquireAtOnce(t *testing.T) {
	c := &config.Config{StateDir: t.TempDir(), RunDir: t.TempDir()}
	l, err := acquire(t.Context(), c, slog.Default())
	if err != nil || l.from != nil {
		t.Fatalf("%+v, %v", l, err)
	}
	l.release()
	c.StateDir = "/nonexistent/state"
	if l, err := acquire(t.Context(), c, slog.Default()); err == nil {
		t.Errorf("without a folder: %+v", l)
	}
}

// Who cannot be relieved is waited for: one of a release that knows nothing of it, one that ends in the middle,
// one that gives something nobody knows.
func TestAcquireFromWhoDoesNotHandOver(t *testing.T) {
	for name, give := range map[string]func(*handover.Peer, locks){
		"another release":    nil,
		"ends in the middle": func(old *handover.Peer, held locks) { _ = old.Pass(handover.Item{Kind: itemLock, File: held[0]}) },
		"gives what is not known": func(old *handover.Peer, held locks) {
			_ = old.Give([]handover.Item{{Kind: itemLock, File: held[0]}, {Kind: "crown"}})
			_ = old.Await(takeOverWithin)
		},
		"gives no right": func(old *handover.Peer, _ locks) {
			_ = old.Give(nil)
			_ = old.Await(takeOverWithin)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, held := predecessor(t, give)
			log, wait := logged(t)
			go func() {
				wait("waiting for it to end")
				held.release()
			}()
			l, err := acquire(t.Context(), c, log)
			if err != nil || l.from != nil || len(l.locks) != 2 {
				t.Fatalf("%+v, %v", l, err)
			}
			l.release()
			if again, err := first(c); err != nil {
				t.Errorf("something of what was given is still held: %v", err)
			} else {
				again.release()
			}
		})
	}
	t.Run("until told to end", func(t *testing.T) {
		c, _ := predecessor(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		log, wait := logged(t)
		go func() {
			wait("waiting for it to end")
			cancel()
		}()
		if err := run(ctx, c, log); err != nil {
			t.Error(err)
		}
	})
}

func TestAcquireFromWhoHandsOver(t *testing.T) {
	health, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = health.Close() }()
	relieved := make(chan error, 1)
	give := func(old *handover.Peer, held locks) {
		address, _ := json.Marshal("127.0.0.1:9553")
		err := old.Give([]handover.Item{
			{Kind: itemLock, File: held[0]}, {Kind: itemLock, File: held[1]},
			{Kind: itemHealth, Note: address, File: health}, {Kind: itemBell, File: health},
			{Kind: itemSocket, Note: json.RawMessage(`{"Key":{"ContainerID":"c","IfName":"eth0"},"Nameserver":"10.96.0.10","Kind":"udp"}`), File: health},
		})
		if err == nil {
			err = old.Await(takeOverWithin)
		}
		held.release()
		relieved <- err
	}
	c, _ := predecessor(t, give)
	l, err := acquire(t.Context(), c, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	if len(l.locks) != 2 || l.health == nil || l.bell == nil || len(l.sockets) != 1 || l.sockets[0].Key.ContainerID != "c" {
		t.Errorf("%+v", l)
	}
	if err := l.from.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-relieved; err != nil {
		t.Fatal(err)
	}
	// The folders never were free.
	if other, err := first(c); err == nil {
		t.Errorf("anybody can have them: %+v", other)
	}
}

// Who ends before the new one commits leaves it responsible; who only hangs up stays so himself.
func TestCommitToWhoIsGone(t *testing.T) {
	for name, ends := range map[string]bool{"has ended": true, "has changed its mind": false} {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{})
			c, _ := predecessor(t, func(old *handover.Peer, held locks) {
				_ = old.Give([]handover.Item{{Kind: itemLock, File: held[0]}, {Kind: itemLock, File: held[1]}})
				_ = old.Close()
				if ends {
					held.release()
				}
				close(gone)
			})
			l, err := acquire(t.Context(), c, slog.Default())
			if err != nil {
				t.Fatal(err)
			}
			defer l.release()
			<-gone
			if err := l.commit(c); (err == nil) != ends {
				t.Errorf("commit: %v", err)
			}
			if other, err := first(c); err == nil {
				t.Errorf("anybody can have the folders: %+v", other)
			}
		})
	}
}
