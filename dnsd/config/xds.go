package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// XDS says which control planes to ask and as whom.
type XDS struct {
	ADS `json:",inline"`
	// NodeName and NodeIP identify this node to the control plane; empty means $NODE_NAME and $NODE_IP.
	NodeName string `json:"nodeName"`
	NodeIP   string `json:"nodeIP"`
	// Locality is where the node stands, as "region/zone/subzone": control planes order priorities by it.
	Locality string `json:"locality"`
	// Metadata is added to the node's metadata, over what dnsd sends by itself.
	Metadata map[string]any `json:"metadata"`
	// Remotes are the control planes of other clusters of the mesh: their services are known here, too.
	Remotes []ADS `json:"remotes"`
	// LocalFirst has connections stay in this cluster as long as enough of a service's endpoints here work.
	LocalFirst bool `json:"localFirst"`
}

// ADS is the control plane of one cluster.
type ADS struct {
	// Address is host:port of an ADS server: istiod's 15012 with TLS, 15010 without.
	Address string `json:"address"`
	// TLS, when set, is spoken, and says who is trusted and as whom.
	TLS *XDSTLS `json:"tls"`
	// TokenFile holds a bearer token, read anew for each stream.
	TokenFile string `json:"tokenFile"`
	// Namespace, when set, is the one whose view of the mesh all pods get. Unset, each pod gets that of
	// its own namespace.
	Namespace string `json:"namespace"`
	// Cluster is what it is called among several, and Network the network its pods are in: those of another
	// network than this cluster's are not reached.
	Cluster string `json:"cluster"`
	Network string `json:"network"`
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
	errs = c.ADS.check("xds")
	names := []string{c.Cluster}
	if len(c.Remotes) > 0 && c.Cluster == "" {
		errs = append(errs, errors.New("xds.cluster is empty: with xds.remotes every cluster has a name"))
	}
	for i, r := range c.Remotes {
		field := fmt.Sprintf("xds.remotes[%d]", i)
		errs = append(errs, r.check(field)...)
		errs = append(errs, checkRemote(field, r.Cluster, names)...)
		names = append(names, r.Cluster)
	}
	if strings.Count(c.Locality, "/") > 2 {
		errs = append(errs, fmt.Errorf("xds.locality: %q is not of the form region/zone/subzone", c.Locality))
	}
	return errs
}

func (c *ADS) check(field string) (errs []error) {
	if c.Address == "" {
		errs = append(errs, fmt.Errorf("%s.address is empty: name the control plane as host:port", field))
	}
	if c.TokenFile != "" && c.TLS == nil {
		errs = append(errs, fmt.Errorf("%[1]s.tokenFile without %[1]s.tls: anybody on the way could read the token; set %[1]s.tls (its caFile, or {} for the system's), or leave the token out", field))
	}
	if c.TLS != nil && (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		errs = append(errs, fmt.Errorf("%s.tls: certFile and keyFile belong together: set both or neither", field))
	}
	return append(errs, checkCluster(field, c.Cluster)...)
}

// checkCluster says whether a cluster may be called that; empty is no name.
func checkCluster(field, name string) []error {
	if name != "" && !domainName.MatchString(name) {
		return []error{fmt.Errorf("%s.cluster: %q is no name such as east", field, name)}
	}
	return nil
}

// checkRemote says whether another cluster may be called that beside those that are.
func checkRemote(field, name string, names []string) []error {
	if name == "" || slices.Contains(names, name) {
		return []error{fmt.Errorf("%s.cluster: %q is no name, or another cluster's", field, name)}
	}
	return nil
}
