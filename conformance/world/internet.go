package world

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

// Ports are where the internet listens, TCP and UDP, on every address there is.
var Ports = []uint16{80, 443, 3306, 5432, 6379, 8080, 9000, 15432}

// internet is every server beyond the node. Each says who it is, by the address the client reached.
type internet struct {
	mu   sync.Mutex
	open map[io.Closer]struct{}
	dns  []*dns.Server
	wg   sync.WaitGroup
}

func openInternet(ns, node *sandbox.NS, zone *Zone) (*internet, error) {
	n := &internet{open: map[io.Closer]struct{}{}}
	err := ns.Do(func() error {
		for _, port := range Ports {
			if err := n.serveTCP(port); err != nil {
				return err
			}
			if err := n.serveUDP(port); err != nil {
				return err
			}
		}
		for _, addr := range Nameservers {
			if err := n.serveDNS(addr, zone, true); err != nil {
				return err
			}
		}
		return nil
	})
	for _, addr := range nodeNameservers() {
		if err != nil {
			break
		}
		where := ns
		if addr.IsLoopback() {
			where = node
		}
		err = where.Do(func() error { return n.serveDNS(addr, zone, false) })
	}
	if err != nil {
		n.close()
		return nil, fmt.Errorf("open the internet: %w", err)
	}
	return n, nil
}

func (n *internet) close() {
	n.mu.Lock()
	for c := range n.open {
		_ = c.Close()
	}
	for _, s := range n.dns {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_ = s.ShutdownContext(ctx)
		cancel()
	}
	n.dns = nil
	n.mu.Unlock()
	n.wg.Wait()
}

func (n *internet) keep(c io.Closer) {
	n.mu.Lock()
	n.open[c] = struct{}{}
	n.mu.Unlock()
}

func (n *internet) drop(c io.Closer) {
	n.mu.Lock()
	delete(n.open, c)
	n.mu.Unlock()
	_ = c.Close()
}

func (n *internet) serveTCP(port uint16) error {
	ln, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	n.keep(ln)
	n.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			n.keep(conn)
			n.wg.Go(func() {
				defer n.drop(conn)
				introduce(conn)
			})
		}
	})
	return nil
}

// introduce answers each line with the address it came in on and the line; a GET with a page of that.
func introduce(conn net.Conn) {
	me := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	name := netip.AddrPortFrom(me.Addr().Unmap(), me.Port()).String()
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "GET ") {
			for lines.Scan() && lines.Text() != "" {
			}
			body := name + " at your service\n"
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
			return
		}
		if _, err := fmt.Fprintf(conn, "%s %s\n", name, lines.Text()); err != nil {
			return
		}
	}
}

// serveUDP answers each datagram from the very address it was sent to. The two families have a socket
// each, because a dual-stack socket cannot be told to answer from an IPv4 address.
func (n *internet) serveUDP(port uint16) error {
	c4, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	n.keep(c4)
	p4 := ipv4.NewPacketConn(c4)
	if err := p4.SetControlMessage(ipv4.FlagDst, true); err != nil {
		return err
	}
	n.echo(port, func(buf []byte) (int, net.IP, net.Addr, error) {
		k, cm, from, err := p4.ReadFrom(buf)
		if err != nil {
			return 0, nil, nil, err
		}
		return k, cm.Dst, from, nil
	}, func(b []byte, src net.IP, to net.Addr) error {
		_, err := p4.WriteTo(b, &ipv4.ControlMessage{Src: src}, to)
		return err
	})
	c6, err := net.ListenPacket("udp6", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	n.keep(c6)
	p6 := ipv6.NewPacketConn(c6)
	if err := p6.SetControlMessage(ipv6.FlagDst, true); err != nil {
		return err
	}
	n.echo(port, func(buf []byte) (int, net.IP, net.Addr, error) {
		k, cm, from, err := p6.ReadFrom(buf)
		if err != nil {
			return 0, nil, nil, err
		}
		return k, cm.Dst, from, nil
	}, func(b []byte, src net.IP, to net.Addr) error {
		_, err := p6.WriteTo(b, &ipv6.ControlMessage{Src: src}, to)
		return err
	})
	return nil
}

// echo answers datagrams, each with the address it was sent to, until the socket is closed.
func (n *internet) echo(port uint16, read func([]byte) (int, net.IP, net.Addr, error), write func([]byte, net.IP, net.Addr) error) {
	n.wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			k, me, from, err := read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // an ICMP error about somebody's earlier reply
			}
			_ = write(fmt.Appendf(nil, "%s %s", net.JoinHostPort(me.String(), fmt.Sprint(port)), buf[:k]), me, from)
		}
	})
}

// serveDNS opens a nameserver; an insider knows the cluster's domain too.
func (n *internet) serveDNS(addr netip.Addr, zone *Zone, insider bool) error {
	listen := netip.AddrPortFrom(addr, 53).String()
	udp, err := net.ListenPacket("udp", listen)
	if err != nil {
		return err
	}
	n.keep(udp)
	tcp, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	n.keep(tcp)
	for _, s := range []*dns.Server{
		{PacketConn: udp, Handler: zone.at(addr, "udp", insider)},
		{Listener: tcp, Handler: zone.at(addr, "tcp", insider)},
	} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		n.dns = append(n.dns, s)
		failed := make(chan error, 1)
		n.wg.Go(func() { failed <- s.ActivateAndServe() })
		select {
		case <-started:
		case err := <-failed:
			return errors.Join(fmt.Errorf("serve DNS on %s", addr), err)
		}
	}
	return nil
}
