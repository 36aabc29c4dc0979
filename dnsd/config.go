package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/nodens-dns/nodens/dnsd/upstream"
)

// Config is dnsd's configuration file (YAML or JSON). An unknown field is an error. Every field has a
// default that fits a Kubernetes node; an empty file is a working configuration without sources.
type Config struct {
	// StateDir holds what must survive a reboot: virtual addresses and what the sources last said.
	StateDir string `json:"stateDir"`
	// RunDir holds what must not: attachment files, the bell, the admin socket. The plugin's stateDir
	// must be the same folder.
	RunDir string `json:"runDir"`
	// BPFPath is where links and maps are pinned; the plugin's bpfPath must be the same folder.
	BPFPath string `json:"bpfPath"`
	// Cgroup is the cgroup2 folder the programs are attached to; empty means the hierarchy's root.
	Cgroup string `json:"cgroup"`
	// Listen is the address of health checks and metrics.
	Listen string `json:"listen"`
	// ClusterDomain is the cluster's own DNS domain.
	ClusterDomain string `json:"clusterDomain"`
	// Nameservers are captured in pods whose runtime and network configuration name none.
	Nameservers []netip.Addr `json:"nameservers"`
	// CaptureHost has the machine's own processes served as a pod's are: for virtual machines, where there
	// are no pods. What resolv.conf names on this machine itself, such as systemd-resolved's stub, is left
	// alone, and the servers behind it are captured.
	CaptureHost bool `json:"captureHost"`
	// Resolvers are asked for the names of DNS-type clusters that name no resolver of their own; empty
	// means the pods' nameservers, then the node's resolv.conf.
	Resolvers []string `json:"resolvers"`
	// Zones are domains that are asked of servers of their own, for pods and for DNS-type clusters.
	Zones []ZoneConfig `json:"zones"`
	// VIPs are the ranges virtual addresses are given from. The default IPv4 range steps aside when a
	// control plane that allocates for itself (Istio: 240.240.0.0/16) is a source.
	VIPs struct {
		V4 netip.Prefix `json:"v4"`
		V6 netip.Prefix `json:"v6"`
	} `json:"vips"`
	// KernelAnswers has the kernel answer declared names by itself, and whatever dnsd has answered before
	// from the same table; it goes on while no dnsd runs. Linux 6.15.
	KernelAnswers bool `json:"kernelAnswers"`
	// Light leaves pods without listeners, so that only the kernel answers them; KernelAnswers must be set.
	Light bool `json:"light"`
	// DrainTime is how long TCP connections go on when their endpoint has left, such as "30s".
	DrainTime string `json:"drainTime"`
	// File, when set, reads manifests from a folder.
	File *struct {
		Dir string `json:"dir"`
	} `json:"file"`
	// Kube, when set, watches the Kubernetes API; {} does it as the pod that dnsd runs in.
	Kube *KubeConfig `json:"kube"`
	// NodeName is this node's name in Kubernetes; empty means $NODE_NAME, else the host's name.
	NodeName string `json:"nodeName"`
	// Etcd, when set, reads names from SkyDNS keys.
	Etcd *EtcdConfig `json:"etcd"`
	// Routes, when set, has the node's nginx serve host and path routes.
	Routes *RoutesConfig `json:"routes"`
	// XDS, when set, connects to a control plane that speaks ADS.
	XDS *XDSConfig `json:"xds"`

	resolvers []netip.AddrPort // Resolvers, parsed
	zones     []upstream.Zone  // Zones, parsed
	drain     time.Duration    // DrainTime, parsed
}

