package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// identity makes a certificate for names and addresses, and the pool that trusts it.
func identity(t *testing.T, names ...string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// tlsServer is a DNS server over TLS that answers each question on a connection by itself, in whatever
// order.
type tlsServer struct {
	addr        netip.AddrPort
	handle      func(q *dns.Msg) *dns.Msg
	connections atomic.Int64
	questions   atomic.Int64
	deaf        atomic.Int64 // the connection, counted from 1, that gets no answers
	mu          sync.Mutex
	open        []net.Conn
}

func serveTLS(t *testing.T, cert tls.Certificate, h func(q *dns.Msg) *dns.Msg) *tlsServer {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	s := &tlsServer{addr: must1(t, ln.Addr().String()), handle: h}
	t.Cleanup(func() { _ = ln.Close(); s.hangUp() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.take(conn)
		}
	}()
	return s
}

// pipeTLS is a server over TLS without sockets, for tests whose time is not real, and a client of it. They
// part when the test ends.
func pipeTLS(t *testing.T, h func(q *dns.Msg) *dns.Msg) (*tlsServer, *Client) {
	t.Helper()
	cert, roots := identity(t, "192.0.2.1")
	s := &tlsServer{addr: must1(t, "192.0.2.1:853"), handle: h}
	c := New(overTLS(roots, "", s.addr))
	c.zones["."].links[s.addr].dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		near, far := net.Pipe()
		s.take(tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}}))
		conn := tls.Client(near, &tls.Config{RootCAs: roots, ServerName: "192.0.2.1"})
		return conn, conn.HandshakeContext(ctx)
	}
	t.Cleanup(s.hangUp)
	return s, c
}

// take talks over conn from now on.
func (s *tlsServer) take(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = append(s.open, conn)
	go s.talk(conn, s.connections.Add(1))
}

func (s *tlsServer) talk(conn net.Conn, n int64) {
	defer func() { _ = conn.Close() }()
	var writing sync.Mutex
	for {
		packet, err := readMessage(conn)
		if err != nil {
			return
		}
		s.questions.Add(1)
		if n == s.deaf.Load() {
			continue
		}
		go func() {
			m := s.handle(parse(packet))
			if m == nil {
				return
			}
			wire := pack(m)
			writing.Lock()
			defer writing.Unlock()
			_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...))
		}()
	}
}

// hangUp closes every connection.
func (s *tlsServer) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.open {
		_ = conn.Close()
	}
	s.open = nil
}

func overTLS(roots *x509.CertPool, name string, addrs ...netip.AddrPort) Options {
	z := Zone{Name: "."}
	for _, a := range addrs {
		z.Servers = append(z.Servers, Server{Addr: a, TLS: &tls.Config{RootCAs: roots, ServerName: name}})
	}
	return Options{Zones: []Zone{z}}
}

func askOver(t *testing.T, c *Client, name string) error {
	t.Helper()
	m, err := c.Exchange(t.Context(), Servers{}, query(name, dns.TypeA))
	if err == nil {
		expectA(t, m, "192.0.2.1")
	}
	return err
}

func echoing(q *dns.Msg) *dns.Msg { return reply(q, q.Question[0].Name+" 60 IN A 192.0.2.1") }

