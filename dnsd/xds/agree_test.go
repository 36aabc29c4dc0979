package xds

import (
	"fmt"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// nameTable is Istio's name table: each row is written "host address address".
func nameTable(rows ...string) *anypb.Any {
	var out []byte
	for _, row := range rows {
		words := strings.Fields(row)
		var info []byte
		for _, ip := range words[1:] {
			info = protowire.AppendString(protowire.AppendTag(info, 1, protowire.BytesType), ip)
		}
		info = protowire.AppendString(protowire.AppendTag(info, 2, protowire.BytesType), "External")
		entry := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), words[0])
		entry = protowire.AppendBytes(protowire.AppendTag(entry, 2, protowire.BytesType), info)
		out = protowire.AppendBytes(protowire.AppendTag(out, 1, protowire.BytesType), entry)
	}
	return &anypb.Any{TypeUrl: nameTableType, Value: out}
}

// static is a cluster with its endpoints.
func static(t *testing.T, name string, endpoints ...string) *anypb.Any {
	t.Helper()
	return pack(t, staticMessage(name, endpoints...))
}

func staticMessage(name string, endpoints ...string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name: name, LoadAssignment: loadAssignment(name, endpoints...),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
	}
}

// told is a namespace's state from whole responses.
func told(t *testing.T, p *pools, clusters, listeners []*anypb.Any, table *anypb.Any) *state {
	t.Helper()
	s := &state{}
	tell(t, p, s, clusterType, clusters...)
	tell(t, p, s, listenerType, listeners...)
	tell(t, p, s, nameTableType, table)
	s.crossings = newView("any", s, nil).compare()
	return s
}

func TestWhatAllAgreeOnIsForEverybody(t *testing.T) {
	p := &pools{}
	say := func() *state {
		return told(t, p,
			[]*anypb.Any{static(t, "outbound|80||a.example", "198.51.100.1:80")},
			[]*anypb.Any{tcpListener(t, "l", "240.240.0.1", 80, "outbound|80||a.example")},
			nameTable("a.example 240.240.0.1"))
	}
	one := agree([]*view{newView("one", say(), nil)}, &memo{})
	three := agree([]*view{newView("one", say(), nil), newView("three", say(), nil), newView("two", say(), nil)}, &memo{})
	if !reflect.DeepEqual(one, three) {
		t.Errorf("three that say the same came to\n%s\none of them to\n%s", show(three), show(one))
	}
	if len(one.Hosts) != 1 || one.Hosts[0].ExportTo != nil || len(one.Listeners) != 1 || one.Listeners[0].View != "" {
		t.Errorf("not for everybody:\n%s", show(one))
	}
}

