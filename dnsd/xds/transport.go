package xds

import (
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
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

// demanded says whether an endpoint with this mark wants more than plain bytes. Istiod marks a pod that
// takes mTLS with tlsMode=istio and sends a cluster whose first match looks for that.
func (t transport) demanded(has mark) bool {
	for _, match := range t.matches {
		if match.fits(has) {
			return match.demand
		}
	}
	return t.always
}

// demanding says whether any endpoint does.
func (t transport) demanding(a *assignment) bool {
	if a.marks == nil {
		return t.demanded(nil)
	}
	return slices.ContainsFunc(a.marks, func(marks []mark) bool { return slices.ContainsFunc(marks, t.demanded) })
}

// mark returns the localities with those endpoints that do marked as such.
func (t transport) mark(a *assignment) []mesh.Locality {
	out := slices.Clone(a.localities)
	for i := range out {
		out[i].Endpoints = slices.Clone(out[i].Endpoints)
		for j := range out[i].Endpoints {
			var has mark
			if a.marks != nil {
				has = a.marks[i][j]
			}
			out[i].Endpoints[j].RequiresTLS = t.demanded(has)
		}
	}
	return out
}

func (m transportMatch) fits(has mark) bool {
	for key, want := range m.want {
		if !proto.Equal(want, has[key]) {
			return false
		}
	}
	return true
}
