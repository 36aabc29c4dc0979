package xds

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

const clusterIP = "12-clusterip/"

func TestSubscriptionsAndWholeInput(t *testing.T) {
	cp := listen(t)
	inputs := client(t, cp.addr, nil)
	s := cp.accept(t)

	first := s.next(t, clusterType)
	if id := first.GetNode().GetId(); id != "sidecar~10.0.0.1~nodens-node1.ns1~ns1.svc.cluster.local" {
		t.Errorf("node ID %q", id)
	}
	if v := first.GetNode().GetMetadata().GetFields()["DNS_CAPTURE"].GetStringValue(); v != "true" {
		t.Errorf(`DNS_CAPTURE is %q, want the string "true"`, v)
	}
	for _, r := range []*discoveryv3.DiscoveryRequest{first, s.next(t, listenerType), s.next(t, nameTableType)} {
		if len(r.ResourceNames) > 0 || r.VersionInfo != "" || r.ResponseNonce != "" {
			t.Errorf("first request of %s is not a fresh wildcard: %v", r.TypeUrl, r)
		}
		if r != first && r.Node != nil {
			t.Errorf("node sent again with %s", r.TypeUrl)
		}
	}

	ack := s.push(t, clusterType, "1", captured(t, clusterIP+"cds.pb")...)
	if ack.VersionInfo != "1" || ack.ErrorDetail != nil {
		t.Errorf("not an ACK of version 1: %v", ack)
	}
	names := s.next(t, endpointType).ResourceNames
	if want := []string{"outbound|7070||a.default.svc.cluster.local", "outbound|80||a.default.svc.cluster.local", "outbound|9000||a.default.svc.cluster.local"}; !slices.Equal(names, want) {
		t.Errorf("asked for endpoints of %q, want %q", names, want)
	}
	s.push(t, listenerType, "1", captured(t, clusterIP+"lds.pb")...)
	s.push(t, nameTableType, "1", captured(t, clusterIP+"nds.pb")...)
	if len(inputs) > 0 {
		t.Error("emitted before the endpoints came")
	}
	s.push(t, endpointType, "1", captured(t, clusterIP+"eds.pb")...)

	in := await(t, inputs, "input")
	if in.Pending || len(in.Hosts) != 1 || len(in.Listeners) != 2 || len(in.Clusters) != 3 || len(in.Problems) != 0 {
		t.Errorf("not the whole input:\n%s", show(in))
	}
	s.push(t, listenerType, "2", captured(t, clusterIP+"lds.pb")...)
	s.push(t, nameTableType, "2")
	if in := await(t, inputs, "input"); len(in.Hosts) != 0 || len(in.Listeners) != 2 {
		t.Errorf("an empty name table left\n%s", show(in))
	}
}

func TestEndpointsFollowClusters(t *testing.T) {
	cp := listen(t)
	inputs := client(t, cp.addr, nil)
	s := cp.accept(t)
	s.begin(t)
	eds := func(name string) *anypb.Any { return pack(t, edsCluster(name)) }

	s.push(t, clusterType, "1", eds("a"))
	s.next(t, endpointType)
	s.push(t, listenerType, "1", tcpListener(t, "l", "192.0.2.1", 80, "a"))
	s.push(t, nameTableType, "1")
	s.push(t, endpointType, "7", pack(t, loadAssignment("a", "198.51.100.1:80")))
	if in := await(t, inputs, "input"); endpointsOf(in, "a") != "198.51.100.1:80" {
		t.Errorf("emitted\n%s", show(in))
	}

	s.push(t, clusterType, "2", eds("a"), eds("b"))
	again := s.next(t, endpointType)
	if !slices.Equal(again.ResourceNames, []string{"a", "b"}) || again.VersionInfo != "7" || again.ResponseNonce != "7 of "+endpointType {
		t.Errorf("the second subscription is %v", again)
	}
	s.push(t, listenerType, "2", tcpListener(t, "l", "192.0.2.1", 80, "a"), tcpListener(t, "m", "192.0.2.2", 80, "b"))
	// State of the world per type does not hold for EDS: this says nothing about a.
	if ack := s.push(t, endpointType, "8", pack(t, loadAssignment("b", "198.51.100.2:80"))); !slices.Equal(ack.ResourceNames, []string{"a", "b"}) {
		t.Errorf("the ACK names %q", ack.ResourceNames)
	}
	in := await(t, inputs, "input")
	if endpointsOf(in, "a") != "198.51.100.1:80" || endpointsOf(in, "b") != "198.51.100.2:80" {
		t.Errorf("emitted\n%s", show(in))
	}

	s.push(t, clusterType, "3")
	if gone := s.next(t, endpointType); len(gone.ResourceNames) != 0 {
		t.Errorf("still asks for %q", gone.ResourceNames)
	}
	if in := await(t, inputs, "input"); endpointsOf(in, "a")+endpointsOf(in, "b") != "" {
		t.Errorf("emitted\n%s", show(in))
	}
}

