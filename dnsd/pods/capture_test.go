package pods

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/ebpf"
)

func TestPodIsAnsweredByUs(t *testing.T) {
	n := newNode(t)
	n.start()
	ns, a := n.pod("web-0")
	n.must(n.add(a))

	p := n.wait(a, Captured, "")
	if p.Namespace != "default" || p.Name != "web-0" || p.Cookie != a.NetnsCookie || p.Since.IsZero() {
		t.Errorf("listed as %+v", p)
	}
	servers := []netip.AddrPort{netip.MustParseAddrPort("10.96.0.10:53"), netip.MustParseAddrPort("[fd96::10]:53")}
	if got := n.pods.Nameservers(); !slices.Equal(got, servers) {
		t.Errorf("nameservers %v, want %v", got, servers)
	}
	row := n.rows()[a.NetnsCookie]
	if !row.DNS || !row.LB || row.View != ebpf.ViewOf("default") || row.Ifindex == 0 || !slices.Equal(row.Nameservers, p.Nameservers) {
		t.Errorf("row %+v, listed %+v", row, p.Nameservers)
	}
	for i, at := range []string{"10.96.0.10:53", "[fd96::10]:53"} {
		if port := p.Nameservers[i].Port; port < ebpf.PortLow || port > ebpf.PortHigh {
			t.Errorf("port %d is outside the band", port)
		}
		for _, network := range []string{"udp", "tcp"} {
			t.Run(network+" "+at, func(t *testing.T) {
				conn, err := dial(ns, network, at)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				if got := conn.RemoteAddr().String(); got != at {
					t.Errorf("the pod sees %s as its peer", got)
				}
				if got, err := query(conn, "vip.example.com."); err != nil || got != ours {
					t.Errorf("our name: %v, %v", got, err)
				}
				name := fmt.Sprintf("host%d.%s.example.org.", i, network)
				if got, err := query(conn, name); err != nil || got != theirs {
					t.Errorf("another name: %v, %v", got, err)
				}
				n.wasAsked(name, network)
			})
		}
	}
	t.Run("unconnected", func(t *testing.T) { n.unconnected(ns) })
	n.must(n.ring(attach.OpCheck, a.Key()))
	n.del(a)
	n.threads(a)
}

// wasAsked fails the test unless the nameserver was asked for name, over UDP, by the pod itself.
func (n *node) wasAsked(name, network string) {
	n.t.Helper()
	for {
		select {
		case q := <-n.asked:
			if q.name != name {
				continue
			}
			if from := q.from.Addr().String(); from != "10.96.0.5" && from != "fd96::5" {
				n.t.Errorf("%s over %s: the nameserver was asked by %s, not by the pod", name, network, from)
			}
			return
		default:
			n.t.Errorf("%s over %s: the nameserver was not asked", name, network)
			return
		}
	}
}

// unconnected asks both nameservers over unconnected sockets, as musl does.
func (n *node) unconnected(ns interface{ Do(func() error) error }) {
	n.t.Helper()
	for network, at := range map[string]string{"udp4": "10.96.0.10:53", "udp6": "[fd96::10]:53"} {
		n.must(ns.Do(func() error {
			conn, err := net.ListenPacket(network, ":0")
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			packet, err := new(dns.Msg).SetQuestion("vip.example.com.", dns.TypeA).Pack()
			if err != nil {
				return err
			}
			if _, err := conn.WriteTo(packet, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at))); err != nil {
				return err
			}
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			_, from, err := conn.ReadFrom(packet[:cap(packet)])
			if err == nil && from.String() != at {
				return fmt.Errorf("%s: the answer comes from %s", at, from)
			}
			return err
		}))
	}
}

func TestListenersAreForThePodOnly(t *testing.T) {
	n := newNode(t)
	n.start()
	_, a := n.pod("web-0")
	n.must(n.add(a))
	p := n.wait(a, Captured, "")
	for i, addr := range []string{"10.96.0.5", "fd96::5"} {
		at := netip.AddrPortFrom(netip.MustParseAddr(addr), p.Nameservers[i].Port).String()
		err := n.infra.Do(func() error {
			if c, err := net.DialTimeout("tcp", at, 300*time.Millisecond); err == nil {
				_ = c.Close()
				return fmt.Errorf("tcp %s is open to others", at)
			}
			return nil
		})
		n.must(err)
		conn, err := dial(n.infra, "udp", at)
		n.must(err)
		packet, err := new(dns.Msg).SetQuestion("vip.example.com.", dns.TypeA).Pack()
		n.must(err)
		_, err = conn.Write(packet)
		n.must(err)
		_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := conn.Read(packet); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("udp %s: %v, want silence", at, err)
		}
		_ = conn.Close()
	}
}

