package kube

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// api stands in for an API server, as far as a source asks one: it lists, and tells watchers what happens
// after the version they know. It knows no streaming lists, so that clients list.
type api struct {
	server *httptest.Server

	mu      sync.Mutex
	wake    chan struct{} // closed when anything has changed
	version int
	oldest  int                       // of the versions that a watch may begin at
	objects map[string]map[string]any // by path of the kind, then namespace and name
	events  []event                   //
	down    bool                      // every request fails, and every watch ends
	lists   map[string]int            // how often each kind has been listed
	watches map[string]int            // how often it has been watched
}

type event struct {
	path, verb string
	version    int
	object     any
}

const (
	services   = "/api/v1/services"
	namespaces = "/api/v1/namespaces"
	nodes      = "/api/v1/nodes"
	slicesPath = "/apis/discovery.k8s.io/v1/endpointslices"
	entries    = "/apis/networking.istio.io/v1/serviceentries"
	rules      = "/apis/networking.istio.io/v1/destinationrules"
)

func serveAPI(t *testing.T) *api {
	a := &api{
		wake: make(chan struct{}), version: 1, lists: map[string]int{}, watches: map[string]int{},
		objects: map[string]map[string]any{services: {}, namespaces: {}, nodes: {}, slicesPath: {}},
	}
	a.server = httptest.NewServer(a)
	t.Cleanup(func() {
		a.set(func() { a.down = true })
		a.server.Close()
	})
	return a
}

// kubeconfig is a file that leads to the server.
func (a *api) kubeconfig(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": [{"name": "c", "cluster": {"server": %q}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}]}`, a.server.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// set changes the server and lets watchers look.
func (a *api) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	close(a.wake)
	a.wake = make(chan struct{})
}

// put adds or replaces an object, written in JSON.
func (a *api) put(path, text string) {
	var o map[string]any
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		panic(err)
	}
	a.set(func() {
		a.version++
		m := o["metadata"].(map[string]any)
		m["resourceVersion"] = strconv.Itoa(a.version)
		key := fmt.Sprint(m["namespace"], "/", m["name"])
		verb := "ADDED"
		if a.objects[path][key] != nil {
			verb = "MODIFIED"
		}
		if a.objects[path] == nil {
			a.objects[path] = map[string]any{}
		}
		a.objects[path][key] = o
		a.events = append(a.events, event{path, verb, a.version, o})
	})
}

func (a *api) remove(path, namespace, name string) {
	a.set(func() {
		a.version++
		key := namespace + "/" + name
		o := a.objects[path][key]
		delete(a.objects[path], key)
		a.events = append(a.events, event{path, "DELETED", a.version, o})
	})
}

// forget has watches that begin before now fail, as after a compaction, and the open ones end.
func (a *api) forget() {
	a.set(func() { a.events, a.oldest = nil, a.version })
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	a.mu.Lock()
	down, there, path := a.down, a.objects[r.URL.Path] != nil, r.URL.Path
	if query.Get("sendInitialEvents") == "" {
		a.lists[path] += map[bool]int{true: 1}[!query.Has("watch")]
		a.watches[path] += map[bool]int{true: 1}[query.Has("watch")]
	}
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case down:
		http.Error(w, "down", http.StatusServiceUnavailable)
	case !there:
		status(w, http.StatusNotFound, "NotFound")
	case query.Has("sendInitialEvents"):
		status(w, http.StatusUnprocessableEntity, "Invalid")
	case query.Has("watch"):
		a.watch(w, r)
	default:
		a.list(w, path)
	}
}

func status(w http.ResponseWriter, code int, reason string) {
	w.WriteHeader(code)
	_, _ = fmt.Fprintf(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": %q, "code": %d}`, reason, code)
}

// kindOf names the kind of objects at a path.
func kindOf(path string) (apiVersion, kind string) {
	for _, k := range kinds {
		if strings.HasSuffix(path, "/"+k.resource) {
			return k.String(), string(k.Kind)
		}
	}
	return "", ""
}

func (a *api) list(w http.ResponseWriter, path string) {
	apiVersion, kind := kindOf(path)
	a.mu.Lock()
	defer a.mu.Unlock()
	items := []any{}
	for _, o := range a.objects[path] {
		items = append(items, o)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": apiVersion, "kind": kind + "List",
		"metadata": map[string]any{"resourceVersion": strconv.Itoa(a.version)}, "items": items,
	})
}

func (a *api) watch(w http.ResponseWriter, r *http.Request) {
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	apiVersion, kind := kindOf(r.URL.Path)
	tell := json.NewEncoder(w)
	for {
		a.mu.Lock()
		wake, down, oldest, events := a.wake, a.down, a.oldest, a.events
		a.mu.Unlock()
		if down {
			return
		}
		if from < oldest {
			_ = tell.Encode(map[string]any{"type": "ERROR", "object": map[string]any{
				"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}})
			return
		}
		for _, e := range events {
			if e.path == r.URL.Path && e.version > from {
				o := e.object.(map[string]any)
				o["apiVersion"], o["kind"] = apiVersion, kind
				_ = tell.Encode(map[string]any{"type": e.verb, "object": o})
				from = e.version
			}
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-wake:
		case <-r.Context().Done():
			return
		}
	}
}
