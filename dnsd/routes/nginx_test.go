package routes

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// patience is how long something may take on a slow and busy machine.
const patience = 30 * time.Second

// node is a real nginx, Debian's or whichever is found, on a loopback address of its own.
type node struct {
	t       *testing.T
	dir     string
	address netip.Addr
	now     atomic.Pointer[netip.Addr] // nil while the node has none
	cmd     *exec.Cmd                  // nginx
	quit    func()                     // ends the source
	source  *Source
	said    chan mesh.Input
	last    mesh.Input // that until has waited for
}

// newNode starts nginx, with more in its http block, and a Source that keeps its routes.
func newNode(t *testing.T, more string) *node {
	t.Helper()
	// Any of 127.0.0.0/8 is this machine's: port 80 of others is elsewhere.
	n := &node{t: t, dir: t.TempDir(), said: make(chan mesh.Input, 1)}
	n.address = netip.AddrFrom4([4]byte{127, byte(192 + rand.N(32)), byte(rand.N(256)), byte(1 + rand.N(254))})
	n.now.Store(&n.address)
	path := lookNginx(t)
	if err := os.Chmod(n.dir, 0o755); err != nil { //nolint:gosec // nginx's workers are somebody else
		t.Fatal(err)
	}
	n.write("nginx.conf", strings.NewReplacer("DIR", n.dir, "MORE", more, "ADDRESS", n.address.String()).Replace(`
daemon off; worker_processes 2; pid DIR/pid; error_log stderr error;
events {}
http {
	access_log off; client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/f; scgi_temp_path DIR/s; uwsgi_temp_path DIR/u;
	include DIR/conf.d/*.conf;
	MORE
}
`))
	if err := os.Mkdir(filepath.Join(n.dir, "conf.d"), 0o755); err != nil { //nolint:gosec // as above
		t.Fatal(err)
	}
	command := []string{path, "-p", n.dir, "-c", filepath.Join(n.dir, "nginx.conf")}
	n.cmd = exec.Command(command[0], command[1:]...)
	n.start()
	t.Cleanup(n.stop)
	n.source = New(Options{Address: n.where, File: filepath.Join(n.dir, "conf.d/routes.conf"), Command: command})
	n.source.timing = timing{retry: 200 * time.Millisecond, look: 200 * time.Millisecond}
	n.run()
	return n
}

// start starts nginx, again if it was stopped.
func (n *node) start() {
	n.t.Helper()
	n.cmd = exec.Command(n.cmd.Args[0], n.cmd.Args[1:]...)
	n.cmd.Stderr = n.t.Output()
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	eventually(n.t, func() error { _, err := os.Stat(filepath.Join(n.dir, "pid")); return err })
}

func (n *node) stop() {
	_ = n.cmd.Process.Signal(os.Interrupt) // at once, and its workers with it
	_ = n.cmd.Wait()
}

// where is the source's Options.Address.
func (n *node) where() (netip.Addr, error) {
	if a := n.now.Load(); a != nil {
		return *a, nil
	}
	return netip.Addr{}, errors.New("no default route")
}

func lookNginx(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("no nginx: make deps installs it (Debian: nginx-light)")
	return ""
}

func (n *node) run() {
	ctx, cancel := context.WithCancel(n.t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- n.source.Run(ctx, func(in mesh.Input) {
			select {
			case <-n.said:
			default:
			}
			n.said <- in
		})
	}()
	n.quit = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			n.t.Error(err)
		}
	})
	n.t.Cleanup(n.quit)
}

