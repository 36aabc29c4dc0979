// Package kubeapi stands in for a Kubernetes API server, as far as those ask one who only list and watch:
// it has objects, tells watchers what happens to them, and fails when told to.
//
// It checks nothing. Lists are streamed to who asks for that, as Kubernetes does from 1.32 on, unless it is
// told to be older. A kind exists from its first object on; those of Kubernetes itself always do.
package kubeapi

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/yaml"
)

// kinds are the resources of those that are known.
var kinds = map[string]string{
	"v1 Namespace":                                 "/api/v1/namespaces",
	"v1 Node":                                      "/api/v1/nodes",
	"v1 Service":                                   "/api/v1/services",
	"v1 Pod":                                       "/api/v1/pods",
	"discovery.k8s.io/v1 EndpointSlice":            "/apis/discovery.k8s.io/v1/endpointslices",
	"networking.istio.io/v1 ServiceEntry":          "/apis/networking.istio.io/v1/serviceentries",
	"networking.istio.io/v1 WorkloadEntry":         "/apis/networking.istio.io/v1/workloadentries",
	"networking.istio.io/v1 DestinationRule":       "/apis/networking.istio.io/v1/destinationrules",
	"multicluster.x-k8s.io/v1alpha1 ServiceImport": "/apis/multicluster.x-k8s.io/v1alpha1/serviceimports",
}

// Server is one cluster's API.
type Server struct {
	listener net.Listener
	server   *http.Server

	mu      sync.Mutex    // guards what follows
	wake    chan struct{} // closed when anything has changed
	version int
	oldest  int                           // of the versions that a watch may begin at
	objects map[string]map[string]*object // by resource, then namespace and name
	events  []event
	failure Failure
	old     bool
	denied  map[string]bool
	lists   map[string]int
}

// Failure is how a server fails.
type Failure int

// How a server may fail: it says that it is not available, it does not answer at all, it drops connections.
const (
	None Failure = iota
	Unavailable
	Silent
	Broken
)

type object struct {
	body json.RawMessage
	node string // metadata.name, for field selectors
}

type event struct {
	resource, verb string
	version        int
	object         *object
}

// Serve answers on ln, which it owns, until Close.
func Serve(ln net.Listener) *Server {
	s := &Server{
		listener: ln, wake: make(chan struct{}), version: 1, lists: map[string]int{}, denied: map[string]bool{}, objects: map[string]map[string]*object{},
	}
	for kind, resource := range kinds {
		if !strings.Contains(kind, "istio.io") && !strings.Contains(kind, "x-k8s.io") {
			s.objects[resource] = map[string]*object{}
		}
	}
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.server.Serve(ln) }()
	return s
}

// Close ends it, and all watches.
func (s *Server) Close() { _ = s.server.Close() }

// WriteKubeconfig writes a file that leads clients here.
func (s *Server) WriteKubeconfig(path string) error {
	return os.WriteFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: "http://%s"}}]
