package mesh

import (
	"encoding/json"
	"fmt"
	"net/netip"
)

// use is what may be done with a cluster.
type use int

const (
	absent  use = iota // the source names it and does not have it
	leave              // connections go where they went without us
	balance            // connections are spread over its endpoints
)

// judge says what to do with connections to addr that are a cluster's. An address that is itself one
// of the cluster's endpoints is a pod's own, not a service's: a client that asks for it means it.
func (b *binder) judge(s *source, name string, addr netip.Addr) (use, *Cluster) {
	cl := b.cluster(s, name)
	switch {
	case cl == nil:
		return absent, nil
	case cl.Discovery == OriginalDst:
		return leave, cl
	case cl.RequiresTLS:
		b.report(s, clusterObject(cl), "it demands mTLS, which cannot be originated here: connections to it are left alone")
		return leave, cl
	}
	for _, loc := range cl.Localities {
		for _, e := range loc.Endpoints {
			if ip, ok := literal(e.Address); ok && ip == addr {
				return leave, cl
			}
		}
	}
	return balance, cl
}

func clusterObject(cl *Cluster) string { return fmt.Sprintf("cluster %q", cl.Name) }

func clusterKey(cl *Cluster) (string, bool) {
	switch cl.Discovery {
	case Static, StrictDNS, LogicalDNS, OriginalDst:
		return cl.Name, true
	}
	return "", false
}

// checkClusters reports what cannot be served as it is.
func (s *source) checkClusters(r *reports) {
	for _, i := range s.clusters.bad {
		cl := &s.clusters.list[i]
		r.report(s, clusterObject(cl), "discovery type %q is not served; it is left out", cl.Discovery)
	}
	for name := range s.clusters.twins {
		first := s.cluster(name)
		for cl := range s.clusters.all(name) {
			if !sameCluster(first, cl) {
				r.report(s, clusterObject(cl), "is there twice with different contents; one of the two is left out")
			}
		}
	}
}

// cluster returns the source's cluster of that name, or nil.
func (s *source) cluster(name string) (found *Cluster) {
	for cl := range s.clusters.all(name) {
		if found == nil {
			found = cl
		} else if !sameCluster(found, cl) {
			found = firstCluster(found, cl)
		}
	}
	return found
}

// firstCluster picks one of two clusters of the same name, the same one in whatever order they come.
func firstCluster(a, b *Cluster) *Cluster {
	x, _ := json.Marshal(a) // a Cluster is plain data: it always marshals
	y, _ := json.Marshal(b)
	if string(x) <= string(y) {
		return a
	}
	return b
}

// policy returns the cluster's policy if it is served, else Istio's default.
func (a *assigned) policy(s *source, cl *Cluster) LbPolicy {
	switch cl.LbPolicy {
	case RoundRobin, LeastRequest, Random, RingHash, Maglev:
		return cl.LbPolicy
	case "":
		return LeastRequest
	}
	a.report(s, clusterObject(cl), "policy %s is not served: connections are spread by LEAST_REQUEST", cl.LbPolicy)
	return LeastRequest
}

// reportEmpty says why a cluster in use has no endpoint, or has lost some.
func (a *assigned) reportEmpty(s *source, cl *Cluster) {
	total, unhealthy, tls := 0, 0, 0
	for _, loc := range cl.Localities {
		for _, e := range loc.Endpoints {
			total++
			if e.RequiresTLS {
				tls++
			} else if e.Unhealthy {
				unhealthy++
			}
		}
	}
	if tls > 0 {
		a.report(s, clusterObject(cl), "%d of %d endpoints demand mTLS, which cannot be originated here, and are left out", tls, total)
	}
	switch {
	case total == 0:
		a.report(s, clusterObject(cl), "it has no endpoints: connections are refused")
	case unhealthy > 0 && unhealthy+tls == total:
		a.report(s, clusterObject(cl), "none of its %d endpoints is healthy: connections are refused", total)
	}
}
