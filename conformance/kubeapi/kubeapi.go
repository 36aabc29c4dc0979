// Package kubeapi stands in for a Kubernetes API server, as far as those ask one who only list and watch:
// it has objects, tells watchers what happens to them, and fails when told to.
//
// It checks nothing, and knows no streaming lists, so that clients list. A kind exists from its first object
// on; those of Kubernetes itself always do.
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
	down    bool
	lists   map[string]int
}

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
		listener: ln, wake: make(chan struct{}), version: 1, lists: map[string]int{}, objects: map[string]map[string]*object{},
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
func (s *Server) Down(down bool) { s.set(func() { s.down = down }) }

// Forget has watches that begin before now fail, as after a compaction.
func (s *Server) Forget() { s.set(func() { s.events, s.oldest = nil, s.version }) }

// Lists says how often the kind of that resource ("services") has been listed.
func (s *Server) Lists(resource string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lists[resource]
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	s.mu.Lock()
	down, there := s.down, s.objects[r.URL.Path] != nil
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case down:
		status(w, http.StatusServiceUnavailable, "ServiceUnavailable")
	case !there:
		status(w, http.StatusNotFound, "NotFound")
	case query.Has("sendInitialEvents"):
		status(w, http.StatusUnprocessableEntity, "Invalid")
	case query.Has("watch"):
		s.watch(w, r)
	default:
		s.list(w, r)
	}
}

func status(w http.ResponseWriter, code int, reason string) {
	w.WriteHeader(code)
	_, _ = fmt.Fprintf(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": %q, "code": %d}`, reason, code)
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
	s.lists[resource[strings.LastIndexByte(resource, '/')+1:]]++
	items := []json.RawMessage{}
	for _, o := range s.objects[resource] {
		if selected(r, o) {
			items = append(items, o.body)
		}
	}
	list := map[string]any{"metadata": map[string]any{"resourceVersion": strconv.Itoa(s.version)}, "items": items}
	for kind, of := range kinds {
		if of == resource {
			apiVersion, name, _ := strings.Cut(kind, " ")
			list["apiVersion"], list["kind"] = apiVersion, name+"List"
		}
	}
	_ = json.NewEncoder(w).Encode(list)
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	tell := json.NewEncoder(w)
	for {
		s.mu.Lock()
		wake, down, oldest, events := s.wake, s.down, s.oldest, s.events
		s.mu.Unlock()
		switch {
		case down:
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
