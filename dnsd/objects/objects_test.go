package objects

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	networking "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// world puts objects into a Set, and remembers how, to make another one that has seen nothing else.
type world map[string]func(*Set)

func (w world) fresh(o Options) *Set {
	s := New(o)
	for _, put := range w {
		put(s)
	}
	return s
}

// service is a Service with one port.
func testService(namespace, name string, port int32, external bool) func(*Set) {
	o := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.0.0.1", Ports: []corev1.ServicePort{{Port: port}}}}
	if external {
		o.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}
	}
	return func(s *Set) { s.Put(NewService(Meta{Namespace: namespace, Name: name}, o)) }
}

func testSlice(namespace, name, of, zone string, addrs ...string) func(*Set) {
	port := int32(8080)
	o := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}}}
	for _, a := range addrs {
		o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, Zone: &zone})
	}
	m := Meta{Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: of}}
	return func(s *Set) { s.Put(NewEndpointSlice(m, o)) }
}

func testEntry(namespace, name, host string, port uint32) func(*Set) {
	spec := &networking.ServiceEntry{
		Hosts: []string{host}, Resolution: networking.ServiceEntry_DNS,
		Ports: []*networking.ServicePort{{Name: "tcp", Number: port}},
	}
	return func(s *Set) {
		e, err := NewServiceEntry(Meta{Namespace: namespace, Name: name}, spec, nil)
		if err != nil {
			panic(err)
		}
		s.Put(e)
	}
}

func testRule(namespace, name, host string) func(*Set) {
	spec := &networking.DestinationRule{Host: host, TrafficPolicy: &networking.TrafficPolicy{LoadBalancer: &networking.LoadBalancerSettings{
		LbPolicy: &networking.LoadBalancerSettings_Simple{Simple: networking.LoadBalancerSettings_RANDOM}}}}
	return func(s *Set) { s.Put(NewDestinationRule(Meta{Namespace: namespace, Name: name}, spec)) }
}

func testSelecting(namespace, name, host string) func(*Set) {
	spec := &networking.ServiceEntry{
		Hosts: []string{host}, Resolution: networking.ServiceEntry_STATIC, WorkloadSelector: &networking.WorkloadSelector{Labels: map[string]string{"app": "vm"}},
		Ports: []*networking.ServicePort{{Name: "tcp", Number: 80}},
	}
	return func(s *Set) {
		e, err := NewServiceEntry(Meta{Namespace: namespace, Name: name}, spec, nil)
		if err != nil {
			panic(err)
		}
		s.Put(e)
	}
}

func testWorkload(namespace, name, app, addr string) func(*Set) {
	spec := &networking.WorkloadEntry{Address: addr, Labels: map[string]string{"app": app, "other": "x"}}
	return func(s *Set) { s.Put(NewWorkloadEntry(Meta{Namespace: namespace, Name: name}, spec)) }
}

func testPod(namespace, name, app, addr string, ready corev1.ConditionStatus) func(*Set) {
	m := Meta{Namespace: namespace, Name: name, Labels: map[string]string{"app": app}}
	o := &corev1.Pod{Status: corev1.PodStatus{PodIP: addr, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}}
	return func(s *Set) { s.Put(NewPod(m, o)) }
}

// However a Set came to hold its objects, it says of them what one says that has seen nothing else.
func TestSetRemembersNothingElse(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		for _, live := range []bool{false, true} {
			o := Options{Source: "test", Live: live}
			s, w := New(o), world{}
			for step := range 60 {
				change(r, s, w)
				if r.IntN(3) == 0 {
					continue // several changes at once
				}
				if got, want := s.Input(), w.fresh(o).Input(); !reflect.DeepEqual(got, want) {
					t.Fatalf("seed %d, step %d:\n%+v\nbut made anew it says\n%+v", seed, step, got, want)
				}
			}
		}
	}
}

