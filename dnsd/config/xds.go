package config

import (
	"errors"
	"fmt"
	"strings"
)

// XDS says which control plane to ask and as whom.
type XDS struct {
	// Address is host:port of an ADS server: istiod's 15012 with TLS, 15010 without.
	Address string `json:"address"`
	// TLS, when set, is spoken, and says who is trusted and as whom.
	TLS *XDSTLS `json:"tls"`
	// TokenFile holds a bearer token, read anew for each stream.
	TokenFile string `json:"tokenFile"`
	// Namespace, when set, is the one whose view of the mesh all pods get. Unset, each pod gets that of
	// its own namespace.
	Namespace string `json:"namespace"`
	// NodeName and NodeIP identify this node to the control plane; empty means $NODE_NAME and $NODE_IP.
	NodeName string `json:"nodeName"`
	NodeIP   string `json:"nodeIP"`
	// Locality is where the node stands, as "region/zone/subzone": control planes order priorities by it.
	Locality string `json:"locality"`
	// Metadata is added to the node's metadata, over what dnsd sends by itself.
	Metadata map[string]any `json:"metadata"`
}

// XDSTLS are files in PEM form, read anew for each connection.
type XDSTLS struct {
	// CAFile is whom the control plane's certificate must be from; empty means whom the system trusts.
	CAFile string `json:"caFile"`
	// CertFile and KeyFile are this node's own, both or neither.
	CertFile string `json:"certFile"`
	KeyFile  string `json:"keyFile"`
	// ServerName is whom the control plane's certificate must be of; empty means the address's host.
	ServerName string `json:"serverName"`
}

func (c *XDS) check() (errs []error) {
	if c.Address == "" {
		errs = append(errs, errors.New("xds.address is empty: name the control plane as host:port"))
	}
	if c.TokenFile != "" && c.TLS == nil {
		errs = append(errs, errors.New("xds.tokenFile without xds.tls: anybody on the way could read the token; set xds.tls (its caFile, or {} for the system's), or leave the token out"))
	}
	if c.TLS != nil && (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		errs = append(errs, errors.New("xds.tls: certFile and keyFile belong together: set both or neither"))
	}
	if strings.Count(c.Locality, "/") > 2 {
		errs = append(errs, fmt.Errorf("xds.locality: %q is not of the form region/zone/subzone", c.Locality))
	}
	return errs
}
