package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/nodens-dns/nodens/dnsd/replace"
)

// Options are where to listen and what to show. Every function may be called at any moment and from
// several goroutines at once; none but Queries may block for long.
type Options struct {
	// Socket is the path of the unix socket. Its folder must exist.
	Socket string
	// Listen is the address for health checks and metrics, meant to be on loopback; empty means none.
	Listen string
	// Health, if not nil, is a socket that listens there already, which stays the caller's.
	Health *os.File
	// Late says that Listen may be taken for now, by a daemon that is about to leave: then Serve opens it.
	Late bool
	// Version is this dnsd's.
	Version string

	Status   func() Status
	Names    func(filter string) []NameRow
	Clusters func() []ClusterRow
	Pods     func() []PodRow
	// Explain says, step by step, what a query for name from pod ("namespace/name") meets.
	Explain func(name, pod string) ([]string, error)
	// Queries calls show with each query of pod (empty means all) as it is answered, or with one in every so
	// many of them, until ctx is done, or with the error that show returns. Before the first it calls show
	// with nil; more says that another query waits already.
	Queries func(ctx context.Context, pod string, every int, show func(q *Query, more bool) error) error
	// Ready returns why this daemon does not do its work yet; nil means it does.
	Ready    func() error
	Registry *prometheus.Registry
}

// lookEvery is how soon a socket that somebody has removed is there again.
const lookEvery = 5 * time.Second

// knockEvery is how soon a port is open that another daemon has left.
const knockEvery = time.Second

// Server answers on both listeners.
type Server struct {
	path  string
	late  string       // the port to open yet, or empty; Serve's
	mu    sync.Mutex   // guards the following
	tcp   net.Listener // or nil
	unix  *replace.Socket
	http  http.Server // dumps, on the unix socket
	local http.Server // health and metrics, on the port

	removed []net.Listener // still served, though their file is gone
}

// Listen opens the port, and the socket under another name: until Open, a predecessor is asked there. Serve or
// Close must follow.
func Listen(o Options) (*Server, error) {
	s := &Server{path: o.Socket}
	public := http.NewServeMux()
	health(public, o)
	private := http.NewServeMux()
	health(private, o)
	dumps(private, o)
	// A client that sends slowly must not hold a goroutine for ever; answers are small and made at once.
	s.http = http.Server{Handler: private, ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}
	s.local = http.Server{Handler: public, ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}

	var err error
	if s.unix, err = listenUnix(o.Socket); err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", o.Socket, err)
	}
	if o.Listen == "" {
		return s, nil
	}
	if o.Health != nil {
		s.tcp, err = net.FileListener(o.Health)
	} else {
		s.tcp, err = net.Listen("tcp", o.Listen)
	}
	if o.Late && errors.Is(err, syscall.EADDRINUSE) {
		s.tcp, s.late = nil, o.Listen
		return s, nil
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("health and metrics: %w (choose another address with listen)", err)
	}
	return s, nil
}

// Addr is the address of the local port, or nil while there is none.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tcp == nil {
		return nil
	}
	return s.tcp.Addr()
}

// HealthFile returns the socket of the local port by another descriptor, which is the caller's, or nil if there
// is no such port, or not yet.
func (s *Server) HealthFile() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tcp, ok := s.tcp.(*net.TCPListener)
	if !ok {
		return nil, nil
	}
	return tcp.File()
}

// Open gives the socket its name. One that is there is replaced: there is one dnsd to a folder, and its
// predecessor may still answer for a moment. Should it fail, Serve tries again.
func (s *Server) Open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.unix.Place(); err != nil {
		return fmt.Errorf("dnsd's own commands find nobody for now: %w", err)
	}
	return nil
}

// Serve answers until ctx is done, then closes both listeners; the socket's file stays, which may be a
// successor's by then, and says "connection refused" if not. A request under way gets a second to end.
func (s *Server) Serve(ctx context.Context) error {
	errs := make(chan error, 2)
	var accepting sync.WaitGroup
	serve := func(server *http.Server, l net.Listener) {
		accepting.Go(func() {
			err := server.Serve(l)
			select {
			case errs <- err:
			default: // one is enough
			}
		})
	}
	var open sync.WaitGroup
	count := func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew: // before the accepting goes on
			open.Add(1)
		case http.StateClosed, http.StateHijacked:
			open.Done()
		}
	}
	s.http.ConnState, s.local.ConnState = count, count
	s.http.BaseContext = func(net.Listener) context.Context { return ctx } // so that whoever watches queries goes, too
	serve(&s.http, s.unix)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	if s.late != "" {
		look.Reset(knockEvery)
	} else if s.tcp != nil {
		serve(&s.local, s.tcp)
	}
	var err error
	for err == nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case err = <-errs:
			err = fmt.Errorf("admin: %w", err)
		case <-look.C:
			s.remake(func(l net.Listener) { serve(&s.http, l) })
			if s.late != "" && s.openLate() {
				serve(&s.local, s.tcp)
				look.Reset(lookEvery)
			}
		}
	}
	s.Close()
	accepting.Wait()
	s.drain(&open)
	return err
}