// change puts an object in, or takes one out. There are so few names that they meet.
func change(r *rand.Rand, s *Set, w world) {
	kind := []Kind{KindService, KindEndpointSlice, KindServiceEntry, KindDestinationRule, KindWorkloadEntry, KindPod}[r.IntN(6)]
	ns, name := fmt.Sprintf("ns%d", r.IntN(2)), fmt.Sprintf("o%d", r.IntN(4))
	key := fmt.Sprint(kind, ns, name)
	if r.IntN(4) == 0 {
		delete(w, key)
		s.Delete(kind, ns, name)
		return
	}
	host := fmt.Sprintf("o%d.ns%d.svc.cluster.local", r.IntN(4), r.IntN(2))
	switch kind {
	case KindService:
		w[key] = testService(ns, name, int32(80+r.IntN(2)), r.IntN(4) == 0)
	case KindEndpointSlice:
		w[key] = testSlice(ns, name, fmt.Sprintf("o%d", r.IntN(5)), fmt.Sprintf("z%d", r.IntN(2)), fmt.Sprintf("10.1.0.%d", r.IntN(9)), "10.1.1.1")
	case KindServiceEntry:
		if w[key] = testEntry(ns, name, host, uint32(80+r.IntN(2))); r.IntN(3) == 0 {
			w[key] = testSelecting(ns, name, host)
		}
	case KindWorkloadEntry:
		w[key] = testWorkload(ns, name, []string{"vm", "none"}[r.IntN(2)], fmt.Sprintf("10.3.0.%d", r.IntN(9)))
	case KindPod:
		w[key] = testPod(ns, name, []string{"vm", "none"}[r.IntN(2)], fmt.Sprintf("10.4.0.%d", r.IntN(9)), []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse}[r.IntN(2)])
	case KindDestinationRule:
		if r.IntN(2) == 0 {
			host = "*.svc.cluster.local"
		}
		w[key] = testRule(ns, name, host)
	}
	w[key](s)
}

// What a stranger writes about a host says nothing to everybody, and he is told so; in a folder nobody is one.
func TestStrangersRules(t *testing.T) {
	for _, tc := range []struct {
		namespace, host string
		live, followed  bool
	}{
		{"evil", "cart.shop.svc.cluster.local", true, false},
		{"evil", "*", true, false},
		{"evil", "*.svc.cluster.local", true, false},
		{"shop", "cart.shop.svc.cluster.local", true, true},
		{rootNamespace, "*.svc.cluster.local", true, true},
		{"evil", "cart.shop.svc.cluster.local", false, true},
	} {
		s := New(Options{Source: "test", Live: tc.live})
		testService("shop", "cart", 80, false)(s)
		testSlice("shop", "cart-1", "cart", "z", "10.1.0.1")(s)
		testRule(tc.namespace, "r", tc.host)(s)
		in := s.Input()
		if followed := in.Clusters[0].LbPolicy == mesh.Random; followed != tc.followed || followed == (len(in.Problems) > 0) {
			t.Errorf("%+v: followed %t, problems %v", tc, followed, in.Problems)
		}
	}
}

// One slice that changes leaves all other hosts and clusters as they are, memory and all.
func TestOneOfMany(t *testing.T) {
	s := New(Options{Source: "test", Live: true})
	for i := range 100 {
		name := fmt.Sprintf("s%d", i)
		testService("ns", name, 80, false)(s)
		testSlice("ns", name, name, "z", "10.1.0.1", "10.1.0.2")(s)
	}
	before := s.Input()
	testSlice("ns", "s7", "s7", "z", "10.1.0.3")(s)
	after := s.Input()
	var changed []string
	for i := range after.Clusters {
		if &before.Clusters[i].Localities[0] != &after.Clusters[i].Localities[0] {
			changed = append(changed, after.Clusters[i].Name)
		}
	}
	if want := []string{"outbound|80||s7.ns.svc.cluster.local"}; !reflect.DeepEqual(changed, want) {
		t.Errorf("%v were translated, want %v", changed, want)
	}
	if e := after.Clusters[0].Localities[0].Endpoints; !reflect.DeepEqual(e, []mesh.Endpoint{{Address: "10.1.0.1", Port: 8080}, {Address: "10.1.0.2", Port: 8080}}) {
		t.Errorf("endpoints %+v", e)
	}
}

func BenchmarkOneOfTenThousand(b *testing.B) {
	s := New(Options{Source: "test", Live: true})
	for i := range 10_000 {
		name := fmt.Sprintf("s%d", i)
		testService("ns", name, 80, false)(s)
		testSlice("ns", name, name, "z", "10.1.0.1", "10.1.0.2", "10.1.0.3")(s)
	}
	s.Input()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		testSlice("ns", "s7", "s7", "z", fmt.Sprintf("10.2.0.%d", i%200))(s)
		s.Input()
	}
}