// A namespace lives as long as any socket in it. Whatever is under way, DEL ends it.
func TestDelFreesTheNamespace(t *testing.T) {
	n := newNode(t)
	n.start()
	ns, a := n.pod("web-0")
	n.must(n.add(a))

	// A TCP connection that is open, and one query that the nameserver will never answer, over each
	// protocol; both from a socket that is closed before the namespace is expected to go.
	idle, err := dial(ns, "tcp", "10.96.0.10:53")
	n.must(err)
	_, err = query(idle, "vip.example.com.")
	n.must(err)
	packet, err := new(dns.Msg).SetQuestion("silent.example.org.", dns.TypeA).Pack()
	n.must(err)
	waiting, err := dial(ns, "udp", "10.96.0.10:53")
	n.must(err)
	_, err = waiting.Write(packet)
	n.must(err)
	n.eventually("the nameserver is asked", func() error {
		select {
		case q := <-n.asked:
			if q.name == "silent.example.org." {
				return nil
			}
		default:
		}
		return errors.New("not yet")
	})

	n.del(a)
	if err := n.find(a); err.State != "" {
		t.Errorf("still listed: %+v", err)
	}
	if rows := n.rows(); len(rows) != 0 {
		t.Errorf("rows left: %v", rows)
	}
	_ = idle.Close()
	_ = waiting.Close()
	n.must(ns.Close())
	n.eventually("the other end of the pod's veth is gone", func() error {
		return n.infra.Do(func() error {
			if _, err := netlink.LinkByName("eth0"); err == nil {
				return errors.New("something keeps the namespace alive")
			}
			return nil
		})
	})
	n.threads(a)
}

func TestRestart(t *testing.T) {
	n := newNode(t)
	n.start()
	ns, a := n.pod("web-0")
	n.must(n.add(a))
	before := n.wait(a, Captured, "").Nameservers
	conn, err := dial(ns, "udp", "10.96.0.10:53")
	n.must(err)
	defer func() { _ = conn.Close() }()
	if got, err := query(conn, "vip.example.com."); err != nil || got != ours {
		t.Fatalf("before: %v, %v", got, err)
	}

	n.stop()
	if row, ok := n.rows()[a.NetnsCookie]; !ok || !slices.Equal(row.Nameservers, before) {
		t.Fatalf("the row did not stay: %+v", row)
	}
	for _, network := range []string{"udp", "tcp"} {
		if got, err := ask(ns, network, "10.96.0.10:53", "vip.example.com."); err != nil || got != theirs {
			t.Errorf("without dnsd, %s: %v, %v; want the nameserver's own answer", network, got, err)
		}
	}

	n.start()
	if after := n.wait(a, Captured, "").Nameservers; !slices.Equal(before, after) {
		t.Errorf("ports %v became %v", before, after)
	}
	if got, err := query(conn, "vip.example.com."); err != nil || got != ours {
		t.Errorf("the socket that was connected before: %v, %v", got, err)
	}

	// The pod has taken one of the ports meanwhile.
	n.stop()
	var thief net.PacketConn
	n.must(ns.Do(func() (err error) {
		thief, err = net.ListenPacket("udp", netip.AddrPortFrom(netip.MustParseAddr("10.96.0.5"), before[0].Port).String())
		return err
	}))
	defer func() { _ = thief.Close() }()
	n.start()
	after := n.wait(a, Captured, "").Nameservers
	if after[0].Port == before[0].Port || after[1] != before[1] {
		t.Errorf("ports %v became %v", before, after)
	}
	if got, err := ask(ns, "udp", "10.96.0.10:53", "vip.example.com."); err != nil || got != ours {
		t.Errorf("on the new port: %v, %v", got, err)
	}
}

