package xds

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// goControlPlane is the server of go-control-plane, which has both protocols and which nobody here wrote.
type goControlPlane struct {
	t        *testing.T
	path     string // of its unix socket
	caches   map[string]*cache.LinearCache
	server   *grpc.Server
	stop     context.CancelFunc
	onlySotw bool
	first    chan *discoveryv3.DeltaDiscoveryRequest // those without a nonce
	firstOld chan *discoveryv3.DiscoveryRequest
}

func newGoControlPlane(t *testing.T) *goControlPlane {
	cp := &goControlPlane{
		t: t, path: filepath.Join(t.TempDir(), "ads.sock"), caches: map[string]*cache.LinearCache{},
		first: make(chan *discoveryv3.DeltaDiscoveryRequest, 100), firstOld: make(chan *discoveryv3.DiscoveryRequest, 100),
	}
	for _, typeURL := range allTypes {
		cp.caches[typeURL] = cache.NewLinearCache(typeURL)
	}
	return cp
}

// start listens; what the caches hold is served.
func (cp *goControlPlane) start() {
	cp.t.Helper()
	mux := &cache.MuxCache{
		Classify:      func(r *cache.Request) string { return r.GetTypeUrl() },
		ClassifyDelta: func(r *cache.DeltaRequest) string { return r.GetTypeUrl() },
		Caches:        map[string]cache.Cache{},
	}
	for typeURL, c := range cp.caches {
		mux.Caches[typeURL] = c
	}
	var ctx context.Context
	ctx, cp.stop = context.WithCancel(context.Background())
	var ads discoveryv3.AggregatedDiscoveryServiceServer = server.NewServer(ctx, mux, server.CallbackFuncs{
		StreamDeltaRequestFunc: func(_ int64, r *discoveryv3.DeltaDiscoveryRequest) error {
			if r.ResponseNonce == "" && len(r.ResourceNamesUnsubscribe) == 0 {
				cp.first <- proto.Clone(r).(*discoveryv3.DeltaDiscoveryRequest)
			}
			return nil
		},
		StreamRequestFunc: func(_ int64, r *discoveryv3.DiscoveryRequest) error {
			if r.ResponseNonce == "" {
				cp.firstOld <- proto.Clone(r).(*discoveryv3.DiscoveryRequest)
			}
			return nil
		},
	})
	if cp.onlySotw {
		ads = &sotwServer{ads}
	}
	ln, err := net.Listen("unix", cp.path)
	if err != nil {
		cp.t.Fatal(err)
	}
	cp.server = grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(cp.server, ads)
	s := cp.server
	go func() { _ = s.Serve(ln) }()
	cp.t.Cleanup(cp.end)
}

func (cp *goControlPlane) end() {
	cp.stop()
	cp.server.Stop()
}

func (cp *goControlPlane) set(typeURL, name string, m types.Resource) {
	cp.t.Helper()
	if err := cp.caches[typeURL].UpdateResource(name, m); err != nil {
		cp.t.Fatal(err)
	}
}

func (cp *goControlPlane) del(typeURL, name string) {
	cp.t.Helper()
	if err := cp.caches[typeURL].DeleteResource(name); err != nil {
		cp.t.Fatal(err)
	}
}

// names is a name table in a message that carries any fields.
func names(t *testing.T, table *anypb.Any) types.Resource {
	t.Helper()
	m := &emptypb.Empty{}
	m.ProtoReflect().SetUnknown(table.Value)
	return m
}

// sotwServer knows no delta.
type sotwServer struct {
	discoveryv3.AggregatedDiscoveryServiceServer
}

func (*sotwServer) DeltaAggregatedResources(discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return status.Error(codes.Unimplemented, "not here")
}

// seen waits for an input of which ok is true.
func seen(t *testing.T, inputs <-chan mesh.Input, what string, ok func(mesh.Input) bool) mesh.Input {
	t.Helper()
	end := time.After(patient)
	var last mesh.Input
	for {
		select {
		case in := <-inputs:
			if last = in; ok(in) {
				return in
			}
		case <-end:
			t.Fatalf("no input with %s; the last is\n%s", what, show(last))
		}
	}
}

