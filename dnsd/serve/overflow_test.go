package serve

import (
	"net"
	"testing"
)

// What comes faster than it is read is lost, and counted, also when the socket is gone.
func TestOverflow(t *testing.T) {
	conn, ln := listen(t)
	_ = ln.Close()
	u, err := TakeUDP(conn)
	if err != nil {
		t.Fatal(err)
	}
	sender, err := net.Dial("udp", u.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sender.Close() }()
	packet := make([]byte, 1200)
	for range 10_000 { // more than any default buffer holds
		if _, err := sender.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	lost := u.Lost()
	if lost == 0 || lost >= 10_000 {
		t.Errorf("%d are lost", lost)
	}
	s := newServer(nil)
	k := s.enter(client(), "udp")
	k.hold(u)
	if got := s.Stats().Overflowed; got != lost {
		t.Errorf("%d are counted, want %d", got, lost)
	}
	_ = u.Close()
	k.drop(u)
	s.leave(k)
	if got := s.Stats().Overflowed; got != lost {
		t.Errorf("%d are counted when the socket is gone, want %d", got, lost)
	}
}