contexts: [{name: here, context: {cluster: here, user: nobody}}]
users: [{name: nobody, user: {}}]
`, s.listener.Addr()), 0o600)
}

// set changes the server and lets watchers look.
func (s *Server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.wake)
	s.wake = make(chan struct{})
}

// Put adds or replaces the objects of a manifest.
func (s *Server) Put(manifest string) error { return s.each(manifest, s.put) }

// Remove takes the objects of a manifest out; only what they are called counts.
func (s *Server) Remove(manifest string) error { return s.each(manifest, s.remove) }

func (s *Server) each(manifest string, do func(resource, key string, o map[string]any)) error {
	decode := func(text []byte, o any) error { return yaml.Unmarshal(text, o) }
	if strings.HasPrefix(manifest, "{") {
		decode = json.Unmarshal // a hundred times as fast
	}
	for doc := range strings.SplitSeq("\n"+manifest, "\n---") {
		var o map[string]any
		if err := decode([]byte(doc), &o); err != nil {
			return err
		}
		if o == nil {
			continue
		}
		kind := fmt.Sprint(o["apiVersion"], " ", o["kind"])
		resource := kinds[kind]
		m, _ := o["metadata"].(map[string]any)
		if resource == "" || m == nil {
			return fmt.Errorf("%s is of no use here", kind)
		}
		namespace, _ := m["namespace"].(string)
		do(resource, fmt.Sprint(namespace, "/", m["name"]), o)
	}
	return nil
}

func (s *Server) put(resource, key string, o map[string]any) {
	s.set(func() {
		s.version++
		verb := "ADDED"
		if s.objects[resource][key] != nil {
			verb = "MODIFIED"
		}
		if s.objects[resource] == nil {
			s.objects[resource] = map[string]*object{}
		}
		s.keep(resource, key, verb, o)
	})
}

func (s *Server) remove(resource, key string, o map[string]any) {
	s.set(func() {
		s.version++
		if s.objects[resource][key] == nil {
			return
		}
		s.keep(resource, key, "DELETED", o)
		delete(s.objects[resource], key)
	})
}

// keep stores an object with its version, and what happened to it.
func (s *Server) keep(resource, key, verb string, o map[string]any) {
	m := o["metadata"].(map[string]any)
	m["resourceVersion"] = strconv.Itoa(s.version)
	body, _ := json.Marshal(o) // it was decoded from text
	kept := &object{body: body, node: fmt.Sprint(m["name"])}
	s.objects[resource][key] = kept
	s.events = append(s.events, event{resource, verb, s.version, kept})
}

// Down has every request fail and every watch end, until it is told otherwise.
func (s *Server) Down(down bool) {
	if down {
		s.Fail(Unavailable)
	} else {
		s.Fail(None)
	}
}

// Fail has every watch end and every request fail in that way from now on; None has it answer again.
func (s *Server) Fail(f Failure) { s.set(func() { s.failure = f }) }

// Old has lists of all kinds not be streamed.
func (s *Server) Old() { s.set(func() { s.old = true }) }

// Deny has nobody read the kind of that resource ("serviceentries"), and ends its watches, until it is told
// otherwise. The answer has no message, as those of some proxies have none.
func (s *Server) Deny(resource string, denied bool) { s.set(func() { s.denied[resource] = denied }) }

// Forget has watches that begin before now fail, as after a compaction.
func (s *Server) Forget() { s.set(func() { s.events, s.oldest = nil, s.version }) }

// Lists says how often the kind of that resource ("services") has been listed.
func (s *Server) Lists(resource string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lists[resource]
}

// nameOf is what a resource is called: the end of its path.
func nameOf(resource string) string { return resource[strings.LastIndexByte(resource, '/')+1:] }

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	s.mu.Lock()
	failure, there := s.failure, s.objects[r.URL.Path] != nil
	denied, old := s.denied[nameOf(r.URL.Path)], s.old
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case failure == Silent:
		s.wait(r, func() bool { return s.failure == Silent })
		panic(http.ErrAbortHandler)
	case failure == Broken:
		panic(http.ErrAbortHandler)
	case failure == Unavailable:
		status(w, http.StatusServiceUnavailable, "ServiceUnavailable", "not now")
	case denied:
		status(w, http.StatusForbidden, "Forbidden", "")
	case !there:
		status(w, http.StatusNotFound, "NotFound", "no such kind")
	case old && query.Has("sendInitialEvents"):
		status(w, http.StatusUnprocessableEntity, "Invalid", "sendInitialEvents is not known")
	case query.Has("watch"):
		s.watch(w, r)
	default:
		s.list(w, r)
	}
}

// wait waits until something is no longer so, or nobody waits for the answer.
func (s *Server) wait(r *http.Request, so func() bool) {
	for {
		s.mu.Lock()
		wake, goOn := s.wake, so()
		s.mu.Unlock()
		if !goOn {
			return
		}
		select {
		case <-wake:
		case <-r.Context().Done():
			return
		}
	}
}

func status(w http.ResponseWriter, code int, reason, message string) {
	w.WriteHeader(code)
	_, _ = fmt.Fprintf(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": %q, "code": %d, "message": %q}`, reason, code, message)
}

// selected says whether a request is for o: one may ask for a name.
func selected(r *http.Request, o *object) bool {
	name, ok := strings.CutPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=")
	return !ok || name == o.node
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resource := r.URL.Path
	s.lists[nameOf(resource)]++
	items := []json.RawMessage{}
	for _, o := range s.objects[resource] {
		if selected(r, o) {
			items = append(items, o.body)
		}
	}
	list := map[string]any{"metadata": map[string]any{"resourceVersion": strconv.Itoa(s.version)}, "items": items}
	apiVersion, kind := kindOf(resource)
	list["apiVersion"], list["kind"] = apiVersion, kind+"List"
	_ = json.NewEncoder(w).Encode(list)
}

// kindOf is the kind of a resource.
func kindOf(resource string) (apiVersion, kind string) {
	for k, of := range kinds {
		if of == resource {
			apiVersion, kind, _ = strings.Cut(k, " ")
		}
	}
	return apiVersion, kind
}

// stream tells all there is, and of which version that is, and returns the version.
func (s *Server) stream(r *http.Request, tell *json.Encoder) (from int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists[nameOf(r.URL.Path)]++
	for _, o := range s.objects[r.URL.Path] {
		if selected(r, o) {
			_ = tell.Encode(map[string]any{"type": "ADDED", "object": o.body})
		}
	}
	apiVersion, kind := kindOf(r.URL.Path)
	_ = tell.Encode(map[string]any{"type": "BOOKMARK", "object": map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{
		"resourceVersion": strconv.Itoa(s.version), "annotations": map[string]any{"k8s.io/initial-events-end": "true"},
	}}})
	return s.version
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	tell := json.NewEncoder(w)
	if r.URL.Query().Has("sendInitialEvents") {
		from = s.stream(r, tell)
	}
	for {
		s.mu.Lock()
		wake, end, oldest, events := s.wake, s.failure != None || s.denied[nameOf(r.URL.Path)], s.oldest, s.events
		s.mu.Unlock()
		switch {
		case end:
			return
		case from < oldest:
			_ = tell.Encode(map[string]any{"type": "ERROR", "object": map[string]any{
				"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": http.StatusGone}})
			return
		}
		for _, e := range events {
			if e.resource == r.URL.Path && e.version > from && selected(r, e.object) {
				_ = tell.Encode(map[string]any{"type": e.verb, "object": e.object.body})
			}
			from = max(from, e.version)
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-wake:
		case <-r.Context().Done():
			return
		}
	}
}