func TestOverTLS(t *testing.T) {
	cert, roots := identity(t, "dns.corp.example", "127.0.0.1")
	s := serveTLS(t, cert, echoing)
	for _, name := range []string{"dns.corp.example", ""} { // "": the address is what must be proven
		c := New(overTLS(roots, name, s.addr))
		for i := range 20 {
			if err := askOver(t, c, fmt.Sprintf("w%d.example.com.", i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := s.connections.Load(); n != 2 {
		t.Errorf("%d connections for two clients that ask one question at a time", n)
	}
}

// A server that cannot prove who it is learns nothing, and there is no way around it.
func TestWrongIdentity(t *testing.T) {
	cert, roots := identity(t, "dns.corp.example")
	_, others := identity(t, "dns.corp.example")
	s := serveTLS(t, cert, echoing)
	for what, o := range map[string]Options{
		"another name":    overTLS(roots, "dns.evil.example", s.addr),
		"no such address": overTLS(roots, "", s.addr),
		"another issuer":  overTLS(others, "dns.corp.example", s.addr),
		"the system's":    overTLS(nil, "dns.corp.example", s.addr),
	} {
		err := askOver(t, New(o), "www.example.com.")
		var unverified *tls.CertificateVerificationError
		if !errors.As(err, &unverified) || !strings.Contains(err.Error(), s.addr.String()) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	if n := s.questions.Load(); n != 0 {
		t.Errorf("it was asked %d questions", n)
	}
}

// Two hundred at once share a few connections, and a slow one keeps nobody waiting.
func TestTLSPipelining(t *testing.T) {
	cert, roots := identity(t, "127.0.0.1")
	slow := make(chan struct{})
	s := serveTLS(t, cert, func(q *dns.Msg) *dns.Msg {
		if q.Question[0].Name == "slow.example.com." {
			<-slow
		}
		return echoing(q)
	})
	c := New(overTLS(roots, "", s.addr))
	var wg sync.WaitGroup
	late := make(chan error, 1)
	go func() { late <- askOver(t, c, "slow.example.com.") }()
	for i := range 200 {
		wg.Go(func() {
			if err := askOver(t, c, fmt.Sprintf("w%d.example.com.", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(slow)
	if err := <-late; err != nil {
		t.Error(err)
	}
	if n := s.connections.Load(); n > maxStreams {
		t.Errorf("%d connections", n)
	}
}

// A server may close a connection whenever it likes; the next question does not notice.
func TestTLSReconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := pipeTLS(t, echoing)
		for i := range 10 {
			m, took, err := timed(t, c, Servers{}, fmt.Sprintf("w%d.example.com.", i))
			expectA(t, must(t, m, err), "192.0.2.1")
			if took != 0 {
				t.Errorf("a question after the connection went took %v", took)
			}
			s.hangUp()
		}
		if n := c.Stats().Servers[0].Failures; n != 0 || s.connections.Load() != 10 {
			t.Errorf("%d failures blamed on the server, %d connections", n, s.connections.Load())
		}
	})
}

// The same over sockets, where the end of a connection may come to light only when it is used.
func TestTLSReconnectsOverSockets(t *testing.T) {
	cert, roots := identity(t, "127.0.0.1")
	s := serveTLS(t, cert, echoing)
	c := New(overTLS(roots, "", s.addr))
	for i := range 10 {
		if err := askOver(t, c, fmt.Sprintf("w%d.example.com.", i)); err != nil {
			t.Fatal(err)
		}
		s.hangUp()
	}
	if n := c.Stats().Servers[0].Failures; n != 0 {
		t.Errorf("%d failures blamed on the server", n)
	}
}

// A connection whose other end has vanished costs one question its first try, and others nothing.
func TestTLSConnectionHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := pipeTLS(t, echoing)
		for i := range 20 {
			var want time.Duration
			if i == 1 {
				s.deaf.Store(1)
				want = firstTry
			}
			m, took, err := timed(t, c, Servers{}, fmt.Sprintf("w%d.example.com.", i))
			expectA(t, must(t, m, err), "192.0.2.1")
			if took != want {
				t.Errorf("question %d took %v, want %v", i, took, want)
			}
		}
		if n := s.connections.Load(); n != 2 {
			t.Errorf("%d connections", n)
		}
	})
}

func TestTLSFailsOver(t *testing.T) {
	cert, roots := identity(t, "127.0.0.1")
	pc, ln := listen(t)
	_, _ = pc.Close(), ln.Close()
	s := serveTLS(t, cert, echoing)
	c := New(overTLS(roots, "", must1(t, ln.Addr().String()), s.addr))
	if err := askOver(t, c, "www.example.com."); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	if _, err := c.zones["."].links[must1(t, ln.Addr().String())].exchange(ctx, pack(query("www.example.com.", dns.TypeA))); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err) // at once, not when the time is up
	}
}

// What comes over TLS is held against the question as everything else is.
func TestTLSWrongReply(t *testing.T) {
	cert, roots := identity(t, "127.0.0.1")
	s := serveTLS(t, cert, func(q *dns.Msg) *dns.Msg {
		q.Question[0].Name = "other.example.com."
		return echoing(q)
	})
	if err := askOver(t, New(overTLS(roots, "", s.addr)), "www.example.com."); !errors.Is(err, errMismatch) {
		t.Errorf("error %v", err)
	}
}
