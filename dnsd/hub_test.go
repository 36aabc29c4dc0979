package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/keep"
	"github.com/nodens-dns/nodens/dnsd/lb"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/dnsd/resolve"
	"github.com/nodens-dns/nodens/dnsd/serve"
	"github.com/nodens-dns/nodens/dnsd/upstream"
	"github.com/nodens-dns/nodens/ebpf"
)

// recorder stands for the kernel, to see what it is told and when.
type recorder struct {
	frontends map[ebpf.Frontend]string
	calls     int
	at        func() // called inside Apply
	err       error
	ejected   func(service string) []netip.AddrPort
}

func (r *recorder) Dump() []ebpf.ServiceState {
	return []ebpf.ServiceState{{Frontends: slices.Collect(maps.Keys(r.frontends))}}
}

func (r *recorder) Ejected(service string) []netip.AddrPort {
	if r.ejected == nil {
		return nil
	}
	return r.ejected(service)
}

// Change takes what differs, or nothing if it is to fail.
func (r *recorder) Change(f map[ebpf.Frontend]string, _ map[string]ebpf.Service) (ebpf.Changes, error) {
	all := maps.Clone(r.frontends)
	maps.Copy(all, f)
	maps.DeleteFunc(all, func(_ ebpf.Frontend, name string) bool { return name == "" })
	return r.Apply(all, nil)
}

// Apply takes everything, or nothing new if it is to fail.
func (r *recorder) Apply(f map[ebpf.Frontend]string, _ map[string]ebpf.Service) (ebpf.Changes, error) {
	r.calls++
	if r.err == nil {
		r.frontends = f
	}
	if r.at != nil {
		r.at()
	}
	return ebpf.Changes{}, r.err
}

// testHub is a hub with real parts around it, but for the kernel and the servers asked.
func testHub(t *testing.T, dir string, kernel *recorder, sources ...string) *hub {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	kept, err := keep.Open(filepath.Join(dir, "inputs"), log)
	if err != nil {
		t.Fatal(err)
	}
	vips, err := mesh.OpenVIPs(filepath.Join(dir, "vips.json"),
		netip.MustParsePrefix("240.240.0.0/16"), netip.MustParsePrefix("2001:2::/48"))
	if err != nil {
		t.Fatal(err)
	}
	h := newHub(log, vips, append(sources, "resolve"), kept)
	h.balancer = lb.New(kernel, lb.Options{})
	h.server = serve.New(serve.Options{})
	h.resolver = resolve.New(resolve.Options{
		Exchange: func(context.Context, upstream.Servers, *dns.Msg) (*dns.Msg, error) {
			return nil, errors.New("no servers")
		},
		Servers: func() []netip.AddrPort { return nil },
		Emit:    func(mesh.Input) {},
	})
	return h
}

func address(t *testing.T, h *hub, name string) netip.Addr {
	t.Helper()
	a := h.server.Table().Lookup(&names.Client{}, name, dns.TypeA)
	if len(a.Addresses) == 0 {
		return netip.Addr{}
	}
	return a.Addresses[0]
}

func input(hosts ...string) mesh.Input {
	in := mesh.Input{
		Source: "file",
		Clusters: []mesh.Cluster{{
			Name: "c", Discovery: mesh.Static, Balancing: mesh.Balancing{LbPolicy: mesh.LeastRequest},
			Localities: []mesh.Locality{{Endpoints: []mesh.Endpoint{{Address: "192.0.2.1", Port: 80}}}},
		}},
	}
	for _, host := range hosts {
		in.Hosts = append(in.Hosts, mesh.Host{
			Name: host, Object: "ServiceEntry default/x", Allocate: true,
			Ports: []mesh.Port{{Number: 80, Protocol: mesh.TCP, Cluster: "c"}},
		})
	}
	return in
}

func TestKernelIsToldBeforeNames(t *testing.T) {
	kernel := &recorder{}
	h := testHub(t, t.TempDir(), kernel, "file")
	h.pass()
	kernel.at = func() {
		if address(t, h, "a.example").IsValid() {
			t.Error("the name is answered before its address can be connected to")
		}
	}
	h.take(input("a.example"))
	h.pass()
	if !address(t, h, "a.example").IsValid() {
		t.Fatal("the name is not answered")
	}
	if len(kernel.frontends) == 0 {
		t.Error("the kernel was told nothing")
	}
}

