package mesh

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
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
func (c *compiler) judge(s *source, name string, addr netip.Addr) (use, *Cluster) {
	cl := s.clusters[name]
	switch {
	case cl == nil:
		return absent, nil
	case cl.Discovery == OriginalDst:
		return leave, cl
	case cl.RequiresTLS:
		c.report(s, clusterObject(cl), "it demands mTLS, which cannot be originated here: connections to it are left alone")
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

// indexClusters finds a source's clusters by name and reports what cannot be served as it is.
func (c *compiler) indexClusters(s *source, clusters []Cluster) {
	s.clusters = make(map[string]*Cluster, len(clusters))
	for i := range clusters {
		cl := &clusters[i]
		switch cl.Discovery {
		case Static, StrictDNS, LogicalDNS, OriginalDst:
		default:
			c.report(s, clusterObject(cl), "discovery type %q is not served; it is left out", cl.Discovery)
			continue
		}
		if first := s.clusters[cl.Name]; first != nil && !reflect.DeepEqual(first, cl) {
			c.report(s, clusterObject(cl), "is there twice with different contents; one of the two is left out")
			cl = firstCluster(first, cl)
		}
		s.clusters[cl.Name] = cl
	}
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
func (c *compiler) policy(s *source, cl *Cluster) LbPolicy {
	switch cl.LbPolicy {
	case RoundRobin, LeastRequest, Random, RingHash, Maglev:
		return cl.LbPolicy
	case "":
		return LeastRequest
	}
	c.report(s, clusterObject(cl), "policy %s is not served: connections are spread by LEAST_REQUEST", cl.LbPolicy)
	return LeastRequest
}

// reportEmpty says why a cluster in use has no endpoint, or has lost some.
func (c *compiler) reportEmpty(s *source, cl *Cluster, a *assigned) {
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
		c.report(s, clusterObject(cl), "%d of %d endpoints demand mTLS, which cannot be originated here, and are left out", tls, total)
	}
	switch {
	case total == 0:
		c.report(s, clusterObject(cl), "it has no endpoints: connections are refused")
	case unhealthy > 0 && unhealthy+tls == total:
		c.report(s, clusterObject(cl), "none of its %d endpoints is healthy: connections are refused", total)
	}
}
