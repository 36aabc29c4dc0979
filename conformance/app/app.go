// Package app is the application inside a pod of a conformance world: it looks names up, connects,
// keeps connections open and counts what went wrong, and does nothing clever about any of it.
//
// It runs as a process of its own, because only a process sits in a cgroup and has a resolv.conf: the
// program that wants pods re-executes itself under the name Name and talks net/rpc over the child's
// standard input and output. The process ends when its input does, so it never outlives its owner.
package app

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/rpc"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Name is what argv[0] must be for Main to take over.
const Name = "nodens-conformance-app"

// ResolvConf names the environment variable holding the file the process is to see as its
// /etc/resolv.conf. The process must have a mount namespace of its own then.
const ResolvConf = "NODENS_APP_RESOLV_CONF"

// Main serves a pod's application and exits if the process was started to be one; otherwise it returns.
// Call it first in main or TestMain.
func Main() {
	if os.Args[0] != Name {
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, Name+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run() error {
	if file := os.Getenv(ResolvConf); file != "" {
		if err := unix.Mount(file, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s over /etc/resolv.conf: %w", file, err)
		}
	}
	server := rpc.NewServer()
	if err := server.RegisterName("App", newApp()); err != nil {
		return err
	}
	server.ServeConn(stdio{})
	return nil
}

type stdio struct{}

func (stdio) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (stdio) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (stdio) Close() error                { return errors.Join(os.Stdin.Close(), os.Stdout.Close()) }

// App is the receiver of the calls; its exported methods have the form net/rpc asks for.
type App struct {
	mu    sync.Mutex
	held  map[string][]net.Conn
	loads map[string]*load
}

func newApp() *App {
	return &App{held: map[string][]net.Conn{}, loads: map[string]*load{}}
}

// Target is something to connect to and exchange one line with.
type Target struct {
	// Network is "tcp" or "udp", with a "4" or "6" where the family matters.
	Network string
	// Host is a name or an IP literal.
	Host string
	Port uint16
	// Count is how many connections to make, one after the other; 0 means 1.
	Count int
	// Hold keeps the connections open under this name.
	Hold string
	// Unconnected sends UDP from a socket that was never connected.
	Unconnected bool
	// HTTP asks for a page instead of sending a line.
	HTTP bool
	// Timeout bounds one connection with its exchange; 0 means 3 s.
	Timeout time.Duration
}

// Visits says who answered how many of the connections.
type Visits struct {
	// Servers counts connections by the name the answering server gave itself.
	Servers map[string]int
	// Peers counts them by the address the application was told it is talking to.
	Peers map[string]int
	// Errors counts failures by their reason.
	Errors map[string]int
	// Took is the time of all of them.
	Took time.Duration
}

func newVisits() Visits {
	return Visits{Servers: map[string]int{}, Peers: map[string]int{}, Errors: map[string]int{}}
}

// Failed is how many connections failed.
func (v Visits) Failed() int {
	n := 0
	for _, c := range v.Errors {
		n += c
	}
	return n
}

// String has one line "server NAME COUNT", "peer ADDR COUNT" or "error REASON COUNT" each, sorted.
func (v Visits) String() string {
	var lines []string
	for kind, counts := range map[string]map[string]int{"server": v.Servers, "peer": v.Peers, "error": v.Errors} {
		for what, n := range counts {
			lines = append(lines, fmt.Sprintf("%s %s %d\n", kind, what, n))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// Connect makes the target's connections, exchanges a line on each and says who answered.
func (a *App) Connect(t Target, out *Visits) error {
	*out = newVisits()
	start := time.Now()
	for range max(t.Count, 1) {
		a.visit(t, out)
	}
	out.Took = time.Since(start)
	return nil
}

func (a *App) visit(t Target, v *Visits) {
	server, peer, conn, err := visit(t)
	if err != nil {
		v.Errors[reason(err)]++
		return
	}
	v.Servers[server]++
	v.Peers[peer]++
	if t.Hold == "" {
		_ = conn.Close()
		return
	}
	a.mu.Lock()
	a.held[t.Hold] = append(a.held[t.Hold], conn)
	a.mu.Unlock()
}

// visit makes one connection; the caller owns conn.
func visit(t Target) (server, peer string, conn net.Conn, err error) {
	timeout := t.Timeout
	if timeout == 0 {
		timeout = 3 * time.Second
	}
	if t.Unconnected {
		return visitUnconnected(t, timeout)
	}
	dialer := net.Dialer{Timeout: timeout, Resolver: &net.Resolver{PreferGo: true}}
	dialer.SetMultipathTCP(false)
	conn, err = dialer.Dial(t.Network, net.JoinHostPort(t.Host, fmt.Sprint(t.Port)))
	if err != nil {
		return "", "", nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	if err = conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", "", nil, err
	}
	if peer, err = peerOf(conn); err != nil {
		return "", "", nil, err
	}
	if t.HTTP {
		server, err = page(conn, t.Host)
	} else {
		server, err = talk(conn)
	}
	return server, peer, conn, err
}

// visitUnconnected sends one datagram with sendto and reports the source recvfrom gave for the reply.
func visitUnconnected(t Target, timeout time.Duration) (server, peer string, conn net.Conn, err error) {
	addr, err := net.ResolveUDPAddr(t.Network, net.JoinHostPort(t.Host, fmt.Sprint(t.Port)))
	if err != nil {
		return "", "", nil, err
	}
	c, err := net.ListenUDP(t.Network, nil)
	if err != nil {
		return "", "", nil, err
	}
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	if err = c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", "", nil, err
	}
	if _, err = c.WriteTo([]byte("hello\n"), addr); err != nil {
		return "", "", nil, err
	}
	buf := make([]byte, 512)
	n, from, err := c.ReadFromUDPAddrPort(buf)
	if err != nil {
		return "", "", nil, err
	}
	return who(string(buf[:n])), unmap(from).String(), c, nil
}

// talk exchanges one line: the server answers with its own address and the line.
func talk(conn net.Conn) (server string, err error) {
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", err
	}
	return who(line), nil
}

func page(conn net.Conn, host string) (server string, err error) {
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host); err != nil {
		return "", err
	}
	body, err := io.ReadAll(conn)
	if err != nil {
		return "", err
	}
	_, text, ok := strings.Cut(string(body), "\r\n\r\n")
	if !ok || !strings.HasPrefix(string(body), "HTTP/1.1 200") {
		return "", fmt.Errorf("no page in %q", body)
	}
	return who(text), nil
}

func who(line string) string {
	name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
	return name
}

// peerOf asks the kernel, not Go's memory of what was dialled.
func peerOf(conn net.Conn) (string, error) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return "", fmt.Errorf("%T has no descriptor", conn)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return "", err
	}
	var sa unix.Sockaddr
	var callErr error
	if err := raw.Control(func(fd uintptr) { sa, callErr = unix.Getpeername(int(fd)) }); err != nil {
		return "", err
	}
	if callErr != nil {
		return "", fmt.Errorf("getpeername: %w", callErr)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String(), nil
	case *unix.SockaddrInet6:
		return unmap(netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))).String(), nil
	}
	return "", fmt.Errorf("getpeername: unexpected family %T", sa)
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// reason shortens an error to what can be counted: the system's own words where there are any.
func reason(err error) string {
	var errno unix.Errno
	var dnsErr *net.DNSError
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &dnsErr):
		return dnsErr.Err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	}
	return err.Error()
}

// Talk exchanges a line on each connection held under the name.
func (a *App) Talk(name string, out *Visits) error {
	*out = newVisits()
	a.mu.Lock()
	conns := slices.Clone(a.held[name])
	a.mu.Unlock()
	if len(conns) == 0 {
		return fmt.Errorf("no connection is held under %q", name)
	}
	start := time.Now()
	for _, conn := range conns {
		_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
		peer, err := peerOf(conn)
		if err != nil {
			out.Errors[reason(err)]++
			continue
		}
		server, err := talk(conn)
		if err != nil {
			out.Errors[reason(err)]++
			continue
		}
		out.Servers[server]++
		out.Peers[peer]++
	}
	out.Took = time.Since(start)
	return nil
}

// Release closes the connections held under the name and says how many there were.
func (a *App) Release(name string, n *int) error {
	a.mu.Lock()
	conns := a.held[name]
	delete(a.held, name)
	a.mu.Unlock()
	*n = len(conns)
	for _, conn := range conns {
		_ = conn.Close()
	}
	return nil
}
