package objects

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// TestNear goes through who of a Service's endpoints is for pods of node n1 in zone z1.
func TestNear(t *testing.T) {
	spread, sameNode := corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode
	local := corev1.ServiceInternalTrafficPolicyLocal
	for _, tc := range []struct {
		name      string
		spec      corev1.ServiceSpec
		live      bool
		endpoints string // name node zone, and then hints: z=ZONE n=NODE; ! is not ready, ~ terminating but serving
		want      string
	}{
		{"no wish", corev1.ServiceSpec{}, false, "a n1 z1, b n2 z2", "a b"},
		{"hints", corev1.ServiceSpec{}, true, "a n1 z1 z=z1, b n2 z2 z=z2, c n3 z1 z=z1", "a c"},
		{"hints for other zones", corev1.ServiceSpec{}, true, "a n1 z1 z=z2, b n2 z2 z=z1", "b"},
		{"one without a hint", corev1.ServiceSpec{}, true, "a n1 z1 z=z1, b n2 z2", "a b"},
		{"one without a hint that is not ready", corev1.ServiceSpec{}, true, "a n1 z1 z=z1, !b n2 z2", "a"},
		{"no hint for here", corev1.ServiceSpec{}, true, "a n2 z2 z=z2, b n3 z3 z=z3", "a b"},
		{"none that is ready here", corev1.ServiceSpec{}, true, "!a n1 z1 z=z1, b n2 z2 z=z2", "b"},
		{"this node", corev1.ServiceSpec{}, true, "a n1 z1 z=z1 n=n1, b n2 z1 z=z1 n=n2", "a"},
		{"not on this node, but in the zone", corev1.ServiceSpec{}, true, "a n2 z1 z=z1 n=n2, b n3 z2 z=z2 n=n3", "a"},
		{"without hints in a folder", corev1.ServiceSpec{TrafficDistribution: &spread}, false, "a n1 z1, b n2 z2", "a"},
		{"this node, without hints in a folder", corev1.ServiceSpec{TrafficDistribution: &sameNode}, false, "a n1 z1, b n2 z1", "a"},
		{"without hints in a cluster", corev1.ServiceSpec{TrafficDistribution: &spread}, true, "a n1 z1, b n2 z2", "a b"},
		{"local", corev1.ServiceSpec{InternalTrafficPolicy: &local}, true, "a n1 z1, b n2 z1, c - z1", "a"},
		{"local, and none", corev1.ServiceSpec{InternalTrafficPolicy: &local}, true, "b n2 z1", ""},
		{"terminating, while others are not", corev1.ServiceSpec{}, true, "a n1 z1, ~b n2 z2", "a"},
		{"only terminating", corev1.ServiceSpec{}, true, "!a n1 z1, ~b n2 z2", "b"},
		{"local, only terminating here", corev1.ServiceSpec{InternalTrafficPolicy: &local}, true, "~a n1 z1, b n2 z1", "a"},
		{"not ready, but wanted all the same", corev1.ServiceSpec{PublishNotReadyAddresses: true}, true, "!a n1 z1", "a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := New(Options{Live: tc.live, Place: Place{Node: "n1"}})
			tc.spec.ClusterIP, tc.spec.Ports = "10.0.0.1", []corev1.ServicePort{{Port: 80}}
			s.Put(NewService(Meta{Name: "s", Namespace: "ns"}, &corev1.Service{Spec: tc.spec}))
			names := map[string]string{}
			s.Put(NewEndpointSlice(Meta{Name: "s-1", Namespace: "ns", Labels: map[string]string{discoveryv1.LabelServiceName: "s"}},
				parseEndpoints(tc.endpoints, names)))
			s.SetPlace(Place{Node: "n1", Zone: "z1"})
			var got []string
			for _, l := range s.Input().Clusters[0].Localities {
				for _, e := range l.Endpoints {
					if !e.Unhealthy {
						got = append(got, names[e.Address])
					}
				}
			}
			if strings.Join(got, " ") != tc.want {
				t.Errorf("%v, want %s", got, tc.want)
			}
		})
	}
}

// parseEndpoints makes the slice of a row of TestNear, and says which address is whose.
func parseEndpoints(text string, names map[string]string) *discoveryv1.EndpointSlice {
	port, yes, no := int32(80), true, false
	es := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}}}
	for i, one := range strings.Split(text, ", ") {
		words := strings.Fields(one)
		e := discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.1.0.%d", i+1)}, Zone: &words[2]}
		e.Conditions.Ready = &yes
		switch words[0][0] {
		case '!':
			e.Conditions.Ready = &no
		case '~':
			e.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
		}
		names[e.Addresses[0]] = strings.TrimLeft(words[0], "!~")
		if words[1] != "-" {
			e.NodeName = &words[1]
		}
		for _, hint := range words[3:] {
			if e.Hints == nil {
				e.Hints = &discoveryv1.EndpointHints{}
			}
			if zone, ok := strings.CutPrefix(hint, "z="); ok {
				e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: zone})
			} else {
				e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: hint[2:]})
			}
		}
		es.Endpoints = append(es.Endpoints, e)
	}
	return es
}
