package pods

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/dnsd/names"
)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestWhichNameserversAreCaptured(t *testing.T) {
	both := prefixes("10.1.0.5/24", "fd00::5/64")
	for name, c := range map[string]struct {
		addresses []netip.Prefix
		given     []netip.Addr // by the attachment
		node      []netip.Addr
		want      []netip.Addr
		why       string
	}{
		"as given":                     {both, addrs("10.96.0.10", "fd00::a"), nil, addrs("10.96.0.10", "fd00::a"), ""},
		"the node's, if none is given": {both, nil, addrs("10.96.0.10"), addrs("10.96.0.10"), ""},
		"not the node's, if one is":    {both, addrs("1.1.1.1"), addrs("10.96.0.10"), addrs("1.1.1.1"), ""},
		"none known":                   {both, nil, nil, nil, "no nameserver is known"},
		"loopback":                     {both, addrs("127.0.0.53", "::1", "10.96.0.10"), nil, addrs("10.96.0.10"), ""},
		"link-local needs a scope":     {both, addrs("fe80::1%eth0", "fe80::1", "10.96.0.10"), nil, addrs("10.96.0.10"), ""},
		"the node-local cache":         {both, addrs("169.254.20.10"), nil, addrs("169.254.20.10"), ""},
		"no host's address":            {both, addrs("0.0.0.0", "::", "224.0.0.251", "ff02::fb", "255.255.255.255"), nil, nil, "none of its nameservers"},
		"the pod itself":               {both, addrs("10.1.0.5", "fd00::5"), nil, nil, "none of its nameservers"},
		"the pod's second address":     {prefixes("10.1.0.5/24", "10.1.0.6/24"), addrs("10.1.0.6", "10.96.0.10"), nil, addrs("10.96.0.10"), ""},
		"twice, also mapped":           {both, addrs("10.96.0.10", "::ffff:10.96.0.10", "10.96.0.10"), nil, addrs("10.96.0.10"), ""},
		"no IPv6 in the pod":           {prefixes("10.1.0.5/24", "fe80::5/64"), addrs("fd00::a", "10.96.0.10"), nil, addrs("10.96.0.10"), ""},
		"no IPv4 in the pod":           {prefixes("fd00::5/64"), addrs("10.96.0.10", "fd00::a"), nil, addrs("fd00::a"), ""},
		"no address at all":            {nil, addrs("10.96.0.10"), nil, nil, "none of its nameservers"},
		"four at most":                 {both, addrs("1.0.0.1", "1.0.0.2", "1.0.0.3", "1.0.0.4", "1.0.0.5"), nil, addrs("1.0.0.1", "1.0.0.2", "1.0.0.3", "1.0.0.4"), ""},
	} {
		p := New(Options{Nameservers: c.node, ClusterDomain: "cluster.local"})
		w := p.wish(attach.Attachment{Addresses: c.addresses, DNS: attach.DNS{Nameservers: c.given}})
		if !slices.Equal(w.nameservers, c.want) || !strings.Contains(w.why, c.why) || (w.why == "") != (c.why == "") {
			t.Errorf("%s: %v %q; want %v %q", name, w.nameservers, w.why, c.want, c.why)
		}
	}
}

func TestOptOut(t *testing.T) {
	a := attach.Attachment{
		Addresses: prefixes("10.1.0.5/24"), DNS: attach.DNS{Nameservers: addrs("10.96.0.10")},
		Annotations: map[string]string{captureAnnotation: "off"},
	}
	if w := New(Options{}).wish(a); len(w.nameservers) != 0 || !strings.Contains(w.why, captureAnnotation) {
		t.Errorf("%v %q", w.nameservers, w.why)
	}
	a.Annotations[captureAnnotation] = "on"
	if w := New(Options{}).wish(a); len(w.nameservers) != 1 {
		t.Errorf("capture on: %v %q", w.nameservers, w.why)
	}
}

func TestQueryLogAnnotation(t *testing.T) {
	for annotation, want := range map[string]int{
		"": 0, "off": 0, "on": 1, "1/1": 1, "1/100": 100, "yes": -1, "1/0": -1, "1/-5": -1, "1/many": -1, "100": -1,
	} {
		every, problem := logged(annotation)
		if every != max(want, 0) || (problem != "") != (want < 0) {
			t.Errorf("%q: one in %d, %q; want one in %d", annotation, every, problem, want)
		}
	}
}

func TestWhoAsks(t *testing.T) {
	kube := attach.Attachment{PodNamespace: "shop", PodName: "web-0", Addresses: prefixes("10.1.0.5/24")}
	given := kube
	given.DNS.Searches = []string{"corp.example"}
	dual := kube
	dual.Addresses = prefixes("10.1.0.5/24", "fe80::5/64", "2001:db8::5/64")
	local := kube
	local.Addresses = prefixes("10.1.0.5/24", "fe80::5/64")
	expansion := []string{"shop.svc.k8s.example", "svc.k8s.example", "k8s.example"}
	for name, c := range map[string]struct {
		a    attach.Attachment
		want names.Client
	}{
		"Kubernetes":       {kube, names.Client{Namespace: "shop", Search: expansion}},
		"its own searches": {given, names.Client{Namespace: "shop", Search: []string{"corp.example"}}},
		"no Kubernetes":    {attach.Attachment{PodName: "podman-only"}, names.Client{}},
		"dual stack":       {dual, names.Client{Namespace: "shop", Search: expansion, IPv6: true}},
		"only link-local":  {local, names.Client{Namespace: "shop", Search: expansion}},
	} {
		p := New(Options{ClusterDomain: "k8s.example"})
		if w := p.wish(c.a); !reflect.DeepEqual(w.client, c.want) {
			t.Errorf("%s: %+v, want %+v", name, w.client, c.want)
		}
	}
}

func TestDeclaredPorts(t *testing.T) {
	got := declared(map[string]string{
		"prometheus.io/port": "64512",
		"kubectl.kubernetes.io/last-applied-configuration": `{"ports":[{"containerPort":65499},{"containerPort":8080}]}`,
		"ports": "65000,65001;64511 65500 99999999999999999999 65535",
	})
	want := map[uint16]bool{64512: true, 65499: true, 65000: true, 65001: true}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