func TestWhatDiffersIsForThoseWhoWereToldSo(t *testing.T) {
	p := &pools{}
	common := static(t, "outbound|80||common.example", "198.51.100.1:80")
	mine := func(endpoint string) *anypb.Any { return static(t, "outbound|80||mine.example", endpoint) }
	bind := func(cluster string) []*anypb.Any {
		return []*anypb.Any{tcpListener(t, "l", "240.240.0.2", 80, cluster)}
	}
	a := told(t, p, []*anypb.Any{common, mine("198.51.100.10:80"), static(t, "outbound|80||a.example", "198.51.100.3:80")},
		bind("outbound|80||mine.example"),
		nameTable("common.example 240.240.0.1", "mine.example 240.240.0.2", "a.example 240.240.0.3"))
	rest := func() *state {
		return told(t, p, []*anypb.Any{common, mine("198.51.100.20:80")}, bind("outbound|80||mine.example"),
			nameTable("common.example 240.240.0.1", "mine.example 240.240.0.2"))
	}
	in := agree([]*view{newView("a", a, nil), newView("b", rest(), nil), newView("c", rest(), nil)}, &memo{})

	// That a view's way is found by another's, either way round, must make no difference.
	b, c := newView("b", rest(), nil), newView("c", rest(), nil)
	if by := agree([]*view{newView("a", a, b), b, newView("c", rest(), b)}, &memo{}); !reflect.DeepEqual(by, in) {
		t.Errorf("found by b's way it comes to\n%s", show(by))
	}
	if by := agree([]*view{newView("a", a, c), newView("b", rest(), newView("a", a, nil)), c}, &memo{}); !reflect.DeepEqual(by, in) {
		t.Errorf("found by a's way it comes to\n%s", show(by))
	}

	var got []string
	for _, h := range in.Hosts {
		got = append(got, fmt.Sprintf("%s %v %s", h.Name, h.ExportTo, h.Ports[0].Cluster))
	}
	want := []string{
		"a.example [a] outbound|80||a.example",
		"common.example [] outbound|80||common.example",
		"mine.example [a] outbound|80||mine.example@a",
		"mine.example [b c] outbound|80||mine.example",
	}
	if !slices.Equal(got, want) {
		t.Errorf("hosts\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for cluster, endpoint := range map[string]string{
		"outbound|80||mine.example@a": "198.51.100.10:80", "outbound|80||mine.example": "198.51.100.20:80",
		"outbound|80||common.example": "198.51.100.1:80", "outbound|80||a.example": "198.51.100.3:80",
	} {
		if got := endpointsOf(in, cluster); got != endpoint {
			t.Errorf("%s is %s, want %s", cluster, got, endpoint)
		}
	}
	got = nil
	for _, l := range in.Listeners {
		got = append(got, l.View+" "+l.Clusters[0].Name)
	}
	if want := []string{"a outbound|80||mine.example@a", "b outbound|80||mine.example", "c outbound|80||mine.example"}; !slices.Equal(got, want) {
		t.Errorf("listeners %q, want %q", got, want)
	}
}

// A namespace that has no such cluster must not get another one's.
func TestClusterThatOneNamespaceLacks(t *testing.T) {
	p := &pools{}
	table := nameTable("x.example 240.240.0.1")
	listeners := []*anypb.Any{tcpListener(t, "l", "240.240.0.1", 80, "x")}
	has := told(t, p, []*anypb.Any{static(t, "x", "198.51.100.1:80")}, listeners, table)
	lacks := told(t, p, nil, listeners, table)
	in := agree([]*view{newView("a", lacks, nil), newView("b", has, nil)}, &memo{})
	if len(in.Clusters) != 2 || endpointsOf(in, "x") != "198.51.100.1:80" || endpointsOf(in, "x@a") != "" {
		t.Fatal(show(in))
	}
	for _, l := range in.Listeners {
		if want := map[string]string{"a": "x@a", "b": "x"}[l.View]; l.Clusters[0].Name != want {
			t.Errorf("listener for %q leads to %q, want %q", l.View, l.Clusters[0].Name, want)
		}
	}
}

// Nobody knows what a cluster of a kind that is not served would do: connections that lead there are left
// alone. One that is not there refuses.
func TestListenersThatLeadNowhere(t *testing.T) {
	s := told(t, &pools{},
		[]*anypb.Any{static(t, "good", "198.51.100.1:80"), pack(t, &clusterv3.Cluster{
			Name: "odd", ClusterDiscoveryType: &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{Name: "odd.type"}},
		})},
		[]*anypb.Any{tcpListener(t, "l", "192.0.2.1", 80, "odd"), tcpListener(t, "m", "192.0.2.2", 80, "gone"), tcpListener(t, "n", "192.0.2.3", 80, "good")},
		nameTable())
	plan := mesh.Compile([]mesh.Input{agree([]*view{newView("ns1", s, nil)}, &memo{})}, memoryVIPs(t))
	got := map[string]int{}
	for _, f := range plan.Frontends {
		for _, a := range plan.Assignments {
			if a.Name == f.Assignment {
				got[f.Host] = len(a.Localities)
			}
		}
	}
	if want := map[string]int{"m": 0, "n": 1}; !reflect.DeepEqual(got, want) {
		t.Errorf("localities behind the frontends %v, want %v", got, want)
	}
}

// Endpoints in another order, as istiod sends them, make no difference.
func TestOrderMakesNoDifference(t *testing.T) {
	p := &pools{}
	table := nameTable("x.example 240.240.0.1")
	state := func(endpoints ...string) *state {
		return told(t, p, []*anypb.Any{static(t, "outbound|80||x.example", endpoints...)}, nil, table)
	}
	in := agree([]*view{
		newView("a", state("198.51.100.1:80", "198.51.100.2:80"), nil), newView("b", state("198.51.100.2:80", "198.51.100.1:80"), nil),
	}, &memo{})
	if len(in.Clusters) != 1 || len(in.Hosts) != 1 || in.Hosts[0].ExportTo != nil {
		t.Error(show(in))
	}
}