func TestNameGoesFirst(t *testing.T) {
	kernel := &recorder{}
	h := testHub(t, t.TempDir(), kernel, "file")
	h.take(input("a.example"))
	h.take(mesh.Input{Source: "resolve"})
	h.pass()
	n := len(kernel.frontends)
	h.take(mesh.Input{Source: "file"})
	due := h.pass()
	if address(t, h, "a.example").IsValid() {
		t.Error("the name is still answered")
	}
	if len(kernel.frontends) != n {
		t.Errorf("%d frontends are left of %d while clients may remember the answer", len(kernel.frontends), n)
	}
	if due.IsZero() {
		t.Error("nobody will come back to remove them")
	}
}

func TestRestartKnowsEverything(t *testing.T) {
	dir := t.TempDir()
	h := testHub(t, dir, &recorder{}, "file")
	h.take(input("a.example"))
	h.pass()
	want := address(t, h, "a.example")
	h.keep.Flush()

	again := testHub(t, dir, &recorder{}, "file")
	again.pass()
	if got := address(t, again, "a.example"); got != want || !want.IsValid() {
		t.Errorf("after a restart a.example is %v, was %v", got, want)
	}
	if again.state.Load().Said["file"].Pending {
		t.Error("the source is pending although it had spoken")
	}
}

// A dnsd killed in the middle of writing leaves half a file, once and not each time.
func TestNothingPilesUp(t *testing.T) {
	dir := t.TempDir()
	h := testHub(t, dir, &recorder{}, "file")
	if err := os.WriteFile(filepath.Join(dir, "inputs", "file.json.new"), []byte(`{"Sou`), 0o600); err != nil {
		t.Fatal(err)
	}
	h.take(input("a.example"))
	h.pass()
	h.keep.Flush()
	var left []string
	for _, pattern := range []string{"*", "*/*"} { // with names that begin with a dot
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			left = append(left, strings.TrimPrefix(path, dir+"/"))
		}
	}
	if want := []string{"inputs", "vips.json", "inputs/file.json"}; !slices.Equal(left, want) {
		t.Errorf("the folder holds %q, want %q", left, want)
	}
}

// What is on disk may be older than the answer that followed it within the second: a name that did not
// exist then leaves the kernel as it is, until it has been asked for again.
func TestNegativeIsNotBelievedOverARestart(t *testing.T) {
	dir := t.TempDir()
	h := testHub(t, dir, &recorder{}, "file")
	in := input("a.example")
	in.Clusters[0].Discovery = mesh.StrictDNS
	in.Clusters[0].Localities[0].Endpoints = []mesh.Endpoint{{Address: "gone.test", Port: 80}}
	h.take(in)
	h.pass()
	said := mesh.Input{Source: "resolve"}
	for _, w := range h.state.Load().Plan.Watch {
		known := []netip.Addr{netip.MustParseAddr("192.0.2.9")}
		said.Resolutions = append(said.Resolutions, mesh.Resolution{Lookup: w.Lookup, Addresses: known, Negative: true})
	}
	h.take(said)
	h.keep.Flush()

	again := testHub(t, dir, &recorder{}, "file")
	again.pass()
	if len(said.Resolutions) == 0 || len(again.resolved) > 0 {
		t.Errorf("goes on with %+v", again.resolved)
	}
	for _, a := range again.state.Load().Plan.Assignments {
		if a.Cluster == "c" && !a.Warming {
			t.Errorf("%s takes it that its name does not exist", a.Cluster)
		}
	}
}

