package serve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// stream is a TCP client that writes and reads messages as it likes.
type stream struct {
	*net.TCPConn
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *stream {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &stream{conn.(*net.TCPConn), bufio.NewReader(conn)}
}

func framed(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	packed, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...)
}

func (s *stream) send(t testing.TB, m *dns.Msg) {
	t.Helper()
	if _, err := s.Write(framed(t, m)); err != nil {
		t.Fatal(err)
	}
}

func (s *stream) receive(t testing.TB) *dns.Msg {
	t.Helper()
	packet, err := readMessage(s, s.r)
	if err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(packet); err != nil {
		t.Fatalf("%x: %v", packet, err)
	}
	return m
}

func readMessage(conn net.Conn, r *bufio.Reader) ([]byte, error) {
	return (&reader{Reader: r, conn: conn, retiring: context.Background()}).message()
}

// slowly is an upstream without an end to its patience: it answers slow.example. once released, and all else
// at once.
func slowly(released <-chan struct{}, asked *atomic.Int64) stub {
	return func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
		asked.Add(1)
		if m.Question[0].Name == "slow.example." {
			<-released
		}
		r := new(dns.Msg).SetReply(m)
		r.Answer = []dns.RR{&dns.A{Hdr: header(m.Question[0].Name, dns.TypeA, 60), A: net.IPv4(203, 0, 113, 5)}}
		return r, nil
	}
}

func TestTCPAnswersAsTheyAreReady(t *testing.T) {
	release := make(chan struct{})
	s := newServer(table())
	s.upstream = slowly(release, new(atomic.Int64))
	conn := dial(t, start(t, s, client()))
	slow, fast := question("slow.example.", dns.TypeA), question("api.partner.test.", dns.TypeA)
	conn.send(t, slow)
	for range 300 {
		conn.send(t, fast)
		if r := conn.receive(t); r.Id != fast.Id {
			t.Fatalf("%v", r)
		}
	}
	// What has been asked is answered even when the client says no more.
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	close(release)
	if r := conn.receive(t); r.Id != slow.Id || len(r.Answer) != 1 {
		t.Fatalf("%v", r)
	}
	if _, err := conn.r.ReadByte(); err != io.EOF {
		t.Errorf("after the last answer: %v", err)
	}
}

func TestTCPQueriesInOnePieceAndInMany(t *testing.T) {
	addr := start(t, newServer(table()), client())
	conn := dial(t, addr)
	one := framed(t, question("api.partner.test.", dns.TypeA))
	if _, err := conn.Write(bytes.Repeat(one, 500)); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		conn.receive(t)
	}
	for i := range one {
		if _, err := conn.Write(one[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	conn.receive(t)
}

func TestTCPIdleConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		s := newServer(table())
		c := client()
		go s.enter(c, "tcp").serveConn(context.Background(), theirs)
		r := bufio.NewReader(ours)
		ask := func() error {
			if _, err := ours.Write(framed(t, question("api.partner.test.", dns.TypeA))); err != nil {
				return err
			}
			_, err := readMessage(ours, r)
			return err
		}
		for range 3 { // each query begins the time anew
			if err := ask(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(idle - time.Second)
		}
		time.Sleep(2 * time.Second)
		if err := ask(); err == nil {
			t.Error("answered after the idle time")
		}
	})
}

func TestTCPConnectionsAreBounded(t *testing.T) {
	s := newServer(table())
	addr := start(t, s, client())
	for range maxConnections {
		dial(t, addr)
	}
	eventually(t, "all connections are served", func() bool { return s.Stats().Connections == maxConnections })
	if _, err := dial(t, addr).r.ReadByte(); err == nil {
		t.Error("one more connection was served")
	}
	if s.Stats().Dropped == 0 {
		t.Error("the connection that was turned away is not counted")
	}
}