func (n *node) write(name, text string) {
	n.t.Helper()
	if err := os.WriteFile(filepath.Join(n.dir, name), []byte(text), 0o644); err != nil { //nolint:gosec // nginx reads it
		n.t.Fatal(err)
	}
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// until waits for an input with these hosts, and problems with all these parts.
func (n *node) until(hosts string, problems ...string) {
	n.t.Helper()
	last := "nothing"
	end := time.After(patience)
	for {
		select {
		case in := <-n.said:
			n.last = in
			var names []string
			for _, h := range in.Hosts {
				names = append(names, h.Name)
			}
			last = fmt.Sprintf("%s %v", strings.Join(names, " "), in.Problems)
			if strings.Join(names, " ") == hosts && (len(problems) > 0) == (len(in.Problems) > 0) &&
				!slices.ContainsFunc(problems, func(p string) bool { return !strings.Contains(last, p) }) {
				return
			}
		case <-end:
			n.t.Fatalf("it never said %q and %q; at last: %s", hosts, problems, last)
		}
	}
}

// get asks nginx for a path of a host.
func (n *node) get(host, path string) (status int, location, body string) {
	n.t.Helper()
	status, location, body, err := n.try(host, path)
	if err != nil {
		n.t.Fatal(err)
	}
	return status, location, body
}

func (n *node) try(host, path string) (status int, location, body string, err error) {
	r, err := http.NewRequestWithContext(n.t.Context(), http.MethodGet, "http://"+n.address.String()+path, nil)
	if err != nil {
		return 0, "", "", err
	}
	r.Host = host
	reply, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return 0, "", "", err
	}
	defer func() { _ = reply.Body.Close() }()
	text, err := io.ReadAll(reply.Body)
	return reply.StatusCode, reply.Header.Get("Location"), string(text), err
}

// backend is a service that says its name and what it was asked, and speaks an upgraded protocol.
func backend(t *testing.T, name string) netip.AddrPort {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Upgrade") == "echo":
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
			_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
			_ = rw.Flush()
			_, _ = io.Copy(conn, rw)
		case r.URL.Path == "/moved":
			http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusFound)
		default:
			h := r.Header
			_, _ = fmt.Fprintf(w, "%s %s %s host=%s for=%s by=%s proto=%s", name, r.Proto, r.URL, r.Host,
				h.Get("X-Forwarded-For"), h.Get("X-Forwarded-Host"), h.Get("X-Forwarded-Proto"))
		}
	}))
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return netip.MustParseAddrPort(u.Host)
}

func path(p string, to netip.AddrPort) mesh.RoutePath {
	return mesh.RoutePath{Path: p, Address: to.Addr(), Port: to.Port()}
}

func TestServes(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	one, two, whole := backend(t, "one"), backend(t, "two"), backend(t, "whole")
	n.source.Set(&mesh.Plan{Routes: []mesh.Route{
		{Object: "DNS a", Host: "node1.com", Paths: []mesh.RoutePath{path("/service1/", one), path("/service1/deep/", two)}},
		{Object: "DNS b", Host: "node2.com", Paths: []mesh.RoutePath{path("/", whole)}},
	}})
	n.until("node1.com node2.com")
	client := "127.0.0.1"
	for _, tc := range []struct{ host, path, want string }{
		{"node1.com", "/service1/test.html?x=1", "one HTTP/1.1 /test.html?x=1 host=node1.com for=" + client + " by=node1.com proto=http"},
		{"NODE1.com", "/service1/", "one HTTP/1.1 / host=NODE1.com for=" + client + " by=NODE1.com proto=http"},
		{"node1.com", "/service1/deep/x", "two HTTP/1.1 /x host=node1.com"},
		{"node1.com", "/service1/deeper", "one HTTP/1.1 /deeper host=node1.com"},
		{"node2.com", "/a/b%20c", "whole HTTP/1.1 /a/b%20c host=node2.com"},
	} {
		if status, _, body := n.get(tc.host, tc.path); status != 200 || !strings.HasPrefix(body, tc.want) {
			t.Errorf("%s%s: %d %q, want %q", tc.host, tc.path, status, body, tc.want)
		}
	}
	for _, tc := range []struct {
		host, path, location string
		status               int
	}{
		{"node1.com", "/", "", 404},
		{"node1.com", "/service10", "", 404},
		{"other.com", "/service1/", "", 404},
		{"node1.com", "/service1", "http://node1.com/service1/", 301},
		{"node1.com", "/service1/moved?to=/login", "http://node1.com/service1/login", 302},
		{"node1.com", "/service1/moved?to=http://node1.com/login", "http://node1.com/service1/login", 302},
		{"node1.com", "/service1/moved?to=http://elsewhere.com/", "http://elsewhere.com/", 302},
		{"node2.com", "/moved?to=/login", "/login", 302},
	} {
		status, location, _ := n.get(tc.host, tc.path)
		if strings.HasPrefix(location, "/") && tc.host == "node1.com" {
			location = "http://node1.com" + location
		}
		if status != tc.status || location != tc.location {
			t.Errorf("%s%s: %d to %q, want %d to %q", tc.host, tc.path, status, location, tc.status, tc.location)
		}
	}
	upgrade(t, n)
}