// drain waits, for a second, until whoever is connected has his answer. Shutdown would not do: it hangs up on
// who has just sent a request.
func (s *Server) drain(open *sync.WaitGroup) {
	s.http.SetKeepAlivesEnabled(false)
	s.local.SetKeepAlivesEnabled(false)
	idle := make(chan struct{})
	go func() {
		open.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-time.After(time.Second):
	}
	_ = s.http.Close()
	_ = s.local.Close()
}

// remake makes the socket anew, and has it served, if somebody has removed it, or it could not get its name. That
// this fails is no reason to end: it is tried again.
func (s *Server) remake(serve func(net.Listener)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.unix.Lost() {
		return
	}
	if l, err := listenUnix(s.path); err == nil {
		s.removed = append(s.removed, s.unix) // whose connections go on
		s.unix = l
		_ = l.Place()
		serve(l)
	}
}

// openLate opens the port if it is free by now. Only Serve's goroutine writes what it writes.
func (s *Server) openLate() bool {
	l, err := net.Listen("tcp", s.late)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tcp, s.late = l, ""
	return true
}

// Close closes both listeners.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range append(s.removed, s.unix) {
		_ = l.Close()
	}
	if s.tcp != nil {
		_ = s.tcp.Close()
	}
}

// listenUnix makes the socket, open to root and to its folder's group (mode 0660): the dumps name every host of
// the mesh and every pod, which is not for everybody to read.
func listenUnix(path string) (*replace.Socket, error) { return replace.Listen("unix", path, 0o660) }

// health serves what a kubelet and a Prometheus ask. /healthz says only that the process answers:
// restarting a daemon that waits for something outside helps nobody. /readyz says whether it works, and who says
// so: while one dnsd takes over from another, and after that, both pods' probes are answered by one of them.
func health(mux *http.ServeMux, o Options) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		who := fmt.Sprintf("dnsd %s, pid %d", o.Version, os.Getpid())
		if err := o.Ready(); err != nil {
			http.Error(w, err.Error()+"\n"+who, http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintf(w, "ok\n%s\n", who)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Registry, promhttp.HandlerOpts{}))
}

func dumps(mux *http.ServeMux, o Options) {
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { reply(w, o.Status()) })
	mux.HandleFunc("GET /names", func(w http.ResponseWriter, r *http.Request) { reply(w, o.Names(r.FormValue("filter"))) })
	mux.HandleFunc("GET /clusters", func(w http.ResponseWriter, _ *http.Request) { reply(w, o.Clusters()) })
	mux.HandleFunc("GET /pods", func(w http.ResponseWriter, _ *http.Request) { reply(w, o.Pods()) })
	mux.HandleFunc("GET /explain", func(w http.ResponseWriter, r *http.Request) {
		steps, err := o.Explain(r.FormValue("name"), r.FormValue("pod"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		reply(w, steps)
	})
	mux.HandleFunc("GET /queries", func(w http.ResponseWriter, r *http.Request) { queries(w, r, o) })
}

// queries sends queries as they are answered, one JSON object a line, until whoever watches has gone.
func queries(w http.ResponseWriter, r *http.Request, o Options) {
	every, err := strconv.Atoi(r.FormValue("every"))
	if err != nil || every < 1 {
		http.Error(w, fmt.Sprintf("every=%q: a number from 1", r.FormValue("every")), http.StatusBadRequest)
		return
	}
	out := http.NewResponseController(w)
	_ = out.SetReadDeadline(time.Time{}) // the end of reading would be taken for the reader's going
	lines := json.NewEncoder(w)
	err = o.Queries(r.Context(), r.FormValue("pod"), every, func(q *Query, more bool) error {
		// Nobody waits for a reader who has stopped reading but the reader himself.
		err := out.SetWriteDeadline(time.Now().Add(30 * time.Second))
		if q != nil {
			err = errors.Join(err, lines.Encode(q))
		}
		if !more {
			err = errors.Join(err, out.Flush())
		}
		return err
	})
	if err != nil && r.Context().Err() == nil {
		http.Error(w, err.Error(), http.StatusNotFound)
	}
}

func reply(w http.ResponseWriter, v any) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(data, '\n'))
}
