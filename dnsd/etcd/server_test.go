package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// patience is how long something may take on a slow and busy machine.
const patience = 30 * time.Second

// server is a real etcd, Debian's or whichever is found.
type server struct {
	t      *testing.T
	dir    string
	scheme string
	ip     string
	args   []string
	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has
}

// newServer starts etcd on a loopback address of its own, with further arguments.
func newServer(t *testing.T, scheme string, args ...string) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir(), scheme: scheme, ip: ownIP(), args: args}
	t.Cleanup(s.stop)
	s.start()
	return s
}

// ownIP is one of 127.0.0.0/8, all of which are this machine's: the ports of other tests are elsewhere.
func ownIP() string {
	return fmt.Sprintf("127.%d.%d.%d", 64+rand.N(128), rand.N(256), 1+rand.N(254))
}

func (s *server) endpoint() string { return s.scheme + "://" + s.ip + ":2379" }

func (s *server) start() {
	s.t.Helper()
	path, err := exec.LookPath("etcd")
	if err != nil {
		s.t.Fatalf("%v: make deps installs it (Debian: etcd-server)", err)
	}
	peer := "http://" + s.ip + ":2380"
	s.cmd = exec.Command(path, append([]string{
		"--data-dir", s.dir, "--name", "only", "--listen-client-urls", s.endpoint(), "--advertise-client-urls", s.endpoint(),
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "only=" + peer,
		"--unsafe-no-fsync", "--log-level", "error",
	}, s.args...)...)
	s.cmd.Stdout, s.cmd.Stderr = s.t.Output(), s.t.Output()
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.boot(s.cmd)
}

// boot waits until etcd takes connections; one that ends instead has said why.
func (s *server) boot(cmd *exec.Cmd) {
	s.t.Helper()
	var err error
	ended := make(chan struct{})
	go func() { defer close(ended); err = cmd.Wait() }()
	s.ended = ended
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if conn, err := net.DialTimeout("tcp", s.ip+":2379", time.Second); err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-ended:
			s.t.Fatalf("etcd has ended: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	s.t.Fatalf("etcd does not listen at %s", s.ip)
}

// stop ends etcd; what it has stored stays.
func (s *server) stop() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		<-s.ended
		s.cmd = nil
	}
}

// client returns a client of its own for the test, once etcd answers.
func (s *server) client(store Store) *clientv3.Client {
	s.t.Helper()
	ctx := s.t.Context()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		var c *clientv3.Client
		if c, err = store.connect(ctx); err != nil {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, time.Second)
		_, err = c.Get(ask, "/skydns/nothing")
		cancel()
		if err == nil {
			s.t.Cleanup(func() { _ = c.Close() })
			return c
		}
		_ = c.Close()
	}
	s.t.Fatalf("etcd does not answer: %v", err)
	return nil
}

func (s *server) put(c *clientv3.Client, key, value string, o ...clientv3.OpOption) int64 {
	s.t.Helper()
	r, err := c.Put(s.t.Context(), key, value, o...)
	if err != nil {
		s.t.Fatal(err)
	}
	return r.Header.Revision
}

// watch runs a source until the test ends, and returns its newest input as text whenever there is one.
func watch(t *testing.T, o Options) chan string {
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s := New(o)
	s.timing.probe, s.timing.first, s.timing.longest = 200*time.Millisecond, 10*time.Millisecond, 100*time.Millisecond
	said := make(chan string, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Run(ctx, func(in mesh.Input) {
			select {
			case <-said: // nobody looked
			default:
			}
			said <- text(in)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return said
}

func text(in mesh.Input) string {
	var lines []string
	if in.Pending {
		lines = append(lines, "pending")
	}
	for i := range in.Hosts {
		h := in.Hosts[i]
		if h.Data != nil && len(h.Data.Services) > 0 && len(h.Data.Texts)+len(h.Data.Mail) == 0 {
			h.Data = nil
		}
		lines = append(lines, show(&h))
	}
	for i := range in.Routes {
		lines = append(lines, fmt.Sprintf("route %s %s", in.Routes[i].Object, in.Routes[i].Host))
	}
	for _, p := range in.Problems {
		lines = append(lines, "problem "+p.Object+": "+p.Reason)
	}
	return strings.Join(lines, "; ")
}

// until waits for an input of which every part is in it, or with ! before it is not.
func until(t *testing.T, said chan string, parts ...string) string {
	t.Helper()
	last := "nothing"
	end := time.After(patience)
	for {
		select {
		case last = <-said:
			if !slices.ContainsFunc(parts, func(part string) bool {
				rest, not := strings.CutPrefix(part, "!")
				return strings.Contains(last, rest) == not
			}) {
				return last
			}
		case <-end:
			t.Fatalf("it never said %q; at last: %s", parts, last)
		}
	}
}

// quietly returns a client that does not log.
func quietly(endpoint string, user, password string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Username: user, Password: password, Logger: zap.NewNop(), DialTimeout: patience})
}