// upgrade speaks another protocol through nginx, as WebSocket does.
func upgrade(t *testing.T, n *node) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(n.address, port).String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, "GET /service1/ws HTTP/1.1\r\nHost: node1.com\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	in := bufio.NewReader(conn)
	reply, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reply.Body.Close() }()
	if reply.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(reply.Status)
	}
	_, _ = io.WriteString(conn, "hello\n")
	if line, err := in.ReadString('\n'); line != "hello\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// TestNoRequestIsLost asks all the time, over kept connections and new ones, while the routes change a
// hundred times and come back each time.
func TestNoRequestIsLost(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	one := backend(t, "one")
	route := func(host string) mesh.Route {
		return mesh.Route{Object: "DNS " + host, Host: host, Paths: []mesh.RoutePath{path("/service1/", one)}}
	}
	n.source.Set(&mesh.Plan{Routes: []mesh.Route{route("node1.com")}})
	n.until("node1.com")

	ctx, cancel := context.WithCancel(t.Context())
	type count struct{ good, bad int }
	counts := make(chan count)
	for _, fresh := range []bool{false, true} {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: fresh}}
		go func() {
			var c count
			for ctx.Err() == nil {
				r, _ := http.NewRequest(http.MethodGet, "http://"+n.address.String()+"/service1/x", nil)
				r.Host = "node1.com"
				reply, err := client.Do(r)
				if err == nil {
					_, err = io.Copy(io.Discard, reply.Body)
					_ = reply.Body.Close()
				}
				if err != nil || reply.StatusCode != 200 {
					c.bad++
					t.Logf("%v %v", reply, err)
				} else {
					c.good++
				}
				time.Sleep(2 * time.Millisecond) // nginx and the reloads need a processor, too
			}
			counts <- c
		}()
	}
	for i := range 100 {
		extra := fmt.Sprintf("extra%d.com", i)
		n.source.Set(&mesh.Plan{Routes: []mesh.Route{route("node1.com"), route(extra)}})
		n.until(extra + " node1.com")
	}
	cancel()
	for range 2 {
		if c := <-counts; c.bad > 0 || c.good < 100 {
			t.Errorf("%d requests answered, %d not", c.good, c.bad)
		}
	}
}

// TestRefused: what nginx refuses changes nothing, and is told.
func TestRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	one := backend(t, "one")
	good := mesh.Route{Object: "DNS a", Host: "node1.com", Paths: []mesh.RoutePath{path("/service1/", one)}}
	n.source.Set(&mesh.Plan{Routes: []mesh.Route{good}})
	n.until("node1.com")
	before, err := os.ReadFile(n.source.nginx.file)
	if err != nil {
		t.Fatal(err)
	}

	// Somebody else's file wants to be the default at the same address.
	n.write("conf.d/zz.conf", fmt.Sprintf("server { listen %s:80 default_server; }\n", n.address))
	other := good
	other.Host = "node2.com"
	n.source.Set(&mesh.Plan{Routes: []mesh.Route{good, other}})
	n.until("node1.com", "nginx refuses the routes together with its other files", "duplicate default server")
	if after, err := os.ReadFile(n.source.nginx.file); err != nil || string(after) != string(before) {
		t.Errorf("the file is not as it was: %v", err)
	}
	if status, _, _ := n.get("node1.com", "/service1/"); status != 200 {
		t.Errorf("node1.com: %d", status)
	}
	n.stop()
	n.until("", "other files") // names do not outlive it while it refuses something
	if err := os.Remove(filepath.Join(n.dir, "conf.d/zz.conf")); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.until("node1.com node2.com") // it is tried again

	n.source.Set(&mesh.Plan{})
	n.until("")
	eventually(t, func() error { // the name goes first
		if status, _, _ := n.get("node1.com", "/service1/"); status != 404 {
			return fmt.Errorf("node1.com is gone, and yet: %d", status)
		}
		return nil
	})
}

