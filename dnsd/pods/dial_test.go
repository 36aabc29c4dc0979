package pods

import (
	"errors"
	"net"
	"sync"
	"testing"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

// A pod goes while its queries leave: each either gets a connection or hears that there is none any
// more, and nobody uses a descriptor that is somebody else's by then.
func TestClosedWhileDialling(t *testing.T) {
	sandbox.Root(t)
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	for range 100 {
		inside, _, err := home()
		if err != nil {
			t.Fatal(err)
		}
		outside, _, err := home()
		if err != nil {
			t.Fatal(err)
		}
		d := newDialer(namespace{pod: inside, home: outside})
		var dialling sync.WaitGroup
		for i := range 8 {
			dialling.Go(func() {
				c, err := d.DialContext(t.Context(), "udp", server.LocalAddr().String())
				switch {
				case err == nil:
					_ = c.Close()
				case !errors.Is(err, net.ErrClosed):
					t.Error(err)
				}
				if i == 4 {
					d.close()
				}
			})
		}
		dialling.Wait()
		_ = outside.Close()
	}
}
