package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodens-dns/nodens/ebpf"
)

// When sockets are looked through: at the start, when somebody leaves and once more when that has
// settled, when one is due, when one comes while others drain, after an error; and never else.
func TestDrainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		moves := make(chan ebpf.Move)
		var log bytes.Buffer
		var mu sync.Mutex // guards what follows
		var looks []time.Duration
		var next ebpf.Ended
		var err error
		d := &drainer{
			log: slog.New(slog.NewTextHandler(&log, nil)), moves: moves,
			end: func() (ebpf.Ended, error) {
				mu.Lock()
				defer mu.Unlock()
				looks = append(looks, time.Since(start))
				return next, err
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		mu.Lock()
		defer mu.Unlock()
		go func() { d.run(ctx); close(done) }()
		want := func(what string, at ...time.Duration) {
			t.Helper()
			if fmt.Sprint(looks) != fmt.Sprint(at) {
				t.Errorf("%s: looked at %v, want %v", what, looks, at)
			}
			looks = nil
		}
		at := func(seconds int) time.Duration { return time.Duration(seconds) * time.Second }
		pass := func(seconds int) {
			mu.Unlock()
			time.Sleep(at(seconds))
			synctest.Wait()
			mu.Lock()
		}

		pass(0)
		want("the start", 0)
		pass(10)
		moves <- ebpf.Move{Came: true}
		pass(10)
		want("one comes")
		next = ebpf.Ended{UDP: 1, Draining: 2, Next: at(30)}
		moves <- ebpf.Move{Left: true}
		pass(1)
		want("one leaves", at(20), at(21))
		if d.waits.Load() != 2 {
			t.Errorf("%d wait, want 2", d.waits.Load())
		}
		pass(9)
		next = ebpf.Ended{Draining: 1, Next: at(5)}
		moves <- ebpf.Move{Came: true}
		pass(1)
		want("one comes while others drain", at(30), at(31))
		err = errors.New("closed today")
		next = ebpf.Ended{}
		pass(6)
		want("one is due, and it fails", at(36), at(37))
		err = nil
		pass(100)
		want("it works again", at(38))
		cancel()
		<-done
		for text, n := range map[string]int{"udp=1": 2, "closed today": 1} {
			if strings.Count(log.String(), text) != n {
				t.Errorf("%q is not logged %d times:\n%s", text, n, &log)
			}
		}
	})
}