// TestGone: a name does not outlive what nginx serves, and comes back with it.
func TestGone(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	n.source.Set(&mesh.Plan{Routes: []mesh.Route{{Object: "DNS a", Host: "node1.com", Paths: []mesh.RoutePath{path("/", backend(t, "one"))}}}})
	n.until("node1.com")

	// Somebody takes the file away and tells nginx: it is put back.
	if err := os.Remove(n.source.nginx.file); err != nil {
		t.Fatal(err)
	}
	if err := n.source.nginx.run(t.Context(), "-s", "reload"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if _, err := os.Stat(n.source.nginx.file); err != nil {
			return err
		}
		if status, _, _, err := n.try("node1.com", "/"); status != 200 {
			return fmt.Errorf("status %d, %w", status, err)
		}
		return nil
	})

	n.stop()
	n.until("", "is it running?")
	n.start()
	n.until("node1.com")
}

// TestOneWrites: of two that keep the same file the second waits until the first has ended, and meanwhile takes
// no name from what it said before.
func TestOneWrites(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	plan := &mesh.Plan{Routes: []mesh.Route{{Object: "DNS a", Host: "node1.com", Paths: []mesh.RoutePath{path("/", backend(t, "one"))}}}}
	n.source.Set(plan)
	n.until("node1.com")
	first := n.source
	written, err := os.ReadFile(first.nginx.file)
	if err != nil {
		t.Fatal(err)
	}

	second := New(Options{Address: n.where, File: first.nginx.file, Command: first.nginx.command})
	second.timing = first.timing
	heard := make(chan mesh.Input, 1)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- second.Run(ctx, func(in mesh.Input) { heard <- in }) }()
	other := plan.Routes[0]
	other.Host = "node2.com"
	second.Set(&mesh.Plan{Routes: []mesh.Route{plan.Routes[0], other}})
	if in := <-heard; !in.Pending || len(in.Problems) != 1 || !strings.Contains(in.Problems[0].Reason, "somebody else has it") {
		t.Errorf("beside the first: %+v", in)
	}
	if now, err := os.ReadFile(first.nginx.file); err != nil || string(now) != string(written) {
		t.Errorf("both have written: %v", err)
	}
	n.quit()
	if in := <-heard; in.Pending || len(in.Hosts) != 2 {
		t.Errorf("after the first: %+v", in)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestNotIncluded: a host has no name while nginx does not serve it.
func TestNotIncluded(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	n.source.nginx.file = filepath.Join(n.dir, "elsewhere.conf")
	n.source.Set(&mesh.Plan{Routes: []mesh.Route{{Object: "DNS a", Host: "node1.com", Paths: []mesh.RoutePath{path("/", backend(t, "one"))}}}})
	n.until("", "does its configuration include the file?")
}

// TestAddress: a node may have no address when it starts, and another one later.
func TestAddress(t *testing.T) {
	n := newNode(t, "")
	n.now.Store(nil)
	b := backend(t, "b")
	n.source.Set(&mesh.Plan{Routes: []mesh.Route{{Host: "a.example", Paths: []mesh.RoutePath{path("/x/", b)}}}})
	n.until("", "the node's address is not known: no default route")
	if !n.last.Pending {
		t.Error("before it has found nginx it says that there are no hosts")
	}
	n.now.Store(&n.address)
	n.until("a.example")
	n.now.Store(nil)
	n.until("a.example", "no default route")
	other := n.address.Next()
	n.now.Store(&other)
	for in := range n.said { // first of all it is said that the problem is gone
		if len(in.Hosts) == 1 && slices.Equal(in.Hosts[0].Addresses, []netip.Addr{other}) {
			break
		}
	}
	n.address = other
	if status, _, body := n.get("a.example", "/x/"); status != http.StatusOK {
		t.Errorf("at the new address: %d %s", status, body)
	}
}