func TestBadResourceIsSkippedAndNamed(t *testing.T) {
	cp := listen(t)
	inputs := client(t, cp.addr, nil)
	s := cp.accept(t)
	s.begin(t)
	broken := pack(t, &clusterv3.Cluster{
		Name: "b", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS},
	})
	garbage := &anypb.Any{TypeUrl: clusterType, Value: []byte{0xff, 0xff}}
	s.push(t, listenerType, "1", tcpListener(t, "l", "192.0.2.1", 80, "a"), tcpListener(t, "m", "192.0.2.2", 80, "b"))
	s.push(t, nameTableType, "1")
	s.push(t, clusterType, "1", static(t, "a", "198.51.100.1:80"), static(t, "b", "198.51.100.2:80"))
	await(t, inputs, "input")

	if ack := s.push(t, clusterType, "2", static(t, "a", "198.51.100.9:80"), broken, garbage); ack.ErrorDetail != nil || ack.VersionInfo != "2" {
		t.Errorf("a response with one good cluster was refused: %v", ack)
	}
	in := await(t, inputs, "input")
	if endpointsOf(in, "a") != "198.51.100.9:80" || endpointsOf(in, "b") != "198.51.100.2:80" {
		t.Errorf("want the new a and the last good b:\n%s", show(in))
	}
	if len(in.Problems) != 2 || in.Problems[0].Object != `cluster "b"` || !strings.Contains(in.Problems[0].Reason, "load_assignment") ||
		in.Problems[1].Object != "cluster number 3 of its response" {
		t.Errorf("problems %+v", in.Problems)
	}

	nack := s.push(t, clusterType, "3", broken, garbage)
	if nack.VersionInfo != "2" || !strings.Contains(nack.GetErrorDetail().GetMessage(), `cluster "b"`) {
		t.Errorf("want a NACK on top of version 2: %v", nack)
	}
	if ack := s.push(t, clusterType, "4"); ack.ErrorDetail != nil || ack.VersionInfo != "4" {
		t.Errorf("want an ACK of no clusters at all: %v", ack)
	}
}

func TestRestartOfTheControlPlane(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ads.sock")
	cp := listenUnix(t, path)
	inputs := client(t, cp.addr, nil)
	s := cp.accept(t)
	s.begin(t)
	s.push(t, clusterType, "1")
	s.push(t, listenerType, "1", tcpListener(t, "l", "192.0.2.1", 80, "a"))
	s.push(t, nameTableType, "1", captured(t, "05-seed002-two-rds-mysql/nds.pb")...)
	whole := await(t, inputs, "input")

	cp.server.Stop()
	lost := await(t, inputs, "report of the loss")
	if i := len(lost.Problems) - 1; i != len(whole.Problems) || lost.Problems[i].Object != "control plane "+cp.addr {
		t.Errorf("problems %+v", lost.Problems)
	}
	if lost.Problems = whole.Problems; show(lost) != show(whole) || lost.Pending {
		t.Errorf("what was known did not stay:\n%s", show(lost))
	}

	cp = listenUnix(t, path)
	s = cp.accept(t)
	for i, typeURL := range []string{clusterType, listenerType, nameTableType} {
		if r := s.next(t, typeURL); r.VersionInfo != "1" || r.ResponseNonce != "" || (r.Node != nil) != (i == 0) {
			t.Errorf("not a subscription that goes on from version 1: %v", r)
		}
	}
	s.push(t, clusterType, "9")
	s.push(t, listenerType, "9")
	if len(inputs) > 0 {
		t.Error("emitted before the new control plane had said all")
	}
	s.push(t, nameTableType, "9", captured(t, "05-seed002-two-rds-mysql/nds.pb")...)
	if in := await(t, inputs, "input"); len(in.Hosts) != 2 || len(in.Listeners) != 0 || len(in.Problems) != 0 {
		t.Errorf("emitted\n%s", show(in))
	}
}

func TestControlPlaneComesLate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ads.sock")
	inputs := client(t, "unix://"+path, nil)
	cp := listenUnix(t, path)
	s := cp.accept(t)
	s.begin(t)
	if len(inputs) > 0 {
		t.Error("emitted although nobody said anything")
	}
}

