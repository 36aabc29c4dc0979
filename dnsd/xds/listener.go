package xds

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// listener is what a listener says about plain TCP connections: nothing, or one thing for each of its
// addresses. It is shared and never edited.
type listener struct {
	name  string
	err   error // why it cannot be used
	binds []mesh.Listener
	// hashed means that the client's address picks the endpoint, where the cluster's policy hashes.
	hashed bool
}

// listener decodes one, or finds it decoded.
func (p *pools) listener(r *anypb.Any) (string, *listener, error) {
	l := p.listeners.get(r.GetTypeUrl(), r.GetValue(), func() *listener { return decodeListener(r) })
	return l.name, l, l.err
}

// decodeListener reads a listener. Listeners of every address, of inbound traffic, and chains chosen by
// what only a proxy sees (SNI, ALPN, HTTP) say nothing here.
func decodeListener(r *anypb.Any) *listener {
	m := &listenerv3.Listener{}
	if err := unpack(r, m); err != nil {
		return &listener{name: m.GetName(), err: err}
	}
	l := &listener{name: m.GetName()}
	addresses := listenAddresses(m)
	if len(addresses) == 0 || m.GetTrafficDirection() == corev3.TrafficDirection_INBOUND || strings.HasPrefix(l.name, "virtual") {
		return l
	}
	tcp, err := proxied(m)
	if err != nil || tcp == nil {
		l.err = err
		return l
	}
	var clusters []mesh.WeightedCluster
	if clusters, l.err = destinations(tcp); l.err != nil {
		return l
	}
	l.hashed = slices.ContainsFunc(tcp.GetHashPolicy(), func(h *typev3.HashPolicy) bool { return h.GetSourceIp() != nil })
	for _, a := range addresses {
		l.binds = append(l.binds, mesh.Listener{
			Name: l.name, Address: a.Addr(), Port: a.Port(), Protocol: mesh.TCP, Clusters: clusters,
		})
	}
	return l
}

// listenAddresses are the addresses of l a pod can mean: not "all", not the pod's own loopback.
func listenAddresses(l *listenerv3.Listener) []netip.AddrPort {
	all := []*corev3.Address{l.GetAddress()}
	for _, more := range l.GetAdditionalAddresses() {
		all = append(all, more.GetAddress())
	}
	var out []netip.AddrPort
	for _, a := range all {
		sa := a.GetSocketAddress()
		ip, err := netip.ParseAddr(sa.GetAddress())
		if err != nil || sa.GetProtocol() != corev3.SocketAddress_TCP || sa.GetPortValue() == 0 {
			continue
		}
		if ip = ip.Unmap(); ip.IsUnspecified() || ip.IsLoopback() || ip.IsMulticast() {
			continue
		}
		out = append(out, netip.AddrPortFrom(ip, uint16(sa.GetPortValue())))
	}
	return out
}

// proxied is where the chain without a match, or else the default chain, sends a connection. Nil means
// it is not a TCP proxy.
func proxied(l *listenerv3.Listener) (*tcpv3.TcpProxy, error) {
	chain := l.GetDefaultFilterChain()
	for _, c := range l.GetFilterChains() {
		if proto.Size(c.GetFilterChainMatch()) == 0 {
			chain = c
			break
		}
	}
	for _, f := range chain.GetFilters() {
		tcp := &tcpv3.TcpProxy{}
		if !f.GetTypedConfig().MessageIs(tcp) {
			continue
		}
		if err := unpack(f.GetTypedConfig(), tcp); err != nil {
			return nil, fmt.Errorf("tcp_proxy: %w", err)
		}
		return tcp, nil
	}
	return nil, nil
}

func destinations(tcp *tcpv3.TcpProxy) ([]mesh.WeightedCluster, error) {
	if tcp.GetTunnelingConfig() != nil {
		return nil, errors.New("tcp_proxy tunnels over HTTP, which needs a proxy; the listener is left alone")
	}
	if name := tcp.GetCluster(); name != "" {
		return []mesh.WeightedCluster{{Name: name, Weight: 1}}, nil
	}
	var out []mesh.WeightedCluster
	for _, w := range tcp.GetWeightedClusters().GetClusters() {
		if w.GetWeight() > 0 {
			out = append(out, mesh.WeightedCluster{Name: w.GetName(), Weight: w.GetWeight()})
		}
	}
	if len(out) == 0 {
		return nil, errors.New("tcp_proxy names no cluster")
	}
	return out, nil
}
