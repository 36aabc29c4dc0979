package serve

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/names"
)

// cluster is a zone of every sort of service that the specification knows.
func cluster() *names.Table {
	https := mesh.Port{Name: "https", Number: 443, Protocol: mesh.TCP}
	return names.Build(&mesh.Plan{Names: []*mesh.Name{
		{Host: "kubernetes.default.svc.cluster.local", Kubernetes: true, Addr4: addrs("10.3.0.1"), Addr6: addrs("2001:db8::1"),
			Ports: []mesh.Port{https, {Name: "dns", Number: 53, Protocol: mesh.UDP}, {Number: 9999, Protocol: mesh.TCP}}},
		{Host: "headless.default.svc.cluster.local", Kubernetes: true, Addr4: addrs("10.3.0.100", "10.3.0.101", "10.3.0.102"),
			Addr6: addrs("2001:db8::101"), Ports: []mesh.Port{https},
			Records: []mesh.Record{
				{Label: "my-pet", Addresses: addrs("10.3.0.100"), Ports: []mesh.Port{https}},
				{Label: "my-pet-2", Addresses: addrs("10.3.0.101", "2001:db8::101"), Ports: []mesh.Port{https}},
				{Label: "438934893", Addresses: addrs("10.3.0.102"), Ports: []mesh.Port{https}},
			}},
		{Host: "unready.default.svc.cluster.local", Kubernetes: true, Headless: true, Ports: []mesh.Port{https}},
		{Host: "foo.default.svc.cluster.local", Kubernetes: true, CNAME: "www.example.com"},
		{Host: "baz.default.svc.cluster.local", Kubernetes: true, CNAME: "unready.default.svc.cluster.local"},
		{Host: "bar.default.svc.cluster.local", Kubernetes: true, CNAME: "kubernetes.default.svc.cluster.local"},
	}}, names.Options{})
}

