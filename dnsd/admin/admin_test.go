package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func status() Status {
	return Status{
		Version: "v0.1.0", Node: "worker-1", Now: noon, Started: noon.Add(-3 * time.Hour),
		Tenure: Tenure{
			PID: 42, From: &Other{Version: "v0.0.9", PID: 41, At: noon.Add(-2 * time.Hour)},
			Failed:  &Other{Version: "v0.1.1", At: noon.Add(-time.Minute), Reason: "the other has ended before it took over"},
			Refused: "somebody who knocked: no greeting",
		},
		Kernel: Kernel{
			Release: "6.1.0", Heartbeat: noon.Add(-200 * time.Millisecond),
			Features: []Feature{
				{Name: "bpf_sock_destroy", Note: "connections to removed backends are not ended (needs 6.5)"},
				{Name: "set_retval", Present: true},
			},
			Counters: map[string]uint64{"captured": 12, "no_backend": 3, "map_full": 0},
		},
		Sources: []Source{
			{Name: "file", Spoke: noon.Add(-time.Minute), Hosts: 4, Clusters: 4, Problems: 1},
			{Name: "xds", Pending: true},
		},
		Pods: PodCount{Captured: 12, Failed: 1}, Names: 40, Clusters: 9, Frontends: 11, Backends: 23,
		VIPs:    VIPs{V4: "240.241.0.0/16", V6: "2001:2::/48", Used: 4, Resting: 1, Size: 65534},
		Queries: map[string]uint64{"ours": 100, "forwarded": 20},
		Upstream: Upstream{
			Servers: []UpstreamServer{{Address: "10.96.0.10:53", Down: true, Queries: 20, Failures: 7, Error: "timeout"}},
			Entries: 12, Bytes: 4096, Hits: 3, Misses: 1,
		},
		Problems: []Problem{{Source: "file", Object: "ServiceEntry ns1/db1", Reason: "port 0 is no port"}},
	}
}

func clusters() []ClusterRow {
	expires := noon.Add(27 * time.Second)
	google := []Origin{{Name: "news.google.com", Expires: expires}}
	return []ClusterRow{{
		Name: "outbound|80||news.google.com", Source: "xds", Type: "STRICT_DNS", Policy: "LEAST_REQUEST",
		Frontends: []string{"240.240.0.7:80/tcp", "[2001:2::7]:80/tcp"},
		Lookups: []LookupRow{
			{Name: "gone.example.com", Family: "AUTO", Asked: noon.Add(-time.Second), Next: noon.Add(4 * time.Second), Negative: true},
			{Name: "kept.example.com", Family: "AUTO", Addresses: []string{"192.0.2.3"}, Asked: noon.Add(-time.Minute), Next: noon.Add(time.Second), Error: "the server says SERVFAIL"},
			{Name: "late.example.com", Family: "AUTO", Next: noon, Error: "timeout"},
			{Name: "new.example.com", Family: "AUTO", Next: noon},
			{Name: "news.google.com", Family: "AUTO", Resolvers: "192.0.2.53:53", TCP: true, Addresses: []string{"192.0.2.1"},
				Asked: noon.Add(-3 * time.Second), Expires: expires, Next: expires},
		},
		Endpoints: []EndpointRow{
			{Address: "192.0.2.1:80", From: google, Weight: 1, Active: 2, Connections: 9, State: Serving},
			{Address: "192.0.2.2:80", From: append(google, Origin{Name: "b.example.com", Expires: noon}), Weight: 100, Connections: 12, Failures: 3, State: Ejected, EjectedUntil: noon.Add(12 * time.Second)},
			{Address: "192.0.2.3:80", From: []Origin{{Name: "kept.example.com", Expires: noon.Add(-time.Minute), Error: "the server says SERVFAIL"}}, Weight: 1, State: Ejected, EjectedUntil: noon.Add(-time.Second)},
			{Address: "192.0.2.9:80", Priority: 1, Weight: 1, State: Standby},
			{Address: "192.0.2.10:80", Weight: 1, State: Unhealthy},
		},
	}, {
		Name: "outbound|81||nothing.example.com", Source: "xds", Type: "STATIC", Policy: "RANDOM",
		Frontends: []string{}, Problem: "no endpoint: connections are refused",
	}}
}

func options(dir string) Options {
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "nodens_test"}, func() float64 { return 7 }))
	return Options{
		Socket: filepath.Join(dir, "admin.sock"), Listen: "127.0.0.1:0", Registry: reg, Version: "v0.1.0",
		Status: status, Clusters: clusters,
		Names: func(filter string) []NameRow {
			return []NameRow{{Name: filter + ".example.com", Addresses: []string{"240.240.0.7", "2001:2::7"}, VIP: true, Source: "file", Object: "ServiceEntry a/b"}}
		},
		Pods: func() []PodRow {
			return []PodRow{{Pod: "default/web-0", State: "captured", Cookie: 4242, Kernel: &KernelRow{Declared: 40, Learned: 2, Unknown: 7, Unusual: 1}, Addresses: []string{"10.244.0.5"},
				Nameservers: []NameserverRow{{Address: "10.96.0.10", Port: 64600}}, Since: noon}}
		},
		Explain: func(name, pod string) ([]string, error) {
			if pod != "default/web-0" {
				return nil, fmt.Errorf("no pod %s on this node", pod)
			}
			return []string{"query for " + name, "answered from the table"}, nil
		},
		Ready: func() error { return nil },
	}
}

