package config

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Kube says which Kubernetes APIs to ask, and as whom.
type Kube struct {
	KubeAPI `json:",inline"`
	// Remotes are other clusters of the mesh: their services are known here, too.
	Remotes []KubeAPI `json:"remotes"`
	// LocalFirst has connections stay in this cluster as long as enough of a service's endpoints here work.
	LocalFirst bool `json:"localFirst"`
}

// KubeAPI is that of one cluster.
type KubeAPI struct {
	// Kubeconfig is a file; empty means the service account of the pod that dnsd runs in.
	Kubeconfig string `json:"kubeconfig"`
	// Context is one of the kubeconfig's; empty means its current one.
	Context string `json:"context"`
	// Cluster is what it is called among several, and Network the network its pods are in: those of another
	// network than this cluster's are not reached.
	Cluster string `json:"cluster"`
	Network string `json:"network"`
}

func (c *Kube) check() (errs []error) {
	errs = c.KubeAPI.check("kube")
	names := []string{c.Cluster}
	if len(c.Remotes) > 0 && c.Cluster == "" {
		errs = append(errs, errors.New("kube.cluster is empty: with kube.remotes every cluster has a name"))
	}
	for i, r := range c.Remotes {
		field := fmt.Sprintf("kube.remotes[%d]", i)
		errs = append(errs, r.check(field)...)
		if r.Kubeconfig == "" {
			errs = append(errs, fmt.Errorf("%s.kubeconfig is empty: name the file that leads to the cluster", field))
		}
		errs = append(errs, checkRemote(field, r.Cluster, names)...)
		names = append(names, r.Cluster)
	}
	return errs
}

func (c *KubeAPI) check(field string) (errs []error) {
	if c.Kubeconfig != "" && !filepath.IsAbs(c.Kubeconfig) {
		errs = append(errs, fmt.Errorf("%s.kubeconfig: %q is not an absolute path", field, c.Kubeconfig))
	}
	if c.Context != "" && c.Kubeconfig == "" {
		errs = append(errs, fmt.Errorf("%s.context is one of a kubeconfig: set %s.kubeconfig", field, field))
	}
	return append(errs, checkCluster(field, c.Cluster)...)
}

// Node is this node's name in Kubernetes: kubelet's own default is the host's name.
func (c *Config) Node() string {
	host, _ := os.Hostname() // without one nothing is near
	return cmp.Or(c.NodeName, os.Getenv("NODE_NAME"), strings.ToLower(host))
}

// Elsewhere are the configured zones within the cluster's domain: whoever asks other servers about them
// knows of names there that the cluster's API does not.
func (c *Config) Elsewhere() (domains []string) {
	for _, z := range c.ForwardZones {
		if name := strings.TrimSuffix(z.Name, "."); name == c.ClusterDomain || strings.HasSuffix(name, "."+c.ClusterDomain) {
			domains = append(domains, name)
		}
	}
	return domains
}