// What is no listener is refused, and nothing of it stays open.
func TestTakeTCPKeepsNothingItRefuses(t *testing.T) {
	conn, ln := listen(t)
	_ = ln.Close()
	file, err := conn.File()
	if err != nil {
		t.Fatal(err)
	}
	var socket unix.Stat_t
	err = unix.Fstat(int(file.Fd()), &socket)
	_ = file.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TakeTCP(conn); err == nil {
		t.Fatal("a UDP socket was taken")
	}
	open, err := filepath.Glob("/proc/self/fd/*")
	if err != nil || len(open) == 0 {
		t.Fatalf("%d descriptors, %v", len(open), err)
	}
	name := fmt.Sprintf("socket:[%d]", socket.Ino)
	for _, fd := range open {
		if is, err := os.Readlink(fd); err == nil && is == name {
			t.Errorf("%s is still %s", fd, is)
		}
	}
	pipe, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = other.Close()
	if _, err := TakeTCP(pipe); !errors.Is(err, unix.ENOTSOCK) {
		t.Errorf("a pipe: %v", err)
	}
	if _, err := unix.FcntlInt(0, unix.F_GETFD, 0); err != nil {
		t.Errorf("standard input: %v", err)
	}
}

// A process that has no descriptor to spare lets connections wait, and goes on when it has.
func TestWithoutDescriptorsConnectionsWait(t *testing.T) {
	conn, ln := listen(t)
	_ = conn.Close()
	tcp := takeTCP(t, ln)
	l, err := newLoop(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	s := newServer(table())
	a := &accepting{service: s.newService(client(), "tcp", &tcp.descriptor), tcp: tcp}
	id, err := l.add(a)
	if err != nil {
		t.Fatal(err)
	}
	waits := dial(t, tcp.Addr().String())
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	l.turn(id, a, nil, now)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if len(l.resting) != 1 || l.find(id) == nil {
		t.Fatalf("after it failed: resting %v", l.resting)
	}
	l.resume(now.Add(scarcePause))
	if n, err := unix.EpollWait(l.epoll, make([]unix.EpollEvent, 8), 0); len(l.resting) != 0 || n != 1 {
		t.Fatalf("after a pause: resting %v, %d ready, %v", l.resting, n, err)
	}
	l.turn(id, a, nil, now.Add(scarcePause))
	waits.send(t, question("api.partner.test.", dns.TypeA))
	waits.receive(t)
	_ = waits.Close()
	a.asking.Wait()
}

// What cannot be read for want of memory is read later; what cannot be read at all ends.
func TestScarceMemoryEndsNoSocket(t *testing.T) {
	l, err := newLoop(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	u := take(t)
	s := newServer(nil)
	d := &datagrams{service: s.newService(client(), "udp", &u.descriptor), udp: u}
	ended := make(chan error, 1)
	d.self, d.ended, d.loosen = d, func(err error) { ended <- err }, func() bool { return true }
	id, err := l.add(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, passing := range []error{unix.ENOMEM, unix.ENOBUFS, unix.ENOSPC} { // the last: more are waited for than a user may
		if rest := l.failed(id, d, passing); rest == 0 || l.find(id) == nil {
			t.Errorf("%v: rests for %v", passing, rest)
		}
	}
	if rest := l.failed(id, d, unix.EBADF); rest != 0 || l.find(id) != nil {
		t.Errorf("it rests for %v", rest)
	}
	if err := <-ended; !errors.Is(err, unix.EBADF) {
		t.Error(err)
	}
}

func TestClosingTheListenerClosesItsConnections(t *testing.T) {
	_, tcp := listen(t)
	ln := takeTCP(t, tcp)
	done := make(chan error)
	newServer(nil).ServeTCP(ln, client(), func(err error) { done <- err })
	conn := dial(t, ln.Addr().String())
	conn.send(t, question("api.partner.test.", dns.TypeA)) // has nobody to ask: the answer is a failure
	conn.receive(t)
	_ = ln.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := conn.r.ReadByte(); err != io.EOF {
		t.Errorf("the connection ended with %v", err)
	}
}

// Nothing is added to a listener that has failed while what is under way is waited for.
func TestNothingIsAddedToWhatEnds(t *testing.T) {
	release := make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	var asked atomic.Int64
	s := newServer(table())
	s.upstream = slowly(release, &asked)
	_, tcp := listen(t)
	ln := takeTCP(t, tcp)
	done := make(chan error)
	s.ServeTCP(ln, client(), func(err error) { done <- err })
	dial(t, ln.Addr().String()).send(t, question("slow.example.", dns.TypeA))
	eventually(t, "it is being asked", func() bool { return asked.Load() == 1 })
	go ln.by.end(unix.EIO)
	eventually(t, "it ends", func() bool { return ln.by.ctx.Err() != nil })
	udp, other := listen(t)
	defer func() { _, _ = udp.Close(), other.Close() }()
	conn := dial(t, other.Addr().String())
	if ln.Add(conn.TCPConn, nil) {
		t.Error("a connection was added")
	}
	free()
	if err := <-done; !errors.Is(err, unix.EIO) {
		t.Error(err)
	}
}

func TestTruncation(t *testing.T) {
	giant := func(w dns.ResponseWriter, m *dns.Msg) { // ignores every limit, as some servers do
		r := new(dns.Msg).SetReply(m)
		for i := range byte(100) {
			r.Answer = append(r.Answer, &dns.A{Hdr: header(m.Question[0].Name, dns.TypeA, 60), A: net.IPv4(10, 0, 0, i)})
		}
		_ = w.WriteMsg(r)
	}
	s := newServer(table())
	addr := start(t, s, client(startNameserver(t, giant)))
	for _, name := range []string{"many.partner.test.", "giant.public.example."} {
		for _, tc := range []struct {
			network string
			edns    uint16
			answers int
		}{{"udp", 0, 28}, {"udp", 100, 28}, {"udp", 1232, 73}, {"udp", 4096, 100}, {"tcp", 0, 100}, {"tcp", 512, 100}} {
			m := question(name, dns.TypeA)
			if tc.edns > 0 {
				m.SetEdns0(tc.edns, false)
			}
			r := exchange(t, tc.network, addr, m)
			if len(r.Answer) < tc.answers || len(r.Answer) > tc.answers+1 || r.Truncated != (tc.answers < 100) {
				t.Errorf("%s %s, EDNS %d: %d answers, TC %v; want %d", tc.network, name, tc.edns, len(r.Answer), r.Truncated, tc.answers)
			}
		}
	}
	if s.Stats().Truncated != 6 {
		t.Errorf("%+v", s.Stats())
	}
}

// recorder is a nameserver that keeps each packet as it came and answers with its header and a mark.
func recorder(t *testing.T) (*nameserver, func() []byte) {
	conn, ln := listen(t)
	t.Cleanup(func() { _, _ = conn.Close(), ln.Close() })
	packets := make(chan []byte, 16)
	go func() {
		buf := make([]byte, dns.MaxMsgSize)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			packets <- bytes.Clone(buf[:n])
			_, _ = conn.WriteToUDPAddrPort(append(bytes.Clone(buf[:headerSize]), "mark"...), from)
		}
	}()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if packet, err := readMessage(conn, bufio.NewReader(conn)); err == nil {
				packets <- packet
				reply := append(bytes.Clone(packet[:headerSize]), "mark"...)
				_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
			}
			_ = conn.Close()
		}
	}()
	return &nameserver{addr: conn.LocalAddr().(*net.UDPAddr).AddrPort()}, func() []byte {
		select {
		case p := <-packets:
			return p
		case <-time.After(patience):
			return nil
		}
	}
}

