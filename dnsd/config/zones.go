package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/upstream"
)

// Zone is a domain whose names are asked of servers of their own, from the node, whichever pod
// asks: conditional forwarding, or a stub zone.
type Zone struct {
	// Name is the domain; the longest that fits a name counts. "." stands for all that no other fits.
	Name string `json:"name"`
	// Servers are asked in this order: "192.0.2.1", "192.0.2.1:5353", or over TLS
	// "tls://192.0.2.2:853#dns.corp.example", whose certificate must be for the name behind the #, or for
	// the address if there is none. The ports may be left out.
	Servers []string `json:"servers"`
	// CA is a PEM file of the authorities that sign the certificates; empty means the system's.
	CA string `json:"ca"`
}

// parseZones reads zones, and says every mistake at once.
func parseZones(zones []Zone) ([]upstream.Zone, error) {
	var parsed []upstream.Zone
	var errs []error
	var names []string
	for i, z := range zones {
		field := fmt.Sprintf("zones[%d].", i)
		name := strings.ToLower(strings.TrimSuffix(z.Name, "."))
		switch {
		case z.Name != "." && !domainName.MatchString(name):
			errs = append(errs, fmt.Errorf("%sname: %q is not a DNS name", field, z.Name))
		case slices.Contains(names, name):
			errs = append(errs, fmt.Errorf("%sname: %q is there twice", field, z.Name))
		}
		names = append(names, name)
		servers, mistakes := z.parseServers()
		for _, mistake := range mistakes {
			errs = append(errs, fmt.Errorf("%s%w", field, mistake))
		}
		parsed = append(parsed, upstream.Zone{Name: name + ".", Servers: servers})
	}
	return parsed, errors.Join(errs...)
}

// parseServers reads the servers of a zone.
func (z *Zone) parseServers() (servers []upstream.Server, errs []error) {
	roots, err := readCA(z.CA)
	if err != nil {
		errs = append(errs, fmt.Errorf("ca: %w", err))
	}
	secure := false
	for i, text := range z.Servers {
		s, err := parseServer(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("servers[%d]: %w", i, err))
			continue
		}
		if slices.ContainsFunc(servers, func(o upstream.Server) bool { return o.Addr == s.Addr }) {
			errs = append(errs, fmt.Errorf("servers[%d]: %s is there twice", i, s.Addr))
		}
		if s.TLS != nil {
			secure, s.TLS.RootCAs = true, roots
		}
		servers = append(servers, s)
	}
	if len(z.Servers) == 0 {
		errs = append(errs, errors.New("servers: name at least one"))
	}
	if z.CA != "" && !secure && len(errs) == 0 {
		errs = append(errs, errors.New("ca: no server is asked over TLS (tls://ADDRESS)"))
	}
	return servers, errs
}

// readCA reads the certificates in path; without path there are none, which means the system's.
func readCA(path string) (*x509.CertPool, error) {
	switch {
	case path == "":
		return nil, nil
	case !filepath.IsAbs(path):
		return nil, fmt.Errorf("%q is not an absolute path", path)
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM", path)
	}
	return roots, nil
}

// parseServer reads a server of a zone: ADDRESS[:PORT], or tls://ADDRESS[:PORT][#NAME].
func parseServer(text string) (upstream.Server, error) {
	wrong := fmt.Errorf("%q is neither ADDRESS[:PORT] nor tls://ADDRESS[:PORT][#NAME]", text)
	addr, secure := strings.CutPrefix(text, "tls://")
	addr, name, named := strings.Cut(addr, "#")
	port := uint16(53)
	var s upstream.Server
	if secure {
		port = 853
		s.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: strings.TrimSuffix(name, ".")}
	}
	if named && (!secure || !domainName.MatchString(strings.ToLower(s.TLS.ServerName))) {
		return s, wrong
	}
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		ip, ierr := netip.ParseAddr(addr)
		if ierr != nil {
			return s, wrong
		}
		at = netip.AddrPortFrom(ip, port)
	}
	if at.Port() == 0 || at.Addr().IsUnspecified() {
		return s, wrong
	}
	s.Addr = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	return s, nil
}