// TestKubernetesRecords goes through the Kubernetes DNS-Based Service Discovery specification 1.1.0,
// record by record; the names and addresses are its examples. Of section 2.2, dns-version, the cluster's
// own DNS speaks for itself.
func TestKubernetesRecords(t *testing.T) {
	s := New(Options{})
	s.upstream = stub(func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
		r := new(dns.Msg).SetReply(m)
		switch q := m.Question[0]; {
		case q.Name == "www.example.com." && q.Qtype == dns.TypeA:
			r.Answer = []dns.RR{&dns.A{Hdr: header(q.Name, dns.TypeA, 30), A: []byte{192, 0, 2, 53}}}
		case q.Name == "dns-version.cluster.local." && q.Qtype == dns.TypeTXT:
			r.Answer = []dns.RR{&dns.TXT{Hdr: header(q.Name, dns.TypeTXT, 30), Txt: []string{"1.1.0"}}}
		default:
			r.Rcode = dns.RcodeNameError
		}
		return r, nil
	})
	s.Store(cluster())
	k := s.enter(client(), "tcp")
	for _, tc := range []struct {
		section, question string
		want              string // rcode, then the answer section; after a bar the additional one
	}{
		{"2.2 schema version", "dns-version.cluster.local. TXT", `NOERROR, dns-version.cluster.local. TXT "1.1.0"`},

		{"2.3.1 A", "kubernetes.default.svc.cluster.local. A", "NOERROR, kubernetes.default.svc.cluster.local. A 10.3.0.1"},
		{"2.3.1 AAAA", "kubernetes.default.svc.cluster.local. AAAA", "NOERROR, kubernetes.default.svc.cluster.local. AAAA 2001:db8::1"},
		{"2.3.2 SRV, TCP", "_https._tcp.kubernetes.default.svc.cluster.local. SRV",
			"NOERROR, _https._tcp.kubernetes.default.svc.cluster.local. SRV 0 1 443 kubernetes.default.svc.cluster.local. | " +
				"kubernetes.default.svc.cluster.local. A 10.3.0.1, kubernetes.default.svc.cluster.local. AAAA 2001:db8::1"},
		{"2.3.2 SRV, UDP", "_dns._udp.kubernetes.default.svc.cluster.local. SRV",
			"NOERROR, _dns._udp.kubernetes.default.svc.cluster.local. SRV 0 1 53 kubernetes.default.svc.cluster.local. | " +
				"kubernetes.default.svc.cluster.local. A 10.3.0.1, kubernetes.default.svc.cluster.local. AAAA 2001:db8::1"},
		{"2.3.2 SRV, no such port", "_ftp._tcp.kubernetes.default.svc.cluster.local. SRV", "NXDOMAIN"},
		{"2.3.2 SRV, unnamed port", "_9999._tcp.kubernetes.default.svc.cluster.local. SRV", "NXDOMAIN"},
		{"2.3.3 PTR", "1.0.3.10.in-addr.arpa. PTR", "NOERROR, 1.0.3.10.in-addr.arpa. PTR kubernetes.default.svc.cluster.local."},
		{"2.3.3 PTR, IPv6", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. PTR",
			"NOERROR, 1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. PTR kubernetes.default.svc.cluster.local."},

		{"2.4.1 A", "headless.default.svc.cluster.local. A", "NOERROR, headless.default.svc.cluster.local. A 10.3.0.100, " +
			"headless.default.svc.cluster.local. A 10.3.0.101, headless.default.svc.cluster.local. A 10.3.0.102"},
		{"2.4.1 AAAA", "headless.default.svc.cluster.local. AAAA", "NOERROR, headless.default.svc.cluster.local. AAAA 2001:db8::101"},
		{"2.4.1 A of a hostname", "my-pet.headless.default.svc.cluster.local. A", "NOERROR, my-pet.headless.default.svc.cluster.local. A 10.3.0.100"},
		{"2.4.1 AAAA of a hostname", "my-pet-2.headless.default.svc.cluster.local. AAAA", "NOERROR, my-pet-2.headless.default.svc.cluster.local. AAAA 2001:db8::101"},
		{"2.4.1 AAAA of a hostname without", "my-pet.headless.default.svc.cluster.local. AAAA", "NOERROR"},
		{"2.4.1 A of an assigned hostname", "438934893.headless.default.svc.cluster.local. A", "NOERROR, 438934893.headless.default.svc.cluster.local. A 10.3.0.102"},
		{"2.4.1 A of no hostname", "no-pet.headless.default.svc.cluster.local. A", "NXDOMAIN"},
		{"2.4.1 A, no endpoint ready", "unready.default.svc.cluster.local. A", "NXDOMAIN"},
		{"2.4.1 AAAA, no endpoint ready", "unready.default.svc.cluster.local. AAAA", "NXDOMAIN"},
		{"2.4.1 the same through the search list", "unready.default.svc.cluster.local.svc.cluster.local. A", "NXDOMAIN"},
		{"2.4.2 SRV, no endpoint ready", "_https._tcp.unready.default.svc.cluster.local. SRV", "NXDOMAIN"},
		{"2.4.2 SRV", "_https._tcp.headless.default.svc.cluster.local. SRV",
			"NOERROR, _https._tcp.headless.default.svc.cluster.local. SRV 0 1 443 438934893.headless.default.svc.cluster.local., " +
				"_https._tcp.headless.default.svc.cluster.local. SRV 0 1 443 my-pet-2.headless.default.svc.cluster.local., " +
				"_https._tcp.headless.default.svc.cluster.local. SRV 0 1 443 my-pet.headless.default.svc.cluster.local. | " +
				"438934893.headless.default.svc.cluster.local. A 10.3.0.102, my-pet-2.headless.default.svc.cluster.local. A 10.3.0.101, " +
				"my-pet-2.headless.default.svc.cluster.local. AAAA 2001:db8::101, my-pet.headless.default.svc.cluster.local. A 10.3.0.100"},
		{"2.4.2 SRV of a hostname", "_https._tcp.my-pet.headless.default.svc.cluster.local. SRV",
			"NOERROR, _https._tcp.my-pet.headless.default.svc.cluster.local. SRV 0 1 443 my-pet.headless.default.svc.cluster.local. | " +
				"my-pet.headless.default.svc.cluster.local. A 10.3.0.100"},
		{"2.4.3 PTR", "100.0.3.10.in-addr.arpa. PTR", "NOERROR, 100.0.3.10.in-addr.arpa. PTR my-pet.headless.default.svc.cluster.local."},

		{"2.5 CNAME", "foo.default.svc.cluster.local. CNAME", "NOERROR, foo.default.svc.cluster.local. CNAME www.example.com."},
		{"2.5 A", "foo.default.svc.cluster.local. A", "NOERROR, foo.default.svc.cluster.local. CNAME www.example.com., www.example.com. A 192.0.2.53"},
		{"2.5 A within the cluster", "bar.default.svc.cluster.local. A",
			"NOERROR, bar.default.svc.cluster.local. CNAME kubernetes.default.svc.cluster.local., kubernetes.default.svc.cluster.local. A 10.3.0.1"},

		{"2.5 A of what has no endpoint", "baz.default.svc.cluster.local. A", "NXDOMAIN, baz.default.svc.cluster.local. CNAME unready.default.svc.cluster.local."},

		{"2 a service that is not", "nothing.default.svc.cluster.local. A", "NXDOMAIN"},
		{"2 a namespace", "default.svc.cluster.local. A", "NOERROR"},
		{"2 a namespace that is not", "nowhere.svc.cluster.local. A", "NXDOMAIN"},
	} {
		name, qtype, _ := strings.Cut(tc.question, " ")
		packed, err := question(name, dns.StringToType[qtype]).Pack()
		if err != nil {
			t.Fatal(err)
		}
		reply, _, later := k.begin(packed, nil)
		if later != nil {
			reply, _ = later(t.Context())
		}
		r := unpacked(t, reply)
		got := dns.RcodeToString[r.Rcode]
		if len(r.Answer) > 0 {
			got += ", " + sayings(r.Answer)
		}
		if len(r.Extra) > 0 {
			got += " | " + sayings(r.Extra)
		}
		if got != tc.want {
			t.Errorf("%s, %s:\n got %s\nwant %s", tc.section, tc.question, got, tc.want)
		}
	}
}

// sayings are the records in order, without TTL and class.
func sayings(section []dns.RR) string {
	var all []string
	for _, rr := range section {
		h := rr.Header()
		all = append(all, h.Name+" "+dns.TypeToString[h.Rrtype]+" "+strings.TrimPrefix(rr.String(), h.String()))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
