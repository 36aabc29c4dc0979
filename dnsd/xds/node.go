package xds

import (
	"fmt"
	"maps"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// istioVersion is the proxy version istiod is told. It shapes its answers to that version; the captured
// responses this package is tested with are of the same.
const istioVersion = "1.31.0"

// Node is who a control plane is told it talks to.
type Node struct {
	// ID and Cluster as in Envoy's bootstrap.
	ID, Cluster string
	// Metadata holds only what JSON can: strings, numbers, booleans, lists and maps of them.
	Metadata map[string]any
	// Region, Zone and SubZone are where the node stands; istiod orders priorities by them.
	Region, Zone, SubZone string
}

// NewNode is a node as istiod wants it: a sidecar of namespace on the node called name. ip is one
// address or several joined by commas; their families decide which virtual addresses are sent. metadata
// is added last and may replace what is set here.
func NewNode(namespace, name, ip string, metadata map[string]any) Node {
	if namespace == "" {
		namespace = "default"
	}
	if ip == "" {
		ip = "127.0.0.1" // istiod closes the stream of a node without an address
	}
	first, _, _ := strings.Cut(ip, ",")
	pod := strings.TrimSuffix("nodens-"+name, "-")
	m := map[string]any{
		"NAMESPACE":     namespace,
		"NAME":          pod,
		"NODE_NAME":     name, // without it, services with internalTrafficPolicy Local have no endpoints
		"INSTANCE_IPS":  ip,
		"CLUSTER_ID":    "Kubernetes",
		"ISTIO_VERSION": istioVersion,
		// Strings, not booleans. Without the first there are no virtual addresses at all.
		"DNS_CAPTURE":       "true",
		"DNS_AUTO_ALLOCATE": "true",
	}
	maps.Copy(m, metadata)
	return Node{
		ID:       fmt.Sprintf("sidecar~%s~%s.%s~%s.svc.cluster.local", strings.TrimSpace(first), pod, namespace, namespace),
		Cluster:  "nodens",
		Metadata: m,
	}
}

// proto is the node as it is sent.
func (n Node) proto() (*corev3.Node, error) {
	m, err := structpb.NewStruct(n.Metadata)
	if err != nil {
		return nil, fmt.Errorf("node metadata: %w", err)
	}
	return &corev3.Node{
		Id: n.ID, Cluster: n.Cluster, Metadata: m, UserAgentName: "nodens",
		Locality: &corev3.Locality{Region: n.Region, Zone: n.Zone, SubZone: n.SubZone},
	}, nil
}