func TestWhatIsNoPlainQuestionIsPassedOn(t *testing.T) {
	ns, next := recorder(t)
	s := newServer(table())
	addr := start(t, s, client(ns))
	with := func(change func(*dns.Msg)) []byte {
		m := question("api.partner.test.", dns.TypeA)
		change(m)
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	packets := map[string][]byte{
		"update":        with(func(m *dns.Msg) { m.SetUpdate("example.") }),
		"notify":        with(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }),
		"chaos":         with(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }),
		"transfer":      with(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeIXFR; m.Ns = []dns.RR{soa("example.")} }),
		"two questions": with(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }),
		"no question":   with(func(m *dns.Msg) { m.Question = nil }),
		"signed":        with(func(m *dns.Msg) { m.SetTsig("key.", dns.HmacSHA256, 300, 1) }),
		"two OPT":       with(func(m *dns.Msg) { m.SetEdns0(1232, false).SetEdns0(1232, false) }),
		"no DNS at all": []byte("\x01\x00\x00\x00 this is WireGuard on port 53"),
	}
	for what, packet := range packets {
		for _, network := range networks {
			var reply []byte
			if network == "udp" {
				reply = raw(t, addr, packet, patience)
			} else {
				conn := dial(t, addr)
				_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...))
				reply, _ = readMessage(conn, conn.r)
			}
			if !bytes.HasSuffix(reply, []byte("mark")) {
				t.Errorf("%s over %s: reply %q", what, network, reply)
				continue
			}
			if got := next(); !bytes.Equal(got, packet) {
				t.Errorf("%s over %s arrived as %q, not %q", what, network, got, packet)
			}
		}
	}
	if got := s.Stats().Passed; got != uint64(2*len(packets)) {
		t.Errorf("%d counted", got)
	}
}

