package xds

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// transport says which endpoints of a cluster want more from a client than plain bytes: TLS, HBONE, a
// PROXY header. A connection turned in the kernel has none of it to give.
type transport struct {
	// always is the cluster's own transport socket, used where no match says otherwise.
	always bool
	// matches are tried in order against an endpoint's metadata, first match wins.
	matches []transportMatch
}

type transportMatch struct {
	want   map[string]*structpb.Value
	demand bool
}

func newTransport(m *clusterv3.Cluster) transport {
	t := transport{always: demands(m.GetTransportSocket())}
	for _, match := range m.GetTransportSocketMatches() {
		t.matches = append(t.matches, transportMatch{
			want: match.GetMatch().GetFields(), demand: demands(match.GetTransportSocket()),
		})
	}
	return t
}

// demands tells a plain socket from every other one.
func demands(ts *corev3.TransportSocket) bool {
	if ts == nil || ts.GetName() == "envoy.transport_sockets.raw_buffer" {
		return false
	}
	return ts.GetTypedConfig().MessageName() != "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
}

// demanded says whether an endpoint with this metadata wants more than plain bytes. Istiod marks a pod
// that takes mTLS with tlsMode=istio and sends a cluster whose first match looks for that.
func (t transport) demanded(m *corev3.Metadata) bool {
	has := m.GetFilterMetadata()["envoy.transport_socket_match"].GetFields()
	for _, match := range t.matches {
		if match.fits(has) {
			return match.demand
		}
	}
	return t.always
}

func (m transportMatch) fits(has map[string]*structpb.Value) bool {
	for key, want := range m.want {
		if !proto.Equal(want, has[key]) {
			return false
		}
	}
	return true
}
