package app

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Question is one DNS query as an application would send it.
type Question struct {
	// Name is asked as it stands, fully qualified.
	Name string
	// Type is a type's mnemonic; empty means A.
	Type string
	// Server is where it is sent: an address, port 53 unless given.
	Server string
	TCP    bool
	// Connected uses a connected UDP socket; otherwise the query leaves by sendto.
	Connected bool
	// Kept has a load ask all its questions on one connection, TCP, or one connected socket, UDP.
	Kept bool
	// EDNS is the UDP size announced; 0 sends no OPT record.
	EDNS uint16
	// Timeout is for the one attempt made; 0 means 3 s.
	Timeout time.Duration
}

// Reply is what came back.
type Reply struct {
	Rcode string
	// Flags are the header's bits in dig's words and order.
	Flags []string
	// Answer and Authority are records in presentation form, with single blanks.
	Answer, Authority []string
	// OPT says the reply has an OPT record, Errors are the extended errors in it: code and text.
	OPT    bool
	Errors []string
	// Peer is the address the reply came from, as the kernel told the application.
	Peer string
	// Echo is the question's name exactly as the reply repeats it.
	Echo string
	Size int
	Took time.Duration
}

// String has one line each: rcode, flags, peer, question, answer..., authority...,
// opt if there, error...
func (r Reply) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "rcode %s\nflags %s\npeer %s\nquestion %s\n", r.Rcode, strings.Join(r.Flags, " "), r.Peer, r.Echo)
	for _, rr := range r.Answer {
		fmt.Fprintln(&b, "answer", rr)
	}
	for _, rr := range r.Authority {
		fmt.Fprintln(&b, "authority", rr)
	}
	if r.OPT {
		fmt.Fprintln(&b, "opt")
	}
	for _, e := range r.Errors {
		fmt.Fprintln(&b, "error", e)
	}
	return b.String()
}

// Short is only the data of the answers, one a line, sorted.
func (r Reply) Short() string {
	var data []string
	for _, rr := range r.Answer {
		data = append(data, strings.SplitN(rr, " ", 5)[4]+"\n")
	}
	slices.Sort(data)
	return strings.Join(data, "")
}

// Dig sends one query, once, and reports the reply.
func (a *App) Dig(q Question, out *Reply) error {
	r, err := dig(q)
	*out = r
	return err
}

func dig(q Question) (Reply, error) { return digBy(exchange, q) }

// digBy is dig by an exchange that may keep its connection.
func digBy(exchange func(netip.AddrPort, []byte, Question, time.Time) ([]byte, string, error), q Question) (Reply, error) {
	server, err := serverOf(q.Server)
	if err != nil {
		return Reply{}, err
	}
	qtype := dns.TypeA
	if q.Type != "" {
		var ok bool
		if qtype, ok = dns.StringToType[strings.ToUpper(q.Type)]; !ok {
			return Reply{}, fmt.Errorf("dig %s: unknown type %q", q.Name, q.Type)
		}
	}
	m := new(dns.Msg).SetQuestion(dns.Fqdn(q.Name), qtype)
	if q.EDNS > 0 {
		m.SetEdns0(q.EDNS, false)
	}
	packet, err := m.Pack()
	if err != nil {
		return Reply{}, fmt.Errorf("dig %s: %w", q.Name, err)
	}
	timeout := q.Timeout
	if timeout == 0 {
		timeout = 3 * time.Second
	}
	start := time.Now()
	raw, peer, err := exchange(server, packet, q, start.Add(timeout))
	if err != nil {
		return Reply{}, fmt.Errorf("dig %s %s @%s: %w", q.Name, dns.Type(qtype), server, err)
	}
	var in dns.Msg
	if err := in.Unpack(raw); err != nil {
		return Reply{}, fmt.Errorf("dig %s %s @%s: reply from %s: %w", q.Name, dns.Type(qtype), server, peer, err)
	}
	if in.Id != m.Id {
		return Reply{}, fmt.Errorf("dig %s %s @%s: reply from %s has ID %d, want %d", q.Name, dns.Type(qtype), server, peer, in.Id, m.Id)
	}
	r := describe(&in)
	r.Peer, r.Size, r.Took = peer, len(raw), time.Since(start)
	return r, nil
}

// serverOf reads an address with or without a port; without any it takes resolv.conf's first.
func serverOf(s string) (netip.AddrPort, error) {
	if s == "" {
		conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			return netip.AddrPort{}, err
		}
		if len(conf.Servers) == 0 {
			return netip.AddrPort{}, errors.New("/etc/resolv.conf names no nameserver")
		}
		s = conf.Servers[0]
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap, nil
	}
	addr, err := netip.ParseAddr(s)
	return netip.AddrPortFrom(addr, 53), err
}

func exchange(server netip.AddrPort, packet []byte, q Question, deadline time.Time) (raw []byte, peer string, err error) {
	buf := make([]byte, 65535)
	if !q.TCP && !q.Connected {
		c, err := net.ListenUDP("udp", nil)
		if err != nil {
			return nil, "", err
		}
		defer func() { _ = c.Close() }()
		if err := c.SetDeadline(deadline); err != nil {
			return nil, "", err
		}
		if _, err := c.WriteToUDPAddrPort(packet, server); err != nil {
			return nil, "", err
		}
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err == nil && unmap(from) != server { // resolvers would not even look at it
			return nil, "", fmt.Errorf("a reply from %s, not from %s", unmap(from), server)
		}
		return buf[:n], unmap(from).String(), err
	}
	c, err := connect(server, q, deadline)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = c.Close() }()
	return converse(c, packet, q, deadline)
}

