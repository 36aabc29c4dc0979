package upstream

import (
	"cmp"
	"crypto/tls"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Zone has the questions for a name, and for everything below it, put to servers of its own: a stub
// zone, or conditional forwarding.
//
// They are asked from the namespace dnsd itself runs in, not from the pod's: which servers know a zone
// is the node's setting, and so is the way to them. No pod's NetworkPolicy has to allow it, one answer
// serves every pod, and a TLS connection outlives the pod that asked first. If none of them answers, the
// question fails: the pod's nameservers would give another answer, or learn what they should not.
type Zone struct {
	// Name is the domain name; "." takes every question that no other zone takes.
	Name string
	// Servers, in the order of preference. There must be one; of two with one address only the first
	// counts.
	Servers []Server
}

// Server is a nameserver of a Zone.
type Server struct {
	Addr netip.AddrPort
	// TLS, when not nil, asks over TLS and nothing else (RFC 7858). The server must prove to be
	// ServerName, or Addr where that is empty. New makes a copy.
	TLS *tls.Config
}

// zoneScope begins the Scope of a zone. No network of pods has a colon in its name (CNI specification).
const zoneScope = "zone:"

// newZones makes the zones ready to be asked, by their names in lower case.
func newZones(list []Zone) map[string]Servers {
	zones := make(map[string]Servers, len(list))
	for _, z := range list {
		name := dns.CanonicalName(z.Name)
		s := Servers{Scope: zoneScope + name, links: make(map[netip.AddrPort]*link)}
		for _, server := range z.Servers {
			s.Addrs = append(s.Addrs, server.Addr)
			if _, again := s.links[server.Addr]; !again {
				s.links[server.Addr] = nil
				if server.TLS != nil {
					s.links[server.Addr] = newLink(server)
				}
			}
		}
		zones[name] = s
	}
	return zones
}

// route returns whom to ask q: the servers of the closest zone that it is in, or else s.
func (c *Client) route(s Servers, q dns.Question) Servers {
	if len(c.zones) == 0 || s.Exact {
		return s
	}
	name := dns.CanonicalName(q.Name)
	at, end := 0, name == "."
	if q.Qtype == dns.TypeDS && !end {
		at, end = dns.NextLabel(name, 0) // it stands in the zone above (RFC 4035, section 3.1.4.1)
	}
	for ; !end; at, end = dns.NextLabel(name, at) {
		if zone, ok := c.zones[name[at:]]; ok {
			zone.TCP, zone.by = s.TCP, s.asker()
			return zone
		}
	}
	if zone, ok := c.zones["."]; ok {
		zone.TCP, zone.by = s.TCP, s.asker()
		return zone
	}
	return s
}

// Zone returns the zone that questions for qname go to, and its servers; ok is false if they go to the
// servers they are asked of.
func (c *Client) Zone(qname string) (name string, servers []netip.AddrPort, ok bool) {
	s := c.route(Servers{}, dns.Question{Name: qname})
	name, ok = strings.CutPrefix(s.Scope, zoneScope)
	return name, s.Addrs, ok
}

// network is what server is asked over at first.
func (s Servers) network(server netip.AddrPort) string {
	switch {
	case s.links[server] != nil:
		return "tls"
	case s.TCP:
		return "tcp"
	}
	return "udp"
}

// tlsConfig is what s is dialled with.
func (s Server) tlsConfig() *tls.Config {
	config := s.TLS.Clone()
	config.ServerName = cmp.Or(config.ServerName, s.Addr.Addr().WithZone("").String())
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12) // RFC 9325
	config.ClientSessionCache = cmp.Or(config.ClientSessionCache, tls.NewLRUClientSessionCache(maxStreams))
	return config
}