// start serves o until the test ends and returns the local port's URL.
func start(t *testing.T, o Options) string {
	t.Helper()
	s := running(t, o)
	if s.Addr() == nil {
		return ""
	}
	return "http://" + s.Addr().String()
}

func running(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestWhatTheDaemonSaysIsWhatTheClientGets(t *testing.T) {
	o := options(t.TempDir())
	start(t, o)
	c, ctx := NewClient(o.Socket), t.Context()

	same := func(what string, got any, err error, want any) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
		}
	}
	st, err := c.Status(ctx)
	same("status", st, err, status())
	names, err := c.Names(ctx, "a&b=c")
	same("names", names, err, o.Names("a&b=c"))
	cl, err := c.Clusters(ctx)
	same("clusters", cl, err, clusters())
	pods, err := c.Pods(ctx)
	same("pods", pods, err, o.Pods())
	steps, err := c.Explain(ctx, "news.google.com", "default/web-0")
	same("explain", steps, err, []string{"query for news.google.com", "answered from the table"})

	if _, err := c.Explain(ctx, "x", "default/nobody"); err == nil || err.Error() != "no pod default/nobody on this node" {
		t.Errorf("explain of a pod that is not here: %v", err)
	}
}

func TestLocalPortServesHealthAndMetricsOnly(t *testing.T) {
	o := options(t.TempDir())
	notReady := errors.New("source xds has not spoken yet")
	o.Ready = func() error { return notReady }
	url := start(t, o)
	for path, want := range map[string]struct {
		code int
		body string
	}{
		"/healthz": {200, "ok"},
		"/readyz":  {503, fmt.Sprintf("%v\ndnsd v0.1.0, pid %d\n", notReady, os.Getpid())},
		"/metrics": {200, "nodens_test 7"},
		"/status":  {404, ""},
		"/pods":    {404, ""},
		"/explain": {404, ""},
	} {
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != want.code || !strings.Contains(string(body), want.body) {
			t.Errorf("%s: %d %q %v, want %d %q", path, resp.StatusCode, body, err, want.code, want.body)
		}
	}
}

func TestSocketIsNotForEverybody(t *testing.T) {
	o := options(t.TempDir())
	start(t, o)
	st, err := os.Stat(o.Socket)
	if err != nil || st.Mode().Perm() != 0o660 {
		t.Fatalf("mode %v, %v; want 0660", st.Mode(), err)
	}
}

