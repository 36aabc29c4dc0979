package world

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func (svc *service) DeltaAggregatedResources(conn discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	c := svc.plane
	c.mu.Lock()
	refuses := c.manner.OnlySotw
	c.mu.Unlock()
	if refuses {
		return status.Error(codes.Unimplemented, "this control plane speaks state of the world only")
	}
	return c.serve(func(s *stream) error {
		req, err := conn.Recv()
		if err == nil {
			c.hearDelta(s, req)
		}
		return err
	}, func(s *stream) error {
		for _, resp := range c.dueDelta(s) {
			if err := conn.Send(resp); err != nil {
				return err
			}
		}
		return nil
	})
}

// hearDelta takes a request: a subscription, an ACK or a NACK.
func (c *ControlPlane) hearDelta(s *stream, req *discoveryv3.DeltaDiscoveryRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.is(req.GetNode())
	sub := s.subs[req.TypeUrl]
	if sub == nil {
		sub = &subscription{sent: -1, acked: -1, known: maps.Clone(req.InitialResourceVersions)}
		if sub.known == nil {
			sub.known = map[string]string{}
		}
		s.subs[req.TypeUrl] = sub
		sub.names = req.ResourceNamesSubscribe
		c.offers = append(c.offers, fmt.Sprintf("delta %s %d", shortType(req.TypeUrl), len(sub.known)))
	} else if len(req.ResourceNamesSubscribe)+len(req.ResourceNamesUnsubscribe) > 0 {
		for _, name := range slices.Concat(req.ResourceNamesSubscribe, req.ResourceNamesUnsubscribe) {
			delete(sub.known, name)
		}
		sub.names = slices.DeleteFunc(slices.Concat(sub.names, req.ResourceNamesSubscribe), func(n string) bool {
			return slices.Contains(req.ResourceNamesUnsubscribe, n)
		})
		if len(sub.names) == 0 {
			sub.names = []string{""} // nothing, which is not everything
		}
		sub.dirty = true
	}
	if req.ResponseNonce == "" || req.ResponseNonce != sub.nonce {
		return
	}
	c.verdicts = append(c.verdicts, Verdict{
		Type: req.TypeUrl, Version: strconv.Itoa(sub.sent), Error: req.GetErrorDetail().GetMessage(), Node: s.node,
	})
	if req.ErrorDetail == nil {
		sub.acked = sub.sent
	}
}

// dueDelta returns the responses a stream is owed: what it does not have, and what is gone. The first
// answer to a wildcard comes even if that is nothing.
func (c *ControlPlane) dueDelta(s *stream) []*discoveryv3.DeltaDiscoveryResponse {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*discoveryv3.DeltaDiscoveryResponse
	for _, url := range pushOrder {
		sub := s.subs[url]
		if sub == nil || sub.sent == c.version[url] && !sub.dirty {
			continue
		}
		first := sub.sent < 0
		sub.sent, sub.dirty = c.version[url], false
		resp := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, SystemVersionInfo: strconv.Itoa(sub.sent)}
		gone := maps.Clone(sub.known)
		for _, r := range c.resources(s.namespace, url, sub.names) {
			version := digest(r.Body.Value)
			delete(gone, r.Name)
			if sub.known[r.Name] != version {
				sub.known[r.Name] = version
				resp.Resources = append(resp.Resources, &discoveryv3.Resource{Name: r.Name, Version: version, Resource: r.Body})
			}
		}
		for name := range gone {
			delete(sub.known, name)
			resp.RemovedResources = append(resp.RemovedResources, name)
		}
		if len(resp.Resources)+len(resp.RemovedResources) == 0 && !first {
			sub.acked = sub.sent // there is nothing to acknowledge
			continue
		}
		resp.Nonce = fmt.Sprintf("%s-%d", shortType(url), time.Now().UnixNano())
		sub.nonce = resp.Nonce
		out = append(out, resp)
	}
	return out
}

// digest is a resource's version.
func digest(body []byte) string {
	h := fnv.New64a()
	_, _ = h.Write(body)
	return strconv.FormatUint(h.Sum64(), 16)
}
