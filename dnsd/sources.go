package main

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"os"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/admin"
	"github.com/nodens-dns/nodens/dnsd/clusters"
	"github.com/nodens-dns/nodens/dnsd/config"
	"github.com/nodens-dns/nodens/dnsd/etcd"
	"github.com/nodens-dns/nodens/dnsd/file"
	"github.com/nodens-dns/nodens/dnsd/keep"
	"github.com/nodens-dns/nodens/dnsd/kube"
	"github.com/nodens-dns/nodens/dnsd/machine"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/routes"
	"github.com/nodens-dns/nodens/dnsd/xds"
)

// source is one place the mesh is learnt from.
type source struct {
	name string
	run  func(ctx context.Context, emit func(mesh.Input)) error
	// follow says which namespaces have pods here, streams is what comes of it, and idle that nothing can
	// be expected from the source now; nil where a source does not care.
	follow  func(namespaces []string)
	streams func() []admin.Stream
	idle    func() bool
	// members are under which other names it keeps what it was told.
	members []string
	// told hears each new plan, and does not block; nil where a source does not care.
	told func(*mesh.Plan)
}

// sources are the configured ones in order of precedence: what a file says wins over the control plane.
func sources(c *config.Config, log *slog.Logger, kept *keep.Inputs) []source {
	var s []source
	if c.File != nil {
		f := file.New(file.Options{Dir: c.File.Dir, ClusterDomain: c.ClusterDomain, Node: c.Node(), Routes: c.Routes != nil, Log: log})
		s = append(s, source{name: "file", run: f.Run})
	}
	if c.Kube != nil {
		s = append(s, kubeSource(c, log, kept))
	}
	if c.Routes != nil {
		r := routesSource(c, log)
		s = append(s, source{name: "routes", run: r.Run, told: r.Set})
	}
	if c.Etcd != nil {
		s = append(s, source{name: "etcd", run: etcdSource(c, log).Run})
	}
	if c.XDS != nil {
		s = append(s, xdsSource(c.XDS, log, kept))
	}
	return s
}

// kubeSource watches the cluster that this node is of, and the others there are.
func kubeSource(c *config.Config, log *slog.Logger, kept *keep.Inputs) source {
	open := func(api config.KubeAPI, name string, remote bool) *kube.Source {
		return kube.New(kube.Options{
			Name: name, Kubeconfig: api.Kubeconfig, Context: api.Context, Remote: remote,
			ClusterDomain: c.ClusterDomain, Node: c.Node(), Log: log,
		})
	}
	here := open(c.Kube.KubeAPI, "kube", false)
	if len(c.Kube.Remotes) == 0 {
		return source{name: "kube", run: here.Run}
	}
	o := clusters.Options{
		Source: "kube", LocalFirst: c.Kube.LocalFirst, Keep: kept, Log: log,
		Clusters: []clusters.Cluster{{Name: c.Kube.Cluster, Network: c.Kube.Network, Run: here.Run}},
	}
	for _, r := range c.Kube.Remotes {
		o.Clusters = append(o.Clusters, clusters.Cluster{Name: r.Cluster, Network: r.Network, Run: open(r, "kube-"+r.Cluster, true).Run})
	}
	all := clusters.New(o)
	return source{name: "kube", run: all.Run, members: all.Kept()}
}

// routesSource is the keeper of nginx's routes.
func routesSource(c *config.Config, log *slog.Logger) *routes.Source {
	return routes.New(routes.Options{
		Address: machine.Own(c.Routes.Address), File: c.Routes.File, Command: c.Routes.Nginx, ClusterDomain: c.ClusterDomain, Log: log,
	})
}

// etcdSource reads the keys, and routes if they are served.
func etcdSource(c *config.Config, log *slog.Logger) *etcd.Source {
	return etcd.New(etcd.Options{Store: etcdStore(c.Etcd), Path: c.Etcd.Path, Zones: c.Etcd.Zones, Routes: c.Routes != nil, Log: log})
}

// etcdStore is where the keys are.
func etcdStore(c *config.Etcd) etcd.Store {
	s := etcd.Store{Endpoints: c.Endpoints, User: c.User, PasswordFile: c.PasswordFile}
	if c.TLS != nil {
		s.TLS = &etcd.TLS{CAFile: c.TLS.CAFile, CertFile: c.TLS.CertFile, KeyFile: c.TLS.KeyFile}
	}
	return s
}

// xdsSource asks the control plane of the cluster that this node is of, and those of the others there are.
func xdsSource(c *config.XDS, log *slog.Logger, kept *keep.Inputs) source {
	here := adsClient(c, c.ADS, log)
	planes := []*xds.Source{here}
	s := source{name: "xds", run: here.Run}
	if len(c.Remotes) > 0 {
		o := clusters.Options{
			Source: "xds", LocalFirst: c.LocalFirst, Keep: kept, Log: log,
			Clusters: []clusters.Cluster{{Name: c.Cluster, Network: c.Network, Run: here.Run}},
		}
		for _, r := range c.Remotes {
			plane := adsClient(c, r, log)
			planes = append(planes, plane)
			o.Clusters = append(o.Clusters, clusters.Cluster{Name: r.Cluster, Network: r.Network, Run: plane.Run})
		}
		all := clusters.New(o)
		s.run, s.members = all.Run, all.Kept()
	}
	s.follow = func(namespaces []string) {
		for _, plane := range planes {
			plane.Follow(namespaces)
		}
	}
	s.streams = func() (shown []admin.Stream) {
		for i, plane := range planes {
			of := ""
			if i > 0 {
				of = c.Remotes[i-1].Cluster
			}
			shown = append(shown, streams(plane, of)...)
		}
		return shown
	}
	// Without a pod there is nobody to ask for.
	s.idle = func() bool { return len(here.Streams()) == 0 }
	return s
}

// adsClient is a client of one control plane.
func adsClient(c *config.XDS, to config.ADS, log *slog.Logger) *xds.Source {
	o := xds.Options{
		Address: to.Address, TokenFile: to.TokenFile, Namespace: to.Namespace, Log: log,
		Node: func(namespace string) xds.Node {
			n := xds.NewNode(namespace, cmp.Or(c.NodeName, os.Getenv("NODE_NAME")), cmp.Or(c.NodeIP, os.Getenv("NODE_IP")), metadata(c))
			place := strings.SplitN(c.Locality+"//", "/", 3)
			n.Region, n.Zone, n.SubZone = place[0], place[1], strings.TrimRight(place[2], "/")
			return n
		},
	}
	if to.TLS != nil {
		o.TLS = &xds.TLS{CAFile: to.TLS.CAFile, CertFile: to.TLS.CertFile, KeyFile: to.TLS.KeyFile, ServerName: to.TLS.ServerName}
	}
	return xds.New(o)
}

// metadata is what control planes are told of this node beside what they always are: which cluster and network
// it is in, whosever control plane it is.
func metadata(c *config.XDS) map[string]any {
	m := map[string]any{}
	if c.Cluster != "" {
		m["CLUSTER_ID"] = c.Cluster
	}
	if c.Network != "" {
		m["NETWORK"] = c.Network
	}
	maps.Copy(m, c.Metadata)
	return m
}

// streams is how each stream of a control plane stands, of this node's own cluster or another.
func streams(x *xds.Source, cluster string) (shown []admin.Stream) {
	for _, st := range x.Streams() {
		shown = append(shown, admin.Stream{
			Cluster: cluster, Namespace: st.Namespace, Protocol: st.Protocol, Connected: st.Connected, Versions: st.Versions,
			Error: strings.ReplaceAll(st.Error, "\n", "; "),
		})
	}
	return shown
}
