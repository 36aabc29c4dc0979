package names

import (
	"net/netip"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// data returns the record sets that were declared for e's own name; nil if there are none.
func (e *entry) data() *mesh.Data {
	if e.record != nil {
		return nil
	}
	return e.row.Data
}

// ttlOf is the time to live of e's records.
func (t *Table) ttlOf(e *entry) uint32 {
	if e.row.TTL != 0 {
		return e.row.TTL
	}
	return t.ttl
}

// answers fills in what was declared of qtype for e's own name, and reports whether there is any.
func (e *entry) answers(a *Answer, c *Client, v views, qtype uint16) bool {
	d := e.data()
	if d == nil {
		return false
	}
	switch qtype { // by whole slices: appending to a's would move the question's name off the caller's stack
	case dns.TypeSRV:
		a.Services = v.services(c, d.Services)
	case dns.TypeMX:
		a.Mail = v.mail(c, d.Mail)
	case dns.TypeTXT:
		a.Texts = d.Texts
	case dns.TypePTR:
		if d.Pointer != "" {
			a.PTR = fqdn(d.Pointer)
		}
	}
	return !a.empty()
}

func (v views) services(c *Client, declared []mesh.Service) []Service {
	var all []Service
	for _, s := range declared {
		to := Service{Priority: s.Priority, Weight: s.Weight, Port: s.Port, Target: fqdn(s.Target)}
		to.A, to.AAAA = v.addresses(c, to.Target)
		all = append(all, to)
	}
	return all
}

func (v views) mail(c *Client, declared []mesh.Mail) []Mail {
	var all []Mail
	for _, m := range declared {
		to := Mail{Preference: m.Preference, Target: fqdn(m.Target)}
		to.A, to.AAAA = v.addresses(c, to.Target)
		all = append(all, to)
	}
	return all
}

// addresses returns those of a target that the table knows: a client is spared asking for them.
func (v views) addresses(c *Client, target string) (v4, v6 []netip.Addr) {
	if e := v.findWhole(target).entry; e != nil && !e.alias {
		return e.a(), e.reachable(c)
	}
	return nil, nil
}
