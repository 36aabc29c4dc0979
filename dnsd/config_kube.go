package main

import (
	"cmp"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/kube"
)

// KubeConfig says which Kubernetes API to ask, and as whom.
type KubeConfig struct {
	// Kubeconfig is a file; empty means the service account of the pod that dnsd runs in.
	Kubeconfig string `json:"kubeconfig"`
	// Context is one of the kubeconfig's; empty means its current one.
	Context string `json:"context"`
}

func (c *KubeConfig) check() (errs []error) {
	if c.Kubeconfig != "" && !filepath.IsAbs(c.Kubeconfig) {
		errs = append(errs, errors.New("kube.kubeconfig: \""+c.Kubeconfig+"\" is not an absolute path"))
	}
	if c.Context != "" && c.Kubeconfig == "" {
		errs = append(errs, errors.New("kube.context is one of a kubeconfig: set kube.kubeconfig"))
	}
	return errs
}

// source returns a client of the cluster that this node is of.
func (c *Config) kubeSource(log *slog.Logger) *kube.Source {
	return kube.New(kube.Options{
		Kubeconfig: c.Kube.Kubeconfig, Context: c.Kube.Context,
		ClusterDomain: c.ClusterDomain, Node: c.nodeName(), Log: log,
	})
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
