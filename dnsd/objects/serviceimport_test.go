package objects

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// A service of the set of clusters is another one than this cluster's of the same name; its pods are called
// by their cluster, too.
func TestServiceImport(t *testing.T) {
	s := New(Options{Live: true})
	testService("ns", "db", 80, false)(s)
	testSlice("ns", "db-1", "db", "z", "10.1.0.1")(s)
	s.Put(NewServiceImport(Meta{Namespace: "ns", Name: "db"}, &ServiceImport{Type: "ClusterSetIP", IPs: []string{"10.42.0.1"}, Ports: []corev1.ServicePort{{Port: 80}}}))
	s.Put(NewServiceImport(Meta{Namespace: "ns", Name: "pods"}, &ServiceImport{Type: "Headless", Ports: []corev1.ServicePort{{Port: 80}}}))
	port, hostname := int32(8080), "db-0"
	for _, of := range []string{"db", "pods"} {
		s.Put(NewEndpointSlice(
			Meta{Namespace: "ns", Name: of + "-west", Labels: map[string]string{importLabel: of, sourceLabel: "west", discoveryv1.LabelServiceName: "derived"}},
			&discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}},
				Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.2.0.1"}, Hostname: &hostname}}}))
	}
	in := s.Input()
	var got []string
	for _, h := range in.Hosts {
		line := h.Name + " " + h.Addresses[0].String()
		if imported := strings.HasSuffix(h.Name, clusterSet); h.Imported != imported || h.Kubernetes == imported {
			t.Errorf("%+v", h)
		}
		for _, r := range h.Records {
			line += " " + r.Label
		}
		got = append(got, line)
	}
	want := []string{
		"db.ns.svc.cluster.local 10.0.0.1", "db.ns.svc.clusterset.local 10.42.0.1 db-0.west", "pods.ns.svc.clusterset.local 10.2.0.1 db-0.west",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q, want %q", got, want)
	}
	if e := in.Clusters[1].Localities[0].Endpoints; len(in.Clusters) != 2 || len(e) != 1 || e[0].Address != "10.2.0.1" {
		t.Errorf("clusters %+v", in.Clusters)
	}
	s.Delete(KindServiceImport, "ns", "db")
	if in := s.Input(); len(in.Hosts) != 2 || len(in.Clusters) != 1 {
		t.Errorf("after it has gone: %+v", in)
	}
}
