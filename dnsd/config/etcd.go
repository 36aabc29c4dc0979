package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
)

// Etcd says where names are kept in etcd, in CoreDNS's SkyDNS form.
type Etcd struct {
	// Endpoints are etcd's members, as http:// or https:// URLs.
	Endpoints []string `json:"endpoints"`
	// Path is what all keys begin with.
	Path string `json:"path"`
	// Zones are the domains served, within which a name has all keys below it; empty means that each key
	// is one name.
	Zones []string `json:"zones"`
	// TLS says whom to trust at https endpoints, and as whom to come; unset, whom the system trusts.
	TLS *EtcdTLS `json:"tls"`
	// User and PasswordFile are for a store that wants them, both or neither.
	User         string `json:"user"`
	PasswordFile string `json:"passwordFile"`
}

// EtcdTLS are files in PEM form, read anew for each connection. The certificate of etcd must be for the
// host of its endpoint.
type EtcdTLS struct {
	// CAFile is whom etcd's certificate must be from; empty means whom the system trusts.
	CAFile string `json:"caFile"`
	// CertFile and KeyFile are this node's own, both or neither.
	CertFile string `json:"certFile"`
	KeyFile  string `json:"keyFile"`
}

func (c *Etcd) check() (errs []error) {
	if len(c.Endpoints) == 0 {
		errs = append(errs, errors.New("etcd.endpoints is empty: name at least one, such as http://127.0.0.1:2379"))
	}
	for i, text := range c.Endpoints {
		u, err := url.Parse(text)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "":
			errs = append(errs, fmt.Errorf("etcd.endpoints[%d]: %q is not http://HOST:PORT or https://HOST:PORT", i, text))
		case u.Scheme == "http" && c.TLS != nil:
			errs = append(errs, fmt.Errorf("etcd.endpoints[%d]: %q is not https, but there is etcd.tls", i, text))
		case u.Scheme == "http" && c.User != "" && !loopback(u.Hostname()):
			errs = append(errs, fmt.Errorf("etcd.user: anybody on the way to %s could read the password; use https", text))
		}
	}
	if parts := strings.Trim(c.Path, "/"); c.Path != "" && (parts == "" || strings.Contains(parts, "//")) {
		errs = append(errs, fmt.Errorf("etcd.path: %q is no path such as /skydns", c.Path))
	}
	for i, zone := range c.Zones {
		if !domainName.MatchString(strings.ToLower(strings.TrimSuffix(zone, "."))) {
			errs = append(errs, fmt.Errorf("etcd.zones[%d]: %q is not a DNS name; a reverse zone is written like 0.0.10.in-addr.arpa", i, zone))
		}
	}
	if (c.User == "") != (c.PasswordFile == "") {
		errs = append(errs, errors.New("etcd: user and passwordFile belong together: set both or neither"))
	}
	if c.PasswordFile != "" && !filepath.IsAbs(c.PasswordFile) {
		errs = append(errs, fmt.Errorf("etcd.passwordFile: %q is not an absolute path", c.PasswordFile))
	}
	if c.TLS != nil && (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		errs = append(errs, errors.New("etcd.tls: certFile and keyFile belong together: set both or neither"))
	}
	return errs
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