func TestAgainstGoControlPlane(t *testing.T) {
	for _, onlySotw := range []bool{false, true} {
		name := "delta"
		if onlySotw {
			name = "state of the world"
		}
		t.Run(name, func(t *testing.T) {
			cp := newGoControlPlane(t)
			cp.onlySotw = onlySotw
			table := captured(t, "05-seed002-two-rds-mysql/nds.pb")[0]
			cp.set(clusterType, "a", edsCluster("a"))
			cp.set(clusterType, "b", edsCluster("b"))
			cp.set(endpointType, "a", loadAssignment("a", "198.51.100.1:80"))
			cp.set(endpointType, "b", loadAssignment("b", "198.51.100.2:80"))
			cp.set(listenerType, "l", listenerMessage(t, "l", "192.0.2.1", 80, "a"))
			cp.set(listenerType, "m", listenerMessage(t, "m", "192.0.2.2", 80, "b"))
			cp.set(nameTableType, "", names(t, table))
			cp.start()
			src, inputs := follower(t, "unix://"+cp.path, nil)
			seen(t, inputs, "all there is", func(in mesh.Input) bool {
				return len(in.Hosts) == 2 && len(in.Listeners) == 2 && endpointsOf(in, "a") == "198.51.100.1:80" && endpointsOf(in, "b") == "198.51.100.2:80"
			})

			cp.set(endpointType, "a", loadAssignment("a", "198.51.100.9:80"))
			seen(t, inputs, "the new endpoint, and the other's", func(in mesh.Input) bool {
				return endpointsOf(in, "a") == "198.51.100.9:80" && endpointsOf(in, "b") == "198.51.100.2:80"
			})
			cp.del(listenerType, "m")
			seen(t, inputs, "one listener", func(in mesh.Input) bool { return len(in.Listeners) == 1 && len(in.Hosts) == 2 })
			cp.set(clusterType, "c", edsCluster("c"))
			cp.set(endpointType, "c", loadAssignment("c", "198.51.100.3:80"))
			cp.set(listenerType, "n", listenerMessage(t, "n", "192.0.2.3", 80, "c"))
			seen(t, inputs, "a new cluster's endpoints", func(in mesh.Input) bool { return endpointsOf(in, "c") == "198.51.100.3:80" })

			streams := src.Streams()
			if want := map[bool]string{false: "delta", true: "sotw"}[onlySotw]; len(streams) != 1 || streams[0].Protocol != want ||
				streams[0].Connected.IsZero() || len(streams[0].Versions) != 4 || streams[0].Error != "" {
				t.Errorf("streams %+v, want one of %s", streams, want)
			}

			cp.resume(inputs)
		})
	}
}

// resume changes the mesh while the server is away and sees what comes after.
func (cp *goControlPlane) resume(inputs <-chan mesh.Input) {
	t := cp.t
	t.Helper()
	for len(cp.first)+len(cp.firstOld) > 0 {
		select {
		case <-cp.first:
		case <-cp.firstOld:
		}
	}
	cp.end()
	seen(t, inputs, "the loss", func(in mesh.Input) bool { return lostReason(in) != "" && len(in.Listeners) == 2 })
	cp.del(listenerType, "n")
	cp.set(endpointType, "a", loadAssignment("a", "198.51.100.10:80"))
	cp.start()
	in := seen(t, inputs, "what has changed meanwhile", func(in mesh.Input) bool {
		return lostReason(in) == "" && len(in.Listeners) == 1 && endpointsOf(in, "a") == "198.51.100.10:80"
	})
	if len(in.Hosts) != 2 {
		t.Errorf("names are lost:\n%s", show(in))
	}
	if cp.onlySotw {
		if r := await(t, cp.firstOld, "first request"); r.TypeUrl != clusterType || r.VersionInfo == "" {
			t.Errorf("a session that offers no version: %v", r)
		}
		return
	}
	r := await(t, cp.first, "first request")
	var held []string
	for name, version := range r.InitialResourceVersions {
		if version != "" {
			held = append(held, name)
		}
	}
	slices.Sort(held)
	if r.TypeUrl != clusterType || !slices.Equal(held, []string{"a", "b", "c"}) {
		t.Errorf("a session that offers %v: %v", held, r)
	}
}

// A server that ends streams which ask for Istio's name table is asked without.
func TestGoControlPlaneWithoutNames(t *testing.T) {
	cp := newGoControlPlane(t)
	delete(cp.caches, nameTableType)
	cp.set(clusterType, "a", edsCluster("a"))
	cp.set(endpointType, "a", loadAssignment("a", "198.51.100.1:80"))
	cp.set(listenerType, "l", listenerMessage(t, "l", "192.0.2.1", 80, "a"))
	cp.start()
	_, inputs := follower(t, "unix://"+cp.path, nil)
	seen(t, inputs, "a listener and its cluster", func(in mesh.Input) bool {
		return len(in.Listeners) == 1 && endpointsOf(in, "a") == "198.51.100.1:80"
	})
}

// What has not changed is not sent again, and that is no reason to take the control plane for dead.
func TestResumeWithoutNews(t *testing.T) {
	cp := newGoControlPlane(t)
	cp.set(clusterType, "a", edsCluster("a"))
	cp.set(endpointType, "a", loadAssignment("a", "198.51.100.1:80"))
	cp.set(listenerType, "l", listenerMessage(t, "l", "192.0.2.1", 80, "a"))
	cp.onlySotw = true
	cp.start()
	src, inputs := follower(t, "unix://"+cp.path, func(tm *timing) { tm.grace, tm.patience = 50*time.Millisecond, 100*time.Millisecond })
	before := seen(t, inputs, "a listener", func(in mesh.Input) bool { return len(in.Listeners) == 1 })
	cp.end()
	seen(t, inputs, "the loss", func(in mesh.Input) bool { return lostReason(in) != "" })
	cp.start()
	after := seen(t, inputs, "no problem", func(in mesh.Input) bool { return lostReason(in) == "" })
	if show(after) != show(before) {
		t.Errorf("after the restart\n%s", show(after))
	}
	if st := src.Streams()[0]; st.Connected.IsZero() || st.Error != "" {
		t.Errorf("stream %+v", st)
	}
}