func connect(server netip.AddrPort, q Question, deadline time.Time) (net.Conn, error) {
	network := "udp"
	if q.TCP {
		network = "tcp"
	}
	return (&net.Dialer{Deadline: deadline}).Dial(network, server.String())
}

// converse asks on a connection, or on a connected socket.
func converse(c net.Conn, packet []byte, q Question, deadline time.Time) (raw []byte, peer string, err error) {
	buf := make([]byte, 65535)
	if q.TCP {
		packet = append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...)
	}
	if err := c.SetDeadline(deadline); err != nil {
		return nil, "", err
	}
	if peer, err = peerOf(c); err != nil {
		return nil, "", err
	}
	if _, err := c.Write(packet); err != nil {
		return nil, "", err
	}
	if !q.TCP {
		n, err := c.Read(buf)
		return buf[:n], peer, err
	}
	if _, err := io.ReadFull(c, buf[:2]); err != nil {
		return nil, "", err
	}
	n := binary.BigEndian.Uint16(buf)
	_, err = io.ReadFull(c, buf[:n])
	return buf[:n], peer, err
}

// kept asks on one connection, and makes another one only when that has failed.
type kept struct{ conn net.Conn }

func (k *kept) exchange(server netip.AddrPort, packet []byte, q Question, deadline time.Time) (raw []byte, peer string, err error) {
	if k.conn == nil {
		if k.conn, err = connect(server, q, deadline); err != nil {
			k.conn = nil
			return nil, "", err
		}
	}
	if raw, peer, err = converse(k.conn, packet, q, deadline); err != nil {
		k.close()
	}
	return raw, peer, err
}

func (k *kept) close() {
	if k.conn != nil {
		_ = k.conn.Close()
		k.conn = nil
	}
}

func describe(m *dns.Msg) Reply {
	r := Reply{Rcode: dns.RcodeToString[m.Rcode], OPT: m.IsEdns0() != nil}
	for _, f := range []struct {
		set  bool
		name string
	}{
		{m.Response, "qr"}, {m.Authoritative, "aa"}, {m.Truncated, "tc"},
		{m.RecursionDesired, "rd"}, {m.RecursionAvailable, "ra"},
	} {
		if f.set {
			r.Flags = append(r.Flags, f.name)
		}
	}
	if len(m.Question) > 0 {
		r.Echo = m.Question[0].Name
	}
	for _, rr := range m.Answer {
		r.Answer = append(r.Answer, strings.Join(strings.Fields(rr.String()), " "))
	}
	if r.OPT {
		for _, o := range m.IsEdns0().Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				r.Errors = append(r.Errors, fmt.Sprintf("%d %s", e.InfoCode, e.ExtraText))
			}
		}
	}
	for _, rr := range m.Ns {
		r.Authority = append(r.Authority, strings.Join(strings.Fields(rr.String()), " "))
	}
	return r
}

// Found is a name looked up through /etc/resolv.conf, search list and all.
type Found struct {
	Addresses []string
	// Queries is how many the resolver sent; -1 where it cannot be counted.
	Queries int
	Took    time.Duration
}

// Getent looks a name up with the C library's getaddrinfo, by the getent command.
func (a *App) Getent(name string, out *Found) error {
	start := time.Now()
	text, err := exec.Command("getent", "ahosts", name).Output()
	out.Took = time.Since(start)
	out.Queries = -1
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 2 {
		return fmt.Errorf("getent ahosts %s: not found", name)
	}
	if err != nil {
		return fmt.Errorf("getent ahosts %s: %w", name, err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 0 {
			out.Addresses = append(out.Addresses, f[0])
		}
	}
	slices.Sort(out.Addresses)
	out.Addresses = slices.Compact(out.Addresses)
	return nil
}

// Lookup looks a name up with Go's own resolver, which follows resolv.conf as the C library does, and
// counts the queries it sends.
func (a *App) Lookup(name string, out *Found) error {
	var sent atomic.Int64
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return countingConn{conn.(*net.UDPConn), &sent}, nil
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	start := time.Now()
	addrs, err := resolver.LookupNetIP(ctx, "ip", name)
	out.Took = time.Since(start)
	out.Queries = int(sent.Load())
	for _, addr := range addrs {
		out.Addresses = append(out.Addresses, addr.Unmap().String())
	}
	slices.Sort(out.Addresses)
	return err
}

// countingConn embeds *net.UDPConn, not net.Conn, because the resolver tells UDP by net.PacketConn.
type countingConn struct {
	*net.UDPConn
	sent *atomic.Int64
}

func (c countingConn) Write(p []byte) (int, error) {
	c.sent.Add(1)
	return c.UDPConn.Write(p)
}

// ResolvConfText is what the application sees as its resolv.conf.
func (a *App) ResolvConfText(_ string, out *string) error {
	text, err := os.ReadFile("/etc/resolv.conf")
	*out = string(text)
	return err
}
