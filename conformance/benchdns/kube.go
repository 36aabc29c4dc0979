package main

import (
	"encoding/json"
	"net"
	"net/http"
	"strings"
)

// kube stands in for a Kubernetes API server, as far as CoreDNS's kubernetes plugin asks one: it lists
// the services of a set and their namespaces, and no endpoints; a watch hears nothing, ever.
type kube struct {
	server   *http.Server
	listener net.Listener
}

// serveKube answers on ln, which it owns, until close.
func serveKube(ln net.Listener, set *names) (*kube, error) {
	services, spaces := set.objects()
	mux := http.NewServeMux()
	for path, list := range map[string]map[string]any{
		"/api/v1/services":                         {"kind": "ServiceList", "apiVersion": "v1", "items": services},
		"/api/v1/namespaces":                       {"kind": "NamespaceList", "apiVersion": "v1", "items": spaces},
		"/apis/discovery.k8s.io/v1/endpointslices": {"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "items": []any{}},
	} {
		list["metadata"] = map[string]any{"resourceVersion": "1"}
		body, err := json.Marshal(list)
		if err != nil {
			return nil, err
		}
		mux.HandleFunc(path, listOrWatch(body))
	}
	k := &kube{server: &http.Server{Handler: mux}, listener: ln}
	go func() { _ = k.server.Serve(ln) }()
	return k, nil
}

func (k *kube) url() string { return "http://" + k.listener.Addr().String() }

func (k *kube) close() { _ = k.server.Close() }

// objects are the set as Kubernetes objects.
func (set *names) objects() (services, spaces []any) {
	seen := map[string]bool{}
	for _, s := range set.services {
		if !seen[s.namespace] {
			seen[s.namespace] = true
			spaces = append(spaces, map[string]any{"metadata": map[string]any{"name": s.namespace, "resourceVersion": "1"}})
		}
		services = append(services, map[string]any{
			"metadata": map[string]any{"name": s.name, "namespace": s.namespace, "resourceVersion": "1"},
			"spec": map[string]any{
				"type": "ClusterIP", "clusterIP": s.addr, "clusterIPs": []any{s.addr},
				"ports": []any{map[string]any{"name": "http", "port": 80, "protocol": "TCP"}},
			},
		})
	}
	return services, spaces
}

func listOrWatch(list []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		query := r.URL.Query()
		if query.Has("sendInitialEvents") {
			// What a server without streaming lists says; the client then asks for a plain one.
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = strings.NewReader(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`).WriteTo(w)
			return
		}
		if !query.Has("watch") {
			_, _ = w.Write(list)
			return
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}