func TestGarbageIsThrownAway(t *testing.T) {
	s := newServer(table())
	addr := start(t, s, client())
	for _, packet := range [][]byte{nil, {0}, []byte("short query"), make([]byte, maxQuery)} {
		if reply := raw(t, addr, packet, 10*time.Millisecond); reply != nil {
			t.Errorf("%q was answered %q", packet, reply)
		}
	}
	conn := dial(t, addr)
	_, _ = conn.Write([]byte("\x00\x03abc"))
	if _, err := conn.r.ReadByte(); err != io.EOF {
		t.Errorf("a TCP connection with garbage ended with %v", err)
	}
	eventually(t, "all of it is counted", func() bool { return s.Stats().Malformed == 5 })
	exchange(t, "udp", addr, question("api.partner.test.", dns.TypeA))
}

// A pod that has used up its share is not answered for a while, from the table it is, and others do not
// notice.
func TestPodsShareUpstreamFairly(t *testing.T) {
	release := make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	t.Cleanup(free)
	var asked atomic.Int64
	s := newServer(table())
	s.upstream, s.inFlight = slowly(release, &asked), 1
	greedy, modest := client(), client()
	modest.Pod = "shop/modest"
	addr, other := start(t, s, greedy), start(t, s, greedy)
	packed, _ := question("slow.example.", dns.TypeA).Pack()
	raw(t, addr, packed, time.Millisecond)
	eventually(t, "the first question is upstream", func() bool { return asked.Load() == 1 })

	packed, _ = question("public.example.", dns.TypeA).Pack()
	if reply := raw(t, other, packed, 20*time.Millisecond); reply != nil {
		t.Errorf("over the limit, on another socket of the pod: %q", reply)
	}
	eventually(t, "the second is counted", func() bool { return s.Stats().Dropped == 1 })
	exchange(t, "udp", addr, question("api.partner.test.", dns.TypeA))
	exchange(t, "udp", start(t, s, modest), question("public.example.", dns.TypeA))
	free()
	eventually(t, "the pod has its share back", func() bool { return raw(t, addr, packed, 50*time.Millisecond) != nil })
}

func TestGatesGoWithTheirPods(t *testing.T) {
	s := newServer(nil)
	t.Run("serve", func(t *testing.T) { start(t, s, client()) })
	if len(s.gates) != 0 {
		t.Errorf("%d gates are left", len(s.gates))
	}
}
