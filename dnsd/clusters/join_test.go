package clusters

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

func addrs(texts ...string) (all []netip.Addr) {
	for _, s := range texts {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

// said is a cluster with a service of one port and one endpoint.
func said(source, name, clusterIP, endpoint string, number uint16) mesh.Input {
	host, cluster := name+".shop.svc.cluster.local", "outbound|80||"+name
	return mesh.Input{
		Source: source,
		Hosts: []mesh.Host{{Name: host, Object: "Service shop/" + name, Kubernetes: true, Addresses: addrs(clusterIP),
			Ports: []mesh.Port{{Name: "http", Number: number, Protocol: mesh.TCP, Cluster: cluster}}}},
		Clusters: []mesh.Cluster{{Name: cluster, Discovery: mesh.Static,
			Localities: []mesh.Locality{{Zone: "z", Endpoints: []mesh.Endpoint{{Address: endpoint, Port: 8080}}}}}},
	}
}

// spreadOver says what is behind each of an input's clusters: priority and address.
func spreadOver(in mesh.Input) string {
	var words []string
	for _, c := range in.Clusters {
		for _, l := range c.Localities {
			for _, e := range l.Endpoints {
				words = append(words, c.Name[len("outbound|80||"):]+" "+string(rune('0'+l.Priority))+" "+e.Address)
			}
		}
	}
	return strings.Join(words, ", ")
}

func TestJoin(t *testing.T) {
	east := Said{Cluster: "east", Network: "n", Input: said("kube", "cart", "10.96.0.1", "10.1.0.1", 80)}
	east.Input.Zones = []mesh.Zone{{Name: "cluster.local"}}
	west := Said{Cluster: "west", Network: "n", Input: said("kube-west", "cart", "10.96.0.9", "10.2.0.1", 80)}
	only := said("kube-west", "stock", "10.96.0.1", "10.2.0.2", 80)
	west.Input.Hosts, west.Input.Clusters = append(west.Input.Hosts, only.Hosts...), append(west.Input.Clusters, only.Clusters...)

	in := Join([]Said{east, west}, false)
	if got, want := spreadOver(in), "cart 0 10.1.0.1, cart 0 10.2.0.1, stock 0 10.2.0.2"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if cart := in.Hosts[0]; !reflect.DeepEqual(cart.Addresses, addrs("10.96.0.1")) || cart.Object != "Service shop/cart, Service shop/cart of cluster west" {
		t.Errorf("a service of both is %+v", cart)
	}
	if stock := in.Hosts[1]; stock.Addresses != nil || !stock.Allocate {
		t.Errorf("a service of the other cluster is %+v: its address may mean something else here", stock)
	}
	if len(in.Zones) != 1 || in.Source != "kube" {
		t.Errorf("zones %v of %s", in.Zones, in.Source)
	}
	if got, want := spreadOver(Join([]Said{east, west}, true)), "cart 0 10.1.0.1, cart 1 10.2.0.1, stock 0 10.2.0.2"; got != want {
		t.Errorf("this cluster first: %s, want %s", got, want)
	}
	if got := spreadOver(east.Input); got != "cart 0 10.1.0.1" {
		t.Errorf("the input itself has become %s", got)
	}

	west.Network = "elsewhere"
	if in := Join([]Said{east, west}, false); len(in.Hosts) != 1 || len(in.Problems) != 1 || !strings.Contains(in.Problems[0].Reason, "gateway") {
		t.Errorf("another network: %+v", in)
	}
}

// What only others have they share, also where this cluster comes first.
func TestJoinOthersShare(t *testing.T) {
	all := []Said{
		{Cluster: "east", Input: said("kube", "cart", "10.96.0.1", "10.1.0.1", 80)},
		{Cluster: "west", Input: said("kube-west", "stock", "10.96.0.9", "10.2.0.1", 80)},
		{Cluster: "north", Input: said("kube-north", "stock", "10.96.0.8", "10.3.0.1", 80)},
	}
	if got, want := spreadOver(Join(all, true)), "cart 0 10.1.0.1, stock 0 10.2.0.1, stock 0 10.3.0.1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// An entry of this cluster may have the name of another's service: each keeps its own cluster.
func TestJoinBesideEntry(t *testing.T) {
	entry := said("kube", "cart", "10.96.0.1", "10.1.0.1", 80)
	entry.Hosts[0].Kubernetes = false
	in := Join([]Said{{Cluster: "east", Input: entry}, {Cluster: "west", Input: said("kube-west", "cart", "10.96.0.9", "10.2.0.1", 80)}}, false)
	if got, want := spreadOver(in), "cart 0 10.1.0.1, cart|cluster west 0 10.2.0.1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := in.Hosts[1].Ports[0].Cluster; len(in.Hosts) != 2 || got != "outbound|80||cart|cluster west" {
		t.Errorf("%d hosts, the other's port leads to %s", len(in.Hosts), got)
	}
}

// Pods of headless services are known in all clusters, and where two are called the same, this cluster's.
func TestJoinHeadless(t *testing.T) {
	db := func(source string, addr ...string) mesh.Input {
		return mesh.Input{Source: source, Hosts: []mesh.Host{{
			Name: "db.shop.svc.cluster.local", Object: "Service shop/db", Kubernetes: true, Headless: true, Addresses: addrs(addr...),
			Records: []mesh.Record{{Label: "db-0", Addresses: addrs(addr[0])}, {Label: "only-" + source, Addresses: addrs(addr[1])}},
		}}}
	}
	in := Join([]Said{{Input: db("kube", "10.1.0.1", "10.1.0.2")}, {Input: db("kube-west", "10.2.0.1", "10.2.0.2")}}, false)
	h := in.Hosts[0]
	if !reflect.DeepEqual(h.Addresses, addrs("10.1.0.1", "10.1.0.2", "10.2.0.1", "10.2.0.2")) {
		t.Errorf("addresses %v", h.Addresses)
	}
	var labels []string
	for _, r := range h.Records {
		labels = append(labels, r.Label+" "+r.Addresses[0].String())
	}
	if got, want := strings.Join(labels, ", "), "db-0 10.1.0.1, only-kube 10.1.0.2, only-kube-west 10.2.0.2"; got != want {
		t.Errorf("records %s, want %s", got, want)
	}

	other := db("kube-west", "10.2.0.1", "10.2.0.2")
	other.Hosts[0].Headless = false
	if in := Join([]Said{{Input: db("kube", "10.1.0.1", "10.1.0.2")}, {Input: other}}, false); len(in.Hosts[0].Addresses) != 2 || len(in.Problems) != 1 {
		t.Errorf("another kind of service: %+v", in)
	}
}
