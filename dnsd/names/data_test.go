package names

import (
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

func TestDeclaredRecords(t *testing.T) {
	table := Build(&mesh.Plan{Names: []*mesh.Name{
		{Host: "web.sky.test", Addr4: addrs("192.0.2.1"), TTL: 60},
		{Host: "six.sky.test", Addr6: addrs("2001:db8::1")},
		{Host: "alias.sky.test", CNAME: "web.sky.test", TTL: 300, Data: &mesh.Data{Services: []mesh.Service{{Target: "web.sky.test", Port: 82}}}},
		{Host: "sky.test", Addr4: addrs("192.0.2.9"), TTL: 20, Data: &mesh.Data{
			Services: []mesh.Service{{Target: "web.sky.test", Port: 8080, Priority: 10, Weight: 50}, {Target: "six.sky.test", Port: 81}, {Target: "far.example", Port: 1}},
			Mail:     []mesh.Mail{{Target: "web.sky.test", Preference: 7}, {Target: "mx.example", Preference: 9}},
			Texts:    []string{"hello world"},
		}},
		{Host: "_http._tcp.sky.test", Data: &mesh.Data{Services: []mesh.Service{{Target: "web.sky.test", Port: 80}}}},
		{Host: "*.sky.test", Data: &mesh.Data{Texts: []string{"anything"}}},
		{Host: "9.2.0.192.in-addr.arpa", Data: &mesh.Data{Pointer: "sky.test"}},
	}}, Options{})
	for q, want := range map[string]string{
		"sky.test. A":                     "192.0.2.9, for 20 s",
		"sky.test. SRV":                   "web.sky.test. port 8080, six.sky.test. port 81, far.example. port 1, for 20 s",
		"sky.test. MX":                    "web.sky.test. preference 7, mx.example. preference 9, for 20 s",
		"sky.test. TXT":                   `"hello world", for 20 s`,
		"sky.test. NAPTR":                 "upstream's answer for sky.test., NODATA if it has none",
		"web.sky.test. A":                 "192.0.2.1, for 60 s",
		"alias.sky.test. A":               "CNAME web.sky.test., 192.0.2.1, for 60 s",
		"alias.sky.test. SRV":             "web.sky.test. port 82, for 300 s",
		"alias.sky.test. TXT":             "CNAME web.sky.test., upstream's answer for web.sky.test., NODATA if it has none",
		"_http._tcp.sky.test. SRV":        "web.sky.test. port 80, for 30 s",
		"_http._tcp.sky.test. A":          "NODATA for 5 s",
		"x.sky.test. TXT":                 `"anything", for 30 s`,
		"9.2.0.192.in-addr.arpa. PTR":     "sky.test., for 30 s",
		"9.2.0.192.in-addr.arpa. A":       "NODATA for 5 s",
		"sky.test. PTR":                   "upstream's answer for sky.test., NODATA if it has none",
		"sky.test.svc.cluster.local. TXT": `CNAME sky.test., "hello world", for 20 s`,
	} {
		name, qtype, _ := strings.Cut(q, " ")
		a := table.Lookup(shop, name, dns.StringToType[qtype])
		if got := a.describe(name); got != want {
			t.Errorf("%s\n got %s\nwant %s", q, got, want)
		}
	}
	a := table.Lookup(shop, "sky.test.", dns.TypeSRV)
	if s := a.Services; len(s[0].A) != 1 || len(s[1].AAAA) != 1 || s[2].A != nil || s[0].Priority != 10 || s[0].Weight != 50 {
		t.Errorf("services: %+v", s)
	}
	text := strings.Join(table.Explain(shop, "sky.test."), "\n")
	for _, want := range []string{`TXT: "hello world"`, "MX: web.sky.test. preference 7", "other types: upstream's"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