func TestListen(t *testing.T) {
	t.Run("the next daemon has the socket, and shares the port", func(t *testing.T) {
		o := options(t.TempDir())
		first := running(t, o)
		var err error
		if o.Health, err = first.HealthFile(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = o.Health.Close() }()
		o.Status = func() Status { return Status{Version: "next"} }
		url := start(t, o)
		if !strings.Contains(url, first.Addr().String()) {
			t.Errorf("the next one is at %s, the first at %s", url, first.Addr())
		}
		if st, err := NewClient(o.Socket).Status(t.Context()); err != nil || st.Version != "next" {
			t.Fatalf("%+v, %v", st, err)
		}
	})
	t.Run("who is not open yet, or ends, leaves another's socket alone", func(t *testing.T) {
		o := options(t.TempDir())
		o.Listen = ""
		first, err := Listen(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := first.Open(); err != nil {
			t.Fatal(err)
		}
		next, err := Listen(o)
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
		if conn, err := net.Dial("unix", o.Socket); err != nil {
			t.Errorf("the first one is not there: %v", err)
		} else if _ = conn.Close(); first.unix.SetDeadline(time.Now().Add(20*time.Second)) == nil {
			if conn, err = first.unix.Accept(); err != nil {
				t.Errorf("the first one is not asked: %v", err)
			} else {
				_ = conn.Close()
			}
		}
		if err := next.Open(); err != nil {
			t.Fatal(err)
		}
		first.Close()
		if conn, err := net.Dial("unix", o.Socket); err != nil {
			t.Errorf("the next one is not there: %v", err)
		} else {
			_ = conn.Close()
		}
	})
	t.Run("a socket that is removed is made anew", func(t *testing.T) {
		o := options(t.TempDir())
		o.Listen = ""
		s, err := Listen(o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Open(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(o.Socket); err != nil {
			t.Fatal(err)
		}
		made := make(chan net.Listener, 1)
		s.remake(func(l net.Listener) { made <- l })
		s.remake(func(net.Listener) { t.Error("it is there") })
		conn, err := net.Dial("unix", o.Socket)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		<-made
	})
	t.Run("what a dead daemon left is replaced", func(t *testing.T) {
		o := options(t.TempDir())
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: o.Socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		_ = l.Close()
		start(t, o)
		if _, err := NewClient(o.Socket).Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a file that is no socket is left alone", func(t *testing.T) {
		o := options(t.TempDir())
		if err := os.WriteFile(o.Socket, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(o); err == nil || !strings.Contains(err.Error(), "no socket") {
			t.Fatal(err)
		}
	})
	t.Run("a taken port is named and leaves no socket", func(t *testing.T) {
		o := options(t.TempDir())
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		o.Listen = l.Addr().String()
		if _, err := Listen(o); err == nil || !strings.Contains(err.Error(), o.Listen) {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(filepath.Dir(o.Socket)); err != nil || len(left) > 0 {
			t.Fatalf("left behind: %v, %v", left, err)
		}
	})
	t.Run("a port that another daemon has yet is opened when it has left", func(t *testing.T) {
		o := options(t.TempDir())
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		port := l.Addr().(*net.TCPAddr).Port
		o.Listen, o.Late = fmt.Sprintf(":%d", port), true
		s := running(t, o)
		if health, err := s.HealthFile(); health != nil || err != nil || s.Addr() != nil {
			t.Errorf("%v, %v at %v, which is another's", health, err, s.Addr())
		}
		_ = l.Close()
		for deadline := time.Now().Add(20 * time.Second); s.Addr() == nil; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("it is not open")
			}
		}
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", port))
		if err != nil {
			t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != http.StatusOK {
			t.Error(resp.Status)
		}
		health, err := s.HealthFile()
		if health == nil || err != nil {
			t.Fatalf("%v, %v", health, err)
		}
		_ = health.Close()
	})
	t.Run("without a port", func(t *testing.T) {
		o := options(t.TempDir())
		o.Listen = ""
		if url := start(t, o); url != "" {
			t.Fatal(url)
		}
		if _, err := NewClient(o.Socket).Pods(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestNoDaemon(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "admin.sock")
	_, err := NewClient(socket).Status(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no dnsd answers on "+socket) {
		t.Fatal(err)
	}
}

func TestPrint(t *testing.T) {
	o := options("")
	for _, c := range []struct {
		file  string
		print func(io.Writer) error
	}{
		{"status.txt", func(w io.Writer) error { return PrintStatus(w, status()) }},
		{"names.txt", func(w io.Writer) error {
			return PrintNames(w, append(o.Names("news"), NameRow{Name: "ext.default.svc.cluster.local", CNAME: "example.org", View: "default", Source: "file"}))
		}},
		{"clusters.txt", func(w io.Writer) error { return printClusters(w, noon, clusters()) }},
		{"pods.txt", func(w io.Writer) error {
			rows := append(o.Pods(), PodRow{Pod: "default/late", State: "failed", Reason: "its namespace /run/netns/x is gone"})
			rows[0].Since = time.Time{}
			return PrintPods(w, rows)
		}},
		{"explain.txt", func(w io.Writer) error { return PrintExplain(w, []string{"first", "second"}) }},
	} {
		t.Run(c.file, func(t *testing.T) {
			var got bytes.Buffer
			if err := c.print(&got); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", c.file)
			want, err := os.ReadFile(path)
			if err != nil || got.String() != string(want) {
				t.Errorf("%s (%v)\n got:\n%s\nwant:\n%s", path, err, &got, want)
			}
		})
	}
}

func TestStatusFitsAScreenAndStartsWithTheVerdict(t *testing.T) {
	s := status()
	s.NotReady = "no program is attached"
	s.Kernel.Detached = "link connect4 is not pinned"
	var out bytes.Buffer
	if err := PrintStatus(&out, s); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if !strings.Contains(lines[0], "NOT READY: no program is attached") {
		t.Errorf("first line: %s", lines[0])
	}
	if !strings.Contains(out.String(), "NOT ATTACHED: link connect4 is not pinned") {
		t.Error("the kernel's line does not say what is missing")
	}
	if len(lines) > 24 {
		t.Errorf("%d lines do not fit a screen", len(lines))
	}
}

func TestPrintJSONReadsBack(t *testing.T) {
	var out bytes.Buffer
	if err := PrintJSON(&out, status()); err != nil {
		t.Fatal(err)
	}
	var back Status
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || !reflect.DeepEqual(back, status()) {
		t.Fatalf("%v\n%s", err, &out)
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:            "0s",
		230 * time.Millisecond:  "200ms",
		61 * time.Second:        "1m1s",
		3*time.Hour + 9e9:       "3h0m",
		49 * time.Hour:          "2d",
		11*time.Minute + 29*1e9: "11m",
	} {
		if got := age(noon, noon.Add(-d)); got != want {
			t.Errorf("age of %v: %s, want %s", d, got, want)
		}
	}
	if got := age(noon, time.Time{}); got != "-" {
		t.Errorf("never: %s", got)
	}
}
