package serve

import (
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/names"
)

// TestDeclaredRecords asks over the wire for what a name has beside addresses.
func TestDeclaredRecords(t *testing.T) {
	long := strings.Repeat("x", 254) + `\" and more`
	plan := &mesh.Plan{Names: []*mesh.Name{
		{Host: "sky.test", TTL: 20, Data: &mesh.Data{
			Services: []mesh.Service{{Target: "web.sky.test", Port: 80, Priority: 10, Weight: 50}, {Target: "web.sky.test", Port: 81}},
			Mail:     []mesh.Mail{{Target: "web.sky.test", Preference: 7}}, Texts: []string{"short", long},
		}},
		{Host: "web.sky.test", Addr4: addrs("192.0.2.1")},
	}}
	addr := start(t, newServer(names.Build(plan, names.Options{})), client())
	for _, network := range networks {
		r := exchange(t, network, addr, question("sky.test.", dns.TypeSRV))
		if len(r.Answer) != 2 || len(r.Extra) != 1 || r.Answer[0].(*dns.SRV).Priority != 10 || r.Answer[0].(*dns.SRV).Weight != 50 {
			t.Errorf("%s: %v", network, r)
		}
		r = exchange(t, network, addr, question("sky.test.", dns.TypeMX))
		if len(r.Answer) != 1 || len(r.Extra) != 1 || r.Answer[0].(*dns.MX).Preference != 7 || r.Answer[0].Header().Ttl != 20 {
			t.Errorf("%s: %v", network, r)
		}
	}
	r := exchange(t, "tcp", addr, question("sky.test.", dns.TypeTXT))
	if len(r.Answer) != 2 {
		t.Fatalf("%v", r)
	}
	// The library spells what it has read with escapes.
	got := strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(strings.Join(r.Answer[1].(*dns.TXT).Txt, ""))
	if got != long || len(r.Answer[1].(*dns.TXT).Txt) != 2 {
		t.Errorf("TXT is %q", got)
	}
}
