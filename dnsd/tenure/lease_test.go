package tenure

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/handover"
)

// options are those of a dnsd that knows items of one kind.
func options(t *testing.T) Options {
	t.Helper()
	state, run := t.TempDir(), t.TempDir()
	return Options{
		Folders: []string{state, run}, Door: filepath.Join(run, "handover.sock"), Version: "new", Kinds: []string{"socket"},
		Log: slog.New(slog.DiscardHandler), patience: takeOverWithin,
	}
}

func newKeeper(o Options) *keeper {
	k := &keeper{Options: o}
	k.story.Store(&Story{})
	return k
}

// predecessor is a dnsd that holds the folders of the options it returns, and hands over as it is told.
func predecessor(t *testing.T, give func(old *handover.Peer, held locks)) (Options, locks) {
	t.Helper()
	o := options(t)
	held, err := alone(o.Folders...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(held.release)
	if give == nil {
		return o, held
	}
	door, err := handover.Listen(o.Door, func() handover.Self { return handover.Self{Version: "old"} })
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
	return o, held
}

// logged is a log, and a function that waits for a line of it.
func logged() (*slog.Logger, func(part string)) {
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
	o := options(t)
	l, err := newKeeper(o).acquire(t.Context())
	if err != nil || l.From != nil || l.MayRefuse() {
		t.Fatalf("%+v, %v", l, err)
	}
	l.release()
	o.Folders[0] = "/nonexistent/state"
	if l, err := newKeeper(o).acquire(t.Context()); err == nil {
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
			o, held := predecessor(t, give)
			var wait func(string)
			o.Log, wait = logged()
			go func() {
				wait("waiting for it to end")
				held.release()
			}()
			k := newKeeper(o)
			l, err := k.acquire(t.Context())
			if err != nil || l.From != nil || len(l.locks) != 2 {
				t.Fatalf("%+v, %v", l, err)
			}
			l.release()
			if again, err := k.first(); err != nil {
				t.Errorf("something of what was given is still held: %v", err)
			} else {
				again.release()
			}
		})
	}
	t.Run("until told to end", func(t *testing.T) {
		o, _ := predecessor(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var wait func(string)
		o.Log, wait = logged()
		go func() {
			wait("waiting for it to end")
			cancel()
		}()
		if err := Run(ctx, o); err != nil {
			t.Error(err)
		}
	})
}

func TestAcquireFromWhoHandsOver(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	relieved := make(chan error, 1)
	o, _ := predecessor(t, func(old *handover.Peer, held locks) {
		err := old.Give([]handover.Item{
			{Kind: itemLock, File: held[0]}, {Kind: itemLock, File: held[1]},
			{Kind: "socket", Note: json.RawMessage(`{"Nameserver":"10.96.0.10"}`), File: null},
		})
		if err == nil {
			err = old.Await(takeOverWithin)
		}
		held.release()
		relieved <- err
	})
	k := newKeeper(o)
	l, err := k.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	defer closeAll(l.Items)
	if len(l.locks) != 2 || len(l.Items) != 1 || !strings.Contains(string(l.Items[0].Note), "10.96.0.10") || l.From.Version != "old" || !l.MayRefuse() {
		t.Errorf("%+v", l)
	}
	if err := l.commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-relieved; err != nil {
		t.Fatal(err)
	}
	// The folders never were free.
	if other, err := k.first(); err == nil {
		t.Errorf("anybody can have them: %+v", other)
	}
}

// Who ends before the new one commits leaves it responsible; who only hangs up stays so himself.
func TestCommitToWhoIsGone(t *testing.T) {
	for name, ends := range map[string]bool{"has ended": true, "has changed its mind": false} {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{})
			o, _ := predecessor(t, func(old *handover.Peer, held locks) {
				_ = old.Give([]handover.Item{{Kind: itemLock, File: held[0]}, {Kind: itemLock, File: held[1]}})
				_ = old.Close()
				if ends {
					held.release()
				}
				close(gone)
			})
			k := newKeeper(o)
			l, err := k.acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer l.release()
			<-gone
			if err := l.commit(); (err == nil) != ends {
				t.Errorf("commit: %v", err)
			}
			if other, err := k.first(); err == nil {
				t.Errorf("anybody can have the folders: %+v", other)
			}
		})
	}
}
