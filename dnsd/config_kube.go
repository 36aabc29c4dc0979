package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/kube"
	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// KubeConfig says which Kubernetes APIs to ask, and as whom.
type KubeConfig struct {
	ClusterConfig `json:",inline"`
	// Remotes are other clusters of the mesh: their services are known here, too.
	Remotes []ClusterConfig `json:"remotes"`
	// LocalFirst has connections stay in this cluster as long as enough of a service's endpoints here work.
	LocalFirst bool `json:"localFirst"`
}

// ClusterConfig is one cluster.
type ClusterConfig struct {
	// Kubeconfig is a file; empty means the service account of the pod that dnsd runs in.
	Kubeconfig string `json:"kubeconfig"`
	// Context is one of the kubeconfig's; empty means its current one.
	Context string `json:"context"`
	// Cluster is what it is called among several, and Network the network its pods are in: those of another
	// network than this cluster's are not reached.
	Cluster string `json:"cluster"`
	Network string `json:"network"`
}

func (c *KubeConfig) check() (errs []error) {
	errs = c.ClusterConfig.check("kube")
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
		if !domainName.MatchString(r.Cluster) || slices.Contains(names, r.Cluster) {
			errs = append(errs, fmt.Errorf("%s.cluster: %q is no name, or another cluster's", field, r.Cluster))
		}
		names = append(names, r.Cluster)
	}
	return errs
}

func (c *ClusterConfig) check(field string) (errs []error) {
	if c.Kubeconfig != "" && !filepath.IsAbs(c.Kubeconfig) {
		errs = append(errs, fmt.Errorf("%s.kubeconfig: %q is not an absolute path", field, c.Kubeconfig))
	}
	if c.Context != "" && c.Kubeconfig == "" {
		errs = append(errs, fmt.Errorf("%s.context is one of a kubeconfig: set %s.kubeconfig", field, field))
	}
	if c.Cluster != "" && !domainName.MatchString(c.Cluster) {
		errs = append(errs, fmt.Errorf("%s.cluster: %q is no name such as east", field, c.Cluster))
	}
	return errs
}

// kubeSource watches the cluster that this node is of, and the others there are.
func (c *Config) kubeSource(log *slog.Logger, keep *keeper) func(ctx context.Context, emit func(mesh.Input)) error {
	open := func(cc ClusterConfig, name string, remote bool) *kube.Source {
		return kube.New(kube.Options{
			Name: name, Kubeconfig: cc.Kubeconfig, Context: cc.Context, Remote: remote,
			ClusterDomain: c.ClusterDomain, Node: c.nodeName(), Log: log,
		})
	}
	here := open(c.Kube.ClusterConfig, "kube", false)
	if len(c.Kube.Remotes) == 0 {
		return here.Run
	}
	all := &clusters{
		sources: []*kube.Source{here}, localFirst: c.Kube.LocalFirst, keep: keep, log: log,
		members: []kube.Member{{Cluster: c.Kube.Cluster, Network: c.Kube.Network, Input: mesh.Input{Source: "kube"}}},
	}
	for _, r := range c.Kube.Remotes {
		name := "kube-" + r.Cluster
		all.sources = append(all.sources, open(r, name, true))
		all.members = append(all.members, kube.Member{Cluster: r.Cluster, Network: r.Network, Input: mesh.Input{Source: name}})
	}
	return all.run
}

// nodeName is this node's name in Kubernetes: kubelet's own default is the host's name.
func (c *Config) nodeName() string {
	host, _ := os.Hostname() // without one nothing is near
	return cmp.Or(c.NodeName, os.Getenv("NODE_NAME"), strings.ToLower(host))
}

// elsewhere are the configured zones within the cluster's domain: whoever asks other servers about them
// knows of names there that the cluster's API does not.
func (c *Config) elsewhere() (domains []string) {
	for _, z := range c.zones {
		if name := strings.TrimSuffix(z.Name, "."); name == c.ClusterDomain || strings.HasSuffix(name, "."+c.ClusterDomain) {
			domains = append(domains, name)
		}
	}
	return domains
}