func TestWithoutNameTable(t *testing.T) {
	short := func(tm *timing) { tm.grace, tm.patience = 20*time.Millisecond, 50*time.Millisecond }
	t.Run("silent", func(t *testing.T) {
		cp := listen(t)
		inputs := client(t, cp.addr, short)
		s := cp.accept(t)
		s.begin(t)
		s.push(t, clusterType, "1")
		s.push(t, listenerType, "1", tcpListener(t, "l", "192.0.2.1", 80, "a"))
		if in := await(t, inputs, "input"); in.Pending || len(in.Listeners) != 1 {
			t.Errorf("emitted\n%s", show(in))
		}
	})
	t.Run("refused", func(t *testing.T) {
		cp := listen(t)
		inputs := client(t, cp.addr, nil)
		s := cp.accept(t)
		s.begin(t)
		s.end <- status.Error(codes.InvalidArgument, "unknown type "+nameTableType)
		s = cp.accept(t)
		s.next(t, clusterType)
		s.next(t, listenerType)
		s.push(t, clusterType, "1")
		s.push(t, listenerType, "1", tcpListener(t, "l", "192.0.2.1", 80, "a"))
		if in := await(t, inputs, "input"); len(in.Listeners) != 1 {
			t.Errorf("emitted\n%s", show(in))
		}
	})
}

// A cluster whose endpoints never come holds back one change by the grace, not every later one.
func TestEndpointsThatNeverCome(t *testing.T) {
	cp := listen(t)
	inputs := client(t, cp.addr, func(tm *timing) { tm.grace = 50 * time.Millisecond })
	s := cp.accept(t)
	s.begin(t)
	s.push(t, listenerType, "1", tcpListener(t, "l", "192.0.2.1", 80, "a"))
	s.push(t, nameTableType, "1")
	s.push(t, clusterType, "1", pack(t, edsCluster("a")))
	s.next(t, endpointType)
	if in := await(t, inputs, "input"); len(in.Clusters) != 1 || len(in.Clusters[0].Localities) != 0 {
		t.Errorf("emitted\n%s", show(in))
	}
}

func TestLargeResponse(t *testing.T) {
	cp := listen(t)
	inputs := client(t, cp.addr, nil)
	s := cp.accept(t)
	s.begin(t)
	var all []*anypb.Any
	for i := range 20_000 {
		name := fmt.Sprintf("%s-%d", strings.Repeat("x", 300), i)
		all = append(all, pack(t, &clusterv3.Cluster{
			Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST},
		}))
	}
	s.push(t, listenerType, "1", tcpListener(t, "l", "192.0.2.1", 80, strings.Repeat("x", 300)+"-19999"))
	s.push(t, nameTableType, "1")
	if ack := s.push(t, clusterType, "1", all...); ack.ErrorDetail != nil {
		t.Errorf("refused: %v", ack.ErrorDetail)
	}
	if in := await(t, inputs, "input"); len(in.Clusters) != 1 {
		t.Errorf("%d clusters", len(in.Clusters))
	}
}

func TestUnchangedPushEmitsNothing(t *testing.T) {
	cp := listen(t)
	inputs := client(t, cp.addr, nil)
	s := cp.accept(t)
	s.begin(t)
	s.push(t, clusterType, "1")
	s.push(t, nameTableType, "1")
	l := tcpListener(t, "l", "192.0.2.1", 80, "a")
	s.push(t, listenerType, "1", l)
	await(t, inputs, "input")
	s.push(t, listenerType, "2", l)
	s.push(t, listenerType, "3", l, tcpListener(t, "m", "192.0.2.2", 80, "a"))
	if in := await(t, inputs, "input"); len(in.Listeners) != 2 {
		t.Errorf("the unchanged push was emitted:\n%s", show(in))
	}
}

func TestRetryPause(t *testing.T) {
	r := retry{timing: timing{retryMin: time.Second, retryMax: 10 * time.Second, steady: time.Minute}}
	for _, most := range []time.Duration{1, 2, 4, 8, 10, 10} {
		if got := r.next(0); got < most*time.Second/2 || got > most*time.Second {
			t.Errorf("pause %v, want between half of and %v s", got, int64(most))
		}
	}
	if got := r.next(59 * time.Second); got < 5*time.Second {
		t.Errorf("pause %v after a stream that did not last", got)
	}
	if got := r.next(time.Minute); got > time.Second {
		t.Errorf("pause %v after a stream that lasted", got)
	}
}