// A host of two ServiceEntries has both addresses, each with listeners for its own port only. Connections
// to the others' ports pass through where the address may be a real one.
func TestPortsThatAnAddressHasNoListenerFor(t *testing.T) {
	for address, passes := range map[string]bool{"198.51.100.132": true, "240.240.0.132": false, "2001:2::132": false} {
		s := told(t, &pools{},
			[]*anypb.Any{
				static(t, "outbound|9000||two.example", "203.0.113.1:9000"), static(t, "outbound|80||two.example", "203.0.113.1:80"),
				pack(t, &clusterv3.Cluster{Name: passthrough, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST}}),
			},
			// Port 80 is HTTP, which has one listener for all addresses.
			[]*anypb.Any{tcpListener(t, "198.51.100.130_9000", "198.51.100.130", 9000, "outbound|9000||two.example")},
			nameTable("two.example 198.51.100.130 "+address))
		in := agree([]*view{newView("ns1", s, nil)}, &memo{})
		plan := mesh.Compile([]mesh.Input{in}, memoryVIPs(t))
		var got []string
		for _, f := range plan.Frontends {
			if f.Address.String() == address && f.Port != 0 {
				got = append(got, fmt.Sprint(f.Port))
			}
		}
		want := []string{"80", "9000"}
		if passes {
			want = want[:1]
		}
		if !slices.Equal(got, want) {
			t.Errorf("ports of %s that are balanced: %v, want %v", address, got, want)
		}
	}
}

func memoryVIPs(t *testing.T) *mesh.VIPs {
	t.Helper()
	vips, err := mesh.OpenVIPs("", netip.MustParsePrefix("240.241.0.0/16"), netip.MustParsePrefix("2001:2:0:f0f1::/64"))
	if err != nil {
		t.Fatal(err)
	}
	return vips
}

func TestResourcesAreSharedAndForgotten(t *testing.T) {
	p := &pools{}
	known := func() int {
		p.clusters.mu.Lock()
		defer p.clusters.mu.Unlock()
		return len(p.clusters.known)
	}
	a, b := &state{}, &state{}
	tell(t, p, a, clusterType, static(t, "x", "198.51.100.1:80"), static(t, "y", "198.51.100.1:80"))
	tell(t, p, b, clusterType, static(t, "x", "198.51.100.1:80"))
	if a.clusters["x"] != b.clusters["x"] || known() != 2 {
		t.Errorf("%d clusters are known, those of two streams are shared: %v", known(), a.clusters["x"] == b.clusters["x"])
	}
	tell(t, p, a, clusterType, static(t, "x", "198.51.100.1:80"))
	for range 100 {
		runtime.GC()
		if known() == 1 {
			break
		}
		runtime.Gosched() // to the clean-ups
	}
	if n := known(); n != 1 {
		t.Errorf("%d clusters are still known, want 1", n)
	}
	runtime.KeepAlive(a)
	runtime.KeepAlive(b)
}

// BenchmarkAgree is thirty namespaces that see ten thousand hosts, each of them one of its own, after a
// change in one; and what all of them hold.
func BenchmarkAgree(b *testing.B) {
	const hosts, namespaces = 10_000, 30
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	p, m := &pools{}, &memo{}
	var states []*state
	for n := range namespaces {
		states = append(states, largeState(b, p, n, hosts))
	}
	views := func() []*view {
		var vs []*view
		for n, s := range states {
			vs = append(vs, newView(fmt.Sprintf("ns%02d", n), s, first(vs)))
		}
		return vs
	}
	in := agree(views(), m)
	if len(in.Hosts) != hosts+namespaces || len(in.Clusters) != hosts+namespaces {
		b.Fatalf("%d hosts, %d clusters", len(in.Hosts), len(in.Clusters))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	for b.Loop() {
		agree(views(), m)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB-held")
	runtime.KeepAlive(states)
}

// largeState has hosts that all namespaces see and one that only n does.
func largeState(b *testing.B, p *pools, n, hosts int) *state {
	b.Helper()
	clusters, listeners := &update{typeURL: clusterType, whole: true}, &update{typeURL: listenerType, whole: true}
	var rows []string
	t := &testing.T{}
	for i := range hosts + 1 {
		host := fmt.Sprintf("host-%05d.example.com", i)
		if i == hosts {
			host = fmt.Sprintf("own-%02d.example.com", n)
		}
		address := netip.AddrFrom4([4]byte{240, 240, byte(i >> 8), byte(i)}).String()
		name := "outbound|9000||" + host
		clusters.resources = append(clusters.resources, resource{body: static(t, name, "198.51.100.1:9000", "198.51.100.2:9000", "198.51.100.3:9000")})
		listeners.resources = append(listeners.resources, resource{body: tcpListener(t, address+"_9000", address, 9000, name)})
		rows = append(rows, host+" "+address)
	}
	s := &state{}
	for _, u := range []*update{clusters, listeners, {typeURL: nameTableType, whole: true, resources: []resource{{body: nameTable(rows...)}}}} {
		if err := s.apply(p, u); err != nil {
			b.Fatal(err)
		}
	}
	s.crossings = newView("any", s, nil).compare()
	return s
}
