// Package istiod runs Istio's control plane inside a test: its real discovery server, its registries of
// services and its allocator of addresses, over real TCP, beside an API server made of memory.
//
// It is istiod's own code, of the version in go.mod, put together by istiod's own test package
// (pilot/test/xds). What a pod of istiod does besides and this does not: validate objects, gather
// changes for 100 ms before a push, elect a leader.
package istiod

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"istio.io/istio/pilot/pkg/controllers/ipallocate"
	istiogrpc "istio.io/istio/pilot/pkg/grpc"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/keepalive"
	"istio.io/istio/pkg/kube"
	"istio.io/istio/pkg/test"
)

// Istiod is a control plane that can be stopped and started, and the API server it reads, which outlives
// it. Its methods may be called concurrently.
type Istiod struct {
	listen Listen
	trust  *trust

	mu      sync.Mutex
	objects objects
	running *run
}

// Listen makes the listeners of a run: of istiod's port 15010, plain text, and of 15012, TLS.
type Listen func() (plain, secure net.Listener, err error)

// New returns a control plane that does not run yet.
func New(listen Listen) (*Istiod, error) {
	trust, err := newTrust()
	return &Istiod{listen: listen, trust: trust, objects: objects{}}, err
}

// run is one life of istiod.
type run struct {
	server *xds.FakeDiscoveryServer
	client kube.Client
	stop   chan struct{}
	ended  chan error
}

// patience is how long istiod may take to begin and to end.
const patience = time.Minute

// Start runs istiod and returns when it serves what the API server has.
func (i *Istiod) Start() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.running != nil {
		return errors.New("istiod runs already")
	}
	r := &run{stop: make(chan struct{}), ended: make(chan error, 1)}
	ready := make(chan struct{})
	go func() {
		r.ended <- test.Wrap(func(t test.Failer) {
			r.begin(t, i.objects.copies(), i.trust)
			r.serve(t, i.listen, i.trust)
			close(ready)
			<-r.stop
		})
	}()
	select {
	case <-ready:
		i.running = r
		return nil
	case err := <-r.ended:
		return fmt.Errorf("start istiod: %w", err)
	case <-time.After(patience):
		close(r.stop)
		return fmt.Errorf("istiod did not start within %v", patience)
	}
}

// Stop ends istiod and its streams at once; what does not run has stopped already. What istiod has
// written into objects stays in them.
func (i *Istiod) Stop() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	r := i.running
	if r == nil {
		return nil
	}
	err := i.objects.readBack(r.client)
	i.running = nil
	close(r.stop)
	select {
	case ended := <-r.ended:
		return errors.Join(err, ended)
	case <-time.After(patience):
		return errors.Join(err, fmt.Errorf("istiod did not end within %v", patience))
	}
}

// begin starts istiod on t, whose cleanups end it.
func (r *run) begin(t test.Failer, have []object, trust *trust) {
	stop := test.NewStop(t)
	var followers []follower
	var allocator *ipallocate.IPAllocator
	r.server = xds.NewFakeDiscoveryServer(t, xds.FakeOptions{
		Configs:           configs(have),
		KubernetesObjects: runtimeObjects(have),
		KubeClientModifier: func(c kube.Client) { // before the client's informers start
			r.client = c
			followers = newFollowers(c)
			allocator = ipallocate.NewIPAllocator(stop, c)
		},
	})
	r.server.Discovery.Authenticators = trust.authenticators(r.client)
	for _, f := range followers {
		f.follow(r.server.Store())
	}
	go allocator.Run(stop)
}

// serve puts the discovery server on the network, with the options of istiod's own servers.
func (r *run) serve(t test.Failer, listen Listen, trust *trust) {
	secret, err := trust.credentials()
	if err != nil {
		t.Fatal(err)
	}
	plain, secure, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		on          net.Listener
		credentials credentials.TransportCredentials
	}{{plain, insecure.NewCredentials()}, {secure, secret}} {
		options := istiogrpc.ServerOptions(keepalive.DefaultOption(), func(int64) {})
		server := grpc.NewServer(append(options, grpc.Creds(s.credentials))...)
		r.server.Discovery.Register(server)
		t.Cleanup(server.Stop)
		go func() { _ = server.Serve(s.on) }()
	}
}