// readConfig reads path; an empty path is the default configuration.
func readConfig(path string) (*Config, error) {
	c := &Config{
		StateDir:      "/var/lib/nodens",
		RunDir:        "/run/nodens",
		Listen:        "127.0.0.1:9553",
		ClusterDomain: "cluster.local",
		DrainTime:     defaultDrain.String(),
	}
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		if err := yaml.UnmarshalStrict(data, c); err != nil {
			return nil, fmt.Errorf("configuration %s: %w", path, err)
		}
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// check fills in what depends on other fields and says every mistake at once.
func (c *Config) check() error {
	errs := c.checkPaths()
	// Everything else spells it like this, and compares.
	c.ClusterDomain = strings.ToLower(strings.TrimSuffix(c.ClusterDomain, "."))
	if !domainName.MatchString(c.ClusterDomain) {
		errs = append(errs, fmt.Errorf("clusterDomain: %q is not a DNS name", c.ClusterDomain))
	}
	for _, r := range c.Resolvers {
		ap, err := netip.ParseAddrPort(r)
		if err != nil {
			addr, aerr := netip.ParseAddr(r)
			if aerr != nil {
				errs = append(errs, fmt.Errorf("resolvers: %q is neither an address nor address:port", r))
				continue
			}
			ap = netip.AddrPortFrom(addr, 53)
		}
		c.resolvers = append(c.resolvers, ap)
	}
	var err error
	if c.zones, err = parseZones(c.Zones); err != nil {
		errs = append(errs, err)
	}
	if c.drain, err = time.ParseDuration(c.DrainTime); err != nil || c.drain < 0 {
		errs = append(errs, fmt.Errorf("drainTime: %q is no duration such as 30s or 10m", c.DrainTime))
	}
	errs = append(errs, c.checkVIPs()...)
	if c.Light && !c.KernelAnswers {
		errs = append(errs, errors.New("light: without kernelAnswers nobody would answer; set that, too"))
	}
	return errors.Join(append(errs, c.checkSources()...)...)
}

// checkVIPs chooses ranges that nobody else gives addresses from, where none are set.
func (c *Config) checkVIPs() (errs []error) {
	if !c.VIPs.V4.IsValid() {
		c.VIPs.V4 = netip.MustParsePrefix("240.240.0.0/16")
		if c.XDS != nil || c.Kube != nil {
			c.VIPs.V4 = netip.MustParsePrefix("240.241.0.0/16")
		}
	}
	if !c.VIPs.V6.IsValid() {
		c.VIPs.V6 = netip.MustParsePrefix("2001:2::/48")
		if c.XDS != nil || c.Kube != nil {
			// A control plane counts upwards from 2001:2::1; this part of the range it never reaches.
			c.VIPs.V6 = netip.MustParsePrefix("2001:2:0:f0f1::/64")
		}
	}
	if !c.VIPs.V4.Addr().Is4() {
		errs = append(errs, fmt.Errorf("vips.v4: %s is not an IPv4 range", c.VIPs.V4))
	}
	if !c.VIPs.V6.Addr().Is6() {
		errs = append(errs, fmt.Errorf("vips.v6: %s is not an IPv6 range", c.VIPs.V6))
	}
	return errs
}

// checkSources checks what is said of each source that is on.
func (c *Config) checkSources() (errs []error) {
	if c.File != nil && c.File.Dir == "" {
		errs = append(errs, errors.New("file.dir is empty: name the folder that holds the manifests"))
	}
	if c.Kube != nil {
		errs = append(errs, c.Kube.check()...)
	}
	if c.Etcd != nil {
		errs = append(errs, c.Etcd.check()...)
	}
	if c.Routes != nil {
		errs = append(errs, c.Routes.check()...)
	}
	if c.XDS != nil {
		errs = append(errs, c.XDS.check()...)
	}
	return errs
}

var domainName = regexp.MustCompile(`^[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*$`)

// checkPaths wants absolute ones: what a relative path means depends on who starts dnsd, and the plugin
// has to find the same folders.
func (c *Config) checkPaths() (errs []error) {
	paths := map[string]string{"stateDir": c.StateDir, "runDir": c.RunDir}
	for name, optional := range map[string]string{"bpfPath": c.BPFPath, "cgroup": c.Cgroup} {
		if optional != "" {
			paths[name] = optional
		}
	}
	for _, name := range slices.Sorted(maps.Keys(paths)) {
		if !filepath.IsAbs(paths[name]) {
			errs = append(errs, fmt.Errorf("%s: %q is not an absolute path", name, paths[name]))
		}
	}
	return errs
}

func (c *Config) attachments() string { return filepath.Join(c.RunDir, "attachments") }
func (c *Config) bell() string        { return filepath.Join(c.RunDir, "bell.sock") }
func (c *Config) adminSocket() string { return filepath.Join(c.RunDir, "admin.sock") }
func (c *Config) door() string        { return filepath.Join(c.RunDir, "handover.sock") }
func (c *Config) vips() string        { return filepath.Join(c.StateDir, "vips.json") }
func (c *Config) inputs() string      { return filepath.Join(c.StateDir, "inputs") }
