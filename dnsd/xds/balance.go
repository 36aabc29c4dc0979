package xds

import (
	"fmt"
	"math"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	lbv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	robinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	wrrv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

//lint:file-ignore SA1019 control planes, istiod among them, still send the deprecated spellings

// balance finds how connections are spread over the endpoints.
func (c *cluster) balance(m *clusterv3.Cluster) {
	common := m.GetCommonLbConfig()
	c.LocalityWeighted = common.GetLocalityWeightedLbConfig() != nil
	if p := common.GetHealthyPanicThreshold(); p != nil {
		percent := uint32(math.Round(min(max(p.GetValue(), 0), 100)))
		c.PanicThreshold = &percent
	}
	c.MaxConnections = maxConnections(m.GetCircuitBreakers())
	c.Outlier = outlier(m.GetOutlierDetection())
	if m.GetLbSubsetConfig() != nil {
		c.notes = append(c.notes, "lb_subset_config is not served; all endpoints are used")
	}
	if newer := m.GetLoadBalancingPolicy(); newer != nil {
		c.choosePolicy(newer) // the newer field wins
		return
	}
	switch p := mesh.LbPolicy(m.GetLbPolicy().String()); p {
	case mesh.RoundRobin, mesh.LeastRequest, mesh.Random:
		c.LbPolicy = p
	case mesh.RingHash:
		c.LbPolicy, c.HashTable = p, size(m.GetRingHashLbConfig().GetMinimumRingSize())
	case mesh.Maglev:
		c.LbPolicy, c.HashTable = p, size(m.GetMaglevLbConfig().GetTableSize())
	default:
		c.unserved(string(p))
	}
}

// unserved reports a policy and serves Istio's default in its place.
func (c *cluster) unserved(policy string) {
	c.LbPolicy = mesh.LeastRequest
	c.notes = append(c.notes, fmt.Sprintf("policy %s is not served; served as %s", policy, mesh.LeastRequest))
}

// choosePolicy takes the first policy it knows: they are extensions in order of preference.
func (c *cluster) choosePolicy(p *clusterv3.LoadBalancingPolicy) {
	for _, choice := range p.GetPolicies() {
		if c.extension(choice.GetTypedExtensionConfig()) {
			return
		}
	}
	first := "load_balancing_policy without a policy"
	if len(p.GetPolicies()) > 0 {
		// The message an extension is configured with is its only identity in Envoy.
		first = string(p.GetPolicies()[0].GetTypedExtensionConfig().GetTypedConfig().MessageName())
	}
	c.unserved(first)
}

// extension takes the policy of one extension, if it is one of those served and can be read.
func (c *cluster) extension(e *corev3.TypedExtensionConfig) bool {
	is := func(m proto.Message) bool {
		return e.GetTypedConfig().MessageIs(m) && unpack(e.GetTypedConfig(), m) == nil
	}
	var (
		robin  robinv3.RoundRobin
		least  leastv3.LeastRequest
		random randomv3.Random
		ring   ringv3.RingHash
		maglev maglevv3.Maglev
		wrr    wrrv3.WrrLocality
	)
	switch {
	case is(&robin):
		c.LbPolicy, c.LocalityWeighted = mesh.RoundRobin, weighted(robin.GetLocalityLbConfig())
	case is(&least):
		c.LbPolicy, c.LocalityWeighted = mesh.LeastRequest, weighted(least.GetLocalityLbConfig())
	case is(&random):
		c.LbPolicy, c.LocalityWeighted = mesh.Random, weighted(random.GetLocalityLbConfig())
	case is(&ring):
		c.LbPolicy, c.HashTable = mesh.RingHash, size(ring.GetMinimumRingSize())
		c.LocalityWeighted = ring.GetLocalityWeightedLbConfig() != nil
		c.HashSource = hashesSource(ring.GetConsistentHashingLbConfig())
	case is(&maglev):
		c.LbPolicy, c.HashTable = mesh.Maglev, size(maglev.GetTableSize())
		c.LocalityWeighted = maglev.GetLocalityWeightedLbConfig() != nil
		c.HashSource = hashesSource(maglev.GetConsistentHashingLbConfig())
	case is(&wrr):
		c.choosePolicy(wrr.GetEndpointPickingPolicy())
		c.LocalityWeighted = true
	default:
		return false
	}
	return true
}

func weighted(l *lbv3.LocalityLbConfig) bool { return l.GetLocalityWeightedLbConfig() != nil }

// hashesSource says whether the policy itself, before any listener, hashes the client's address.
func hashesSource(l *lbv3.ConsistentHashingLbConfig) bool {
	for _, h := range l.GetHashPolicy() {
		if p, ok := h.GetPolicySpecifier().(*routev3.RouteAction_HashPolicy_ConnectionProperties_); ok {
			return p.ConnectionProperties.GetSourceIp()
		}
	}
	return false
}

// size is that of a ring or table; 0 if none is asked for.
func size(v *wrapperspb.UInt64Value) uint32 { return uint32(min(v.GetValue(), math.MaxUint32)) }

// maxConnections is the limit of ordinary connections. Istiod says "none" as the largest number there
// is. Envoy's own default of 1,024 is not taken over: it is meant for one proxy, not for a whole node.
func maxConnections(b *clusterv3.CircuitBreakers) uint32 {
	for _, t := range b.GetThresholds() {
		if t.GetPriority() != corev3.RoutingPriority_DEFAULT {
			continue
		}
		if n := t.GetMaxConnections().GetValue(); n < math.MaxUint32 {
			return n
		}
		break
	}
	return 0
}

// never is a number of failures in a row that is not reached.
const never = math.MaxUint32

// outlier is when failed connects eject an endpoint; nil if the control plane says nothing about it.
//
// To Envoy's TCP proxy a failed connect is a 5xx and a gateway failure at once, unless the cluster
// splits errors by origin: then it is a local failure only. What is counted but not enforced ejects
// nobody. Success rates and failure percentages are of requests, which nobody sees here.
func outlier(d *clusterv3.OutlierDetection) *mesh.Outlier {
	if d == nil {
		return nil
	}
	consecutive := uint32(never)
	count := func(failures, enforcing *wrapperspb.UInt32Value, enforced uint32) {
		if n := orElse(failures, 5); n > 0 && orElse(enforcing, enforced) > 0 {
			consecutive = min(consecutive, n)
		}
	}
	if d.GetSplitExternalLocalOriginErrors() {
		count(d.GetConsecutiveLocalOriginFailure(), d.GetEnforcingConsecutiveLocalOriginFailure(), 100)
	} else {
		count(d.GetConsecutive_5Xx(), d.GetEnforcingConsecutive_5Xx(), 100)
		count(d.GetConsecutiveGatewayFailure(), d.GetEnforcingConsecutiveGatewayFailure(), 0)
	}
	o := &mesh.Outlier{
		Consecutive:  consecutive,
		BaseEjection: d.GetBaseEjectionTime().AsDuration(),
		MaxEjection:  d.GetMaxEjectionTime().AsDuration(),
		MaxPercent:   min(d.GetMaxEjectionPercent().GetValue(), 100),
	}
	if d.GetMaxEjectionPercent() != nil && o.MaxPercent == 0 {
		o.Consecutive = never
	}
	return o
}

func orElse(v *wrapperspb.UInt32Value, otherwise uint32) uint32 {
	if v == nil {
		return otherwise
	}
	return v.GetValue()
}
