package upstream

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func must1(t *testing.T, s string) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestForward(t *testing.T) {
	seen := make(chan []byte, 1)
	addr := raw(t, func(send func([]byte), _ net.Addr, packet []byte) {
		seen <- bytes.Clone(packet)
		late := append([]byte{packet[0] ^ 1}, packet[1:]...)
		send(late)
		send(packet[:2])
		send(append(packet, "signed"...))
	})
	packet := append([]byte{0xab, 0xcd, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0}, "anything, with a signature"...)
	got, err := New(Options{}).Forward(t.Context(), to(addr, dead(t)), "udp", packet)
	if err != nil || string(got) != string(packet)+"signed" {
		t.Fatalf("got %q, %v", got, err)
	}
	if got := <-seen; !bytes.Equal(got, packet) {
		t.Errorf("the server saw %q", got)
	}
}

func TestForwardTCP(t *testing.T) {
	s := serve(t, func(_ string, q *dns.Msg) *dns.Msg { return rcode(q, dns.RcodeNotAuth) })
	u := new(dns.Msg).SetUpdate("example.com.")
	packet, err := u.Pack()
	if err != nil {
		t.Fatal(err)
	}
	got, err := New(Options{}).Forward(t.Context(), to(s.addr), "tcp", packet)
	if err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(got); err != nil || m.Id != u.Id || m.Rcode != dns.RcodeNotAuth || s.tcp.Load() != 1 {
		t.Errorf("%v, %v, %d over TCP", m, err, s.tcp.Load())
	}
}

func TestForwardFails(t *testing.T) {
	c := New(Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Forward(ctx, to(dead(t)), "udp", make([]byte, 12)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silence: %v", err)
	}
	if _, err := c.Forward(t.Context(), to(dead(t)), "udp", make([]byte, 11)); err == nil {
		t.Error("a fragment of a header was sent")
	}
	if _, err := c.Forward(t.Context(), Servers{}, "udp", make([]byte, 12)); err == nil {
		t.Error("forwarded to nobody")
	}
}

func TestResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	file := "# by hand\nnameserver 192.0.2.53\nnameserver 2001:db8::53\nnameserver fe80::1%eth0\nnameserver ns.example\nsearch a.example b.example\noptions ndots:5\n"
	if err := os.WriteFile(path, []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	want := []netip.AddrPort{must1(t, "192.0.2.53:53"), must1(t, "[2001:db8::53]:53"), must1(t, "[fe80::1%eth0]:53")}
	servers, search, err := ResolvConf(path)
	if err != nil || !reflect.DeepEqual(servers, want) || !reflect.DeepEqual(search, []string{"a.example", "b.example"}) {
		t.Errorf("%v, %v, %v", servers, search, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ResolvConf(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
