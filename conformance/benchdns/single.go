package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// singleName is argv[1] of this program when it is to ask one question after the other in a pod: what is
// then timed is the way there and back, and not how a client that has many under way shares its time.
const singleName = "-one-by-one"

// singles asks for the names of the cluster by one socket, each when the one before is answered.
func (s *stage) singles(set *names, d time.Duration) loader {
	return func(ctx context.Context, r *running) (sample, error) {
		return s.timed(ctx, r, nil, singleName, set.path(workloadNear), seconds(d), r.addr.String())
	}
}

// askOneByOne is the process in the pod. It prints as lookNamesUp does. The socket is one that blocks: a
// poller would take longer than some servers.
func askOneByOne(file, limit, server string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	d, err := strconv.ParseFloat(limit, 64)
	if err != nil {
		return err
	}
	addr, err := netip.ParseAddr(server)
	if err != nil {
		return err
	}
	var packets [][]byte
	for name := range strings.FieldsSeq(string(text)) {
		packet, err := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA).Pack()
		if err != nil {
			return err
		}
		packets = append(packets, packet)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return fmt.Errorf("limit a socket's patience: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: addr.As4(), Port: 53}); err != nil {
		return fmt.Errorf("connect to %s: %w", addr, err)
	}
	var out strings.Builder
	buf := make([]byte, 1500)
	deadline := time.Now().Add(time.Duration(d * float64(time.Second)))
	for i := 0; ; i++ {
		start := time.Now()
		if start.After(deadline) {
			break
		}
		n := 0
		if _, err = unix.Write(fd, packets[i%len(packets)]); err == nil {
			n, err = unix.Read(fd, buf)
		}
		took := time.Since(start)
		if err != nil || n < 12 || buf[7] == 0 { // without an answer
			took = 0
		}
		fmt.Fprintln(&out, took.Nanoseconds())
	}
	_, err = os.Stdout.WriteString(out.String())
	return err
}