func TestBrokenMemoryIsPending(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "inputs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "inputs", "file.json"), []byte(`{"Source":"fi`), 0o600); err != nil {
		t.Fatal(err)
	}
	h := testHub(t, dir, &recorder{}, "file")
	h.pass()
	if !h.state.Load().Said["file"].Pending || !h.state.Load().Plan.Partial {
		t.Error("a source whose memory is broken must be waited for")
	}
}

func TestUnsavedAddressIsNotTold(t *testing.T) {
	dir := t.TempDir()
	kernel := &recorder{}
	h := testHub(t, dir, kernel, "file")
	h.take(input("old.example"))
	h.pass()
	old := address(t, h, "old.example")
	// A folder where the file should be: the rename fails, for root too.
	if err := errors.Join(os.Remove(filepath.Join(dir, "vips.json")), os.Mkdir(filepath.Join(dir, "vips.json"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "vips.json", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.take(input("a.example", "old.example"))
	due := h.pass()
	if address(t, h, "a.example").IsValid() {
		t.Error("an address is answered that a restart would forget")
	}
	if due.IsZero() || h.state.Load().Err == nil {
		t.Error("it is neither tried again nor shown")
	}
	// The others do not suffer: what there was is answered, and follows the sources.
	if address(t, h, "old.example") != old || !old.IsValid() {
		t.Error("an address that is on disk is not answered any more")
	}
	h.take(input("old.example"))
	n := len(kernel.frontends)
	h.take(mesh.Input{Source: "file", Hosts: []mesh.Host{{
		Name: "fixed.example", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.1")},
		Ports: []mesh.Port{{Number: 80, Protocol: mesh.TCP, Cluster: "c"}},
	}}, Clusters: input().Clusters})
	h.pass()
	if len(kernel.frontends) != n+1 || !address(t, h, "fixed.example").IsValid() {
		t.Error("what needs no address of ours waits for the disk, too")
	}
	h.take(input("a.example"))
	if err := os.RemoveAll(filepath.Join(dir, "vips.json")); err != nil {
		t.Fatal(err)
	}
	h.pass()
	if !address(t, h, "a.example").IsValid() {
		t.Error("the name is not answered once its address could be saved")
	}
}

func TestKernelErrorIsRetried(t *testing.T) {
	kernel := &recorder{}
	h := testHub(t, t.TempDir(), kernel, "file")
	h.take(input("old.example"))
	h.pass()
	kernel.err = errors.New("frontends: full")
	h.take(input("a.example", "old.example"))
	if due := h.pass(); due.IsZero() || h.state.Load().Err == nil {
		t.Fatal("an error of the kernel is neither shown nor tried again")
	}
	if address(t, h, "a.example").IsValid() {
		t.Error("an address is answered that the kernel does not know")
	}
	if !address(t, h, "old.example").IsValid() {
		t.Error("what worked before works no more")
	}
	kernel.err = nil
	h.pass()
	if err := h.state.Load().Err; err != nil {
		t.Error(err)
	}
	if !address(t, h, "a.example").IsValid() {
		t.Error("the name is not answered once the kernel has its address")
	}
}

// A burst of one push is compiled once.
func TestBurst(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		kernel := &recorder{}
		h := testHub(t, dir, kernel, "file")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- h.run(ctx, time.Time{}) }()
		emit := h.emit(ctx)
		for range 20 {
			emit(input("a.example"))
		}
		synctest.Wait()
		time.Sleep(time.Second) // of synctest's clock
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if kernel.calls == 0 || kernel.calls > 3 {
			t.Errorf("a burst of 20 was applied %d times", kernel.calls)
		}
	})
}

// When one part of the daemon fails all must end, and a source must not wait for a hub that has.
func TestNobodyWaitsForAStoppedHub(t *testing.T) {
	h := testHub(t, t.TempDir(), &recorder{}, "file")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.run(ctx, time.Time{}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		h.emit(context.Background())(input("a.example"))
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("a source waits for a hub that has stopped")
	}
}

// Another endpoint is no news for names: their table stays, and nobody is asked to look anything up anew.
func TestTableStays(t *testing.T) {
	kernel := &recorder{}
	h := testHub(t, t.TempDir(), kernel, "file")
	in := input("a.example")
	h.take(in)
	h.pass()
	table, calls := h.server.Table(), kernel.calls
	in.Clusters = slices.Clone(in.Clusters)
	in.Clusters[0].Localities = []mesh.Locality{{Endpoints: []mesh.Endpoint{{Address: "192.0.2.2", Port: 80}}}}
	h.take(in)
	h.pass()
	if h.server.Table() != table || kernel.calls != calls+1 {
		t.Errorf("another endpoint made another table, or %d writes to the kernel", kernel.calls-calls)
	}
	h.take(in)
	h.pass()
	if kernel.calls != calls+1 {
		t.Error("the same again was written to the kernel")
	}
}
