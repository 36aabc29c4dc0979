package upstream

import (
	"fmt"
	"net/netip"

	"github.com/miekg/dns"
)

// ResolvConf reads the nameservers, in order and with port 53, and the search list of a resolv.conf(5).
// Nameservers that are not IP addresses are left out. A file that names none is not an error.
func ResolvConf(path string) (servers []netip.AddrPort, search []string, err error) {
	conf, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read resolver configuration: %w", err)
	}
	for _, s := range conf.Servers {
		if addr, err := netip.ParseAddr(s); err == nil {
			servers = append(servers, netip.AddrPortFrom(addr.Unmap(), 53))
		}
	}
	return servers, conf.Search, nil
}
