package objects

import (
	"math"
	"time"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// noPanic is how Kubernetes and Istio mean it: without a healthy endpoint there is none.
var noPanic = new(uint32)

// newBalancing is how a cluster that says nothing is balanced.
func newBalancing() mesh.Balancing {
	return mesh.Balancing{LbPolicy: mesh.LeastRequest, PanicThreshold: noPanic}
}

// policy is what of a rule counts for one port.
type policy struct {
	lb      *networking.LoadBalancerSettings
	tls     *networking.ClientTLSSettings
	pool    *networking.ConnectionPoolSettings
	outlier *networking.OutlierDetection
}

// policyOf is the rule's policy for a port. What it says about a port replaces all it says in general, as
// in Istio.
func (r *rule) policyOf(port uint16) policy {
	general := r.spec.GetTrafficPolicy()
	for _, s := range general.GetPortLevelSettings() {
		if s.GetPort().GetNumber() == uint32(port) {
			return policy{s.GetLoadBalancer(), s.GetTls(), s.GetConnectionPool(), s.GetOutlierDetection()}
		}
	}
	return policy{general.GetLoadBalancer(), general.GetTls(), general.GetConnectionPool(), general.GetOutlierDetection()}
}

// balance sets what a policy says of the spreading of connections.
func (p policy) balance(b *mesh.Balancing) {
	switch p.lb.GetSimple() {
	case networking.LoadBalancerSettings_ROUND_ROBIN:
		b.LbPolicy = mesh.RoundRobin
	case networking.LoadBalancerSettings_RANDOM:
		b.LbPolicy = mesh.Random
	}
	if hash := p.lb.GetConsistentHash(); hash.GetUseSourceIp() {
		b.HashSource, b.LbPolicy = true, mesh.RingHash
		b.HashTable = clip(hash.GetRingHash().GetMinimumRingSize())
		if maglev := hash.GetMaglev(); maglev != nil {
			b.LbPolicy, b.HashTable = mesh.Maglev, clip(maglev.GetTableSize())
		}
	}
	if n := p.pool.GetTcp().GetMaxConnections(); n > 0 {
		b.MaxConnections = uint32(n)
	}
	if p.outlier == nil {
		return
	}
	b.Outlier = &mesh.Outlier{
		Consecutive:  consecutive(p.outlier),
		BaseEjection: max(0, p.outlier.GetBaseEjectionTime().AsDuration()),
		MaxPercent:   uint32(max(0, p.outlier.GetMaxEjectionPercent())),
	}
	// Envoy's default, but never below the first ejection.
	b.Outlier.MaxEjection = max(300*time.Second, b.Outlier.BaseEjection)
	if n := p.outlier.GetMinHealthPercent(); n > 0 {
		threshold := uint32(min(n, 100))
		b.PanicThreshold = &threshold
	}
}

// consecutive is how many failed handshakes in a row eject. They are errors of the local origin where
// these are counted apart, else both 5xx and gateway errors, of which 0 means not to count.
func consecutive(o *networking.OutlierDetection) uint32 {
	if o.GetSplitExternalLocalOriginErrors() {
		if n := o.GetConsecutiveLocalOriginFailures(); n != nil {
			return n.GetValue() // 0 is the default
		}
		return 0
	}
	least := uint32(math.MaxUint32) // never
	if n := o.GetConsecutive_5XxErrors(); n == nil && o.GetConsecutiveGatewayErrors() == nil {
		return 0
	} else if n.GetValue() > 0 {
		least = n.GetValue()
	}
	if n := o.GetConsecutiveGatewayErrors().GetValue(); n > 0 {
		least = min(least, n)
	}
	return least
}

func clip(n uint64) uint32 { return uint32(min(n, math.MaxUint32)) }

// unapplied lists the fields of a policy that make no difference here. There is no interval: handshakes
// are judged as they fail.
func (p policy) unapplied() []string {
	out := otherFields("loadBalancer", p.lb.ProtoReflect(), "simple", "consistentHash")
	if hash := p.lb.GetConsistentHash(); hash != nil && !hash.GetUseSourceIp() {
		out = append(out, "loadBalancer.consistentHash without useSourceIp")
	} else {
		out = append(out, otherFields("consistentHash", hash.ProtoReflect(), "useSourceIp", "ringHash", "maglev")...)
	}
	out = append(out, otherFields("connectionPool", p.pool.ProtoReflect(), "tcp")...)
	out = append(out, otherFields("connectionPool.tcp", p.pool.GetTcp().ProtoReflect(), "maxConnections")...)
	return append(out, otherFields("outlierDetection", p.outlier.ProtoReflect(), "consecutive5xxErrors",
		"consecutiveGatewayErrors", "splitExternalLocalOriginErrors", "consecutiveLocalOriginFailures", "interval",
		"baseEjectionTime", "maxEjectionPercent", "minHealthPercent")...)
}