// The place of a nameserver in the row is what its listeners are found by.
func TestNameserversInAnotherOrder(t *testing.T) {
	n := newNode(t)
	n.start()
	ns, a := n.pod("web-0")
	n.must(n.add(a))
	before := n.wait(a, Captured, "").Nameservers
	n.stop()
	slices.Reverse(a.DNS.Nameservers)
	n.write(a)
	n.start()
	after := n.wait(a, Captured, "").Nameservers
	slices.Reverse(after)
	if !slices.Equal(before, after) {
		t.Errorf("ports %v became %v", before, after)
	}
	for _, at := range []string{"10.96.0.10:53", "[fd96::10]:53"} {
		if got, err := ask(ns, "udp", at, "vip.example.com."); err != nil || got != ours {
			t.Errorf("%s: %v, %v", at, got, err)
		}
	}
}

func TestOptedOutPodIsBalancedOnly(t *testing.T) {
	n := newNode(t)
	n.start()
	ns, a := n.pod("web-0")
	a.Annotations = map[string]string{captureAnnotation: "off"}
	n.must(n.add(a))
	n.wait(a, Balanced, captureAnnotation)
	if row := n.rows()[a.NetnsCookie]; row.DNS || !row.LB || len(row.Nameservers) != 0 {
		t.Errorf("row %+v", row)
	}
	if got, err := ask(ns, "udp", "10.96.0.10:53", "vip.example.com."); err != nil || got != theirs {
		t.Errorf("%v, %v; want the nameserver's own answer", got, err)
	}
	n.must(n.ring(attach.OpCheck, a.Key()))
}

func TestDialer(t *testing.T) {
	n := newNode(t)
	n.start()
	_, a := n.pod("web-0")
	n.must(n.add(a))
	handle, err := openPath(a)
	n.must(err)
	own, _, err := home()
	n.must(err)
	defer func() { _ = own.Close() }()
	d := newDialer(namespace{pod: handle, home: own})

	for _, network := range []string{"udp", "tcp"} {
		for _, at := range []string{"10.96.0.10:53", "[fd96::10]:53"} {
			conn, err := d.DialContext(t.Context(), network, at)
			n.must(err)
			var mark int
			n.must(with(conn.(syscall.Conn), func(fd uintptr) (err error) {
				mark, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK)
				return err
			}))
			if mark != int(ebpf.Mark) {
				t.Errorf("%s %s: mark %#x", network, at, mark)
			}
			// Without the mark the kernel would turn it to our own listener.
			if got, err := query(conn, "vip.example.com."); err != nil || got != theirs {
				t.Errorf("%s %s: %v, %v", network, at, got, err)
			}
			if _, packets := conn.(net.PacketConn); packets != (network == "udp") {
				t.Errorf("%s: taken for datagrams: %v", network, packets)
			}
			n.must(conn.Close())
		}
	}
	if _, err := d.DialContext(t.Context(), "tcp", "10.96.0.10:54"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
	if _, err := d.DialContext(t.Context(), "udp", "dns.example:53"); err == nil {
		t.Error("a name was taken for an address")
	}
	if len(d.open) != 0 {
		t.Errorf("%d sockets are left", len(d.open))
	}
	n.hangingDials(d)
}

// hangingDials dials an address that swallows everything, and ends that by the context and by close.
func (n *node) hangingDials(d *dialer) {
	n.t.Helper()
	n.must(n.infra.Do(func() error { // reachable, and nobody is there to refuse
		lo, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: lo.Attrs().Index, IP: net.ParseIP("10.96.0.5"),
			HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}, State: netlink.NUD_PERMANENT})
	}))
	ctx, cancel := context.WithTimeout(n.t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.DialContext(ctx, "tcp", "10.96.0.10:53"); !errors.Is(err, context.DeadlineExceeded) {
		n.t.Errorf("past its time: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := d.DialContext(n.t.Context(), "tcp", "10.96.0.10:53")
		done <- err
	}()
	n.eventually("the attempt has begun", func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if len(d.open) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	d.close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		n.t.Errorf("closed under way: %v", err)
	}
	if _, err := d.DialContext(n.t.Context(), "udp", "10.96.0.10:53"); !errors.Is(err, net.ErrClosed) {
		n.t.Errorf("after close: %v", err)
	}
	d.close() // twice is fine
}
