package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netns"
)

// everywhereName is argv[1] of this program when it is to ask from many pods.
const everywhereName = "-ask-everywhere"

// everyFor is how long everywhere asks.
const everyFor = 20 * time.Second

// everywhere asks at the fixed rate in total, each question from the next pod: one process with a socket in
// each pod's network namespace.
func (s *stage) everywhere(set *names, paths []string) loader {
	return func(ctx context.Context, r *running) (out sample, err error) {
		self, err := os.Executable()
		if err != nil {
			return out, err
		}
		list := filepath.Join(s.dir, "everywhere")
		if err := os.WriteFile(list, []byte(strings.Join(paths, "\n")), 0o644); err != nil {
			return out, err
		}
		cmd := exec.CommandContext(ctx, self, everywhereName, list, set.path(workloadLocal), r.addr.String())
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, UseCgroupFD: true, CgroupFD: int(s.cgroup.Fd())}
		var text bytes.Buffer
		cmd.Stdout, cmd.Stderr = &text, os.Stderr
		if err := cmd.Run(); err != nil {
			return out, fmt.Errorf("ask everywhere: %w", err)
		}
		var took []time.Duration
		for line := range strings.FieldsSeq(text.String()) {
			ns, err := strconv.ParseInt(line, 10, 64)
			if err != nil {
				return out, err
			}
			if ns == 0 {
				out.lost++
				continue
			}
			took = append(took, time.Duration(ns))
		}
		out.done = len(took)
		out.spread(took)
		return out, nil
	}
}

// asked is what one socket has asked and got: by the query's ID, when it was sent and how long it took.
type asked struct {
	conn net.Conn
	mu   sync.Mutex
	sent []time.Time
	took []time.Duration
}

// askEverywhere is the process: it prints how many nanoseconds each query took, 0 for one that was lost.
func askEverywhere(list, questions, server string) error {
	paths, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(questions)
	if err != nil {
		return err
	}
	var packets [][]byte
	for line := range strings.Lines(string(text)) {
		packet, err := new(dns.Msg).SetQuestion(dns.Fqdn(strings.Fields(line)[0]), dns.TypeA).Pack()
		if err != nil {
			return err
		}
		packets = append(packets, packet)
	}
	var all []*asked
	for path := range strings.FieldsSeq(string(paths)) {
		conn, err := dialIn(path, server)
		if err != nil {
			return err
		}
		all = append(all, &asked{conn: conn})
	}
	var reading sync.WaitGroup
	for _, a := range all {
		reading.Go(a.read)
	}
	start := time.Now()
	for i := 0; ; i++ {
		at := time.Duration(i) * time.Second / fixedRate
		if at > everyFor {
			break
		}
		time.Sleep(at - time.Since(start)) // at once if it is late
		if err := all[i%len(all)].ask(packets[i%len(packets)]); err != nil {
			return err
		}
	}
	for _, a := range all {
		_ = a.conn.SetReadDeadline(time.Now().Add(time.Second))
	}
	reading.Wait()
	var out strings.Builder
	for _, a := range all {
		for _, took := range a.took {
			fmt.Fprintln(&out, took.Nanoseconds())
		}
	}
	_, err = os.Stdout.WriteString(out.String())
	return err
}

func (a *asked) ask(packet []byte) error {
	a.mu.Lock()
	binary.BigEndian.PutUint16(packet, uint16(len(a.sent)))
	a.sent, a.took = append(a.sent, time.Now()), append(a.took, 0)
	a.mu.Unlock()
	_, err := a.conn.Write(packet)
	return err
}

// read notes when answers come, until the deadline.
func (a *asked) read() {
	for buf := make([]byte, 1500); ; {
		n, err := a.conn.Read(buf)
		if err != nil {
			return
		}
		if n < 12 {
			continue
		}
		a.mu.Lock()
		if id := int(binary.BigEndian.Uint16(buf)); id < len(a.sent) {
			a.took[id] = time.Since(a.sent[id])
		}
		a.mu.Unlock()
	}
}

// dialIn opens a UDP socket in a network namespace. The thread that does is not used for anything else.
func dialIn(path, server string) (conn net.Conn, err error) {
	addr, err := netip.ParseAddr(server)
	if err != nil {
		return nil, err
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromPath(path)
		if err == nil {
			err = errors.Join(netns.Set(ns), ns.Close())
		}
		if err == nil {
			conn, err = net.Dial("udp", netip.AddrPortFrom(addr, 53).String())
		}
		done <- err
	}()
	return conn, <-done
}
