// Package config reads dnsd's configuration file: with what is in it dnsd can start, or every mistake is said
// at once. Beside the file itself and the certificates it names nothing is looked at: neither the network nor
// the kernel.
package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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
	// Listen is the address of health checks and metrics; empty means there is none.
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
	Zones []Zone `json:"zones"`
	// VIPs are the ranges virtual addresses are given from. The default IPv4 range steps aside when a
	// control plane that allocates for itself (Istio: 240.240.0.0/16) is a source.
	VIPs struct {
		V4 netip.Prefix `json:"v4"`
		V6 netip.Prefix `json:"v6"`
	} `json:"vips"`
	// KernelAnswers has the kernel answer declared names by itself, and whatever dnsd has answered before
	// from the same table; it goes on while no dnsd runs.
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
	Kube *Kube `json:"kube"`
	// NodeName is this node's name in Kubernetes; empty means $NODE_NAME, else the host's name.
	NodeName string `json:"nodeName"`
	// Etcd, when set, reads names from SkyDNS keys.
	Etcd *Etcd `json:"etcd"`
	// Routes, when set, has the node's nginx serve host and path routes.
	Routes *Routes `json:"routes"`
	// XDS, when set, connects to a control plane that speaks ADS.
	XDS *XDS `json:"xds"`

	// What follows is what Read makes of the texts above.
	ResolverAddresses []netip.AddrPort `json:"-"`
	ForwardZones      []upstream.Zone  `json:"-"`
	Drain             time.Duration    `json:"-"`
}

// defaultDrain is how long TCP connections outlive their endpoint's leaving: what Envoy gives them by
// default. It is longer than most pods are given to shut down in good order, and than most names with
// more addresses than one answer holds keep one of them to themselves.
const defaultDrain = 10 * time.Minute

// Read reads path; an empty path is the default configuration. The error names each mistake with its field.
func Read(path string) (*Config, error) {
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
	c.complete()
	if err := errors.Join(append(c.parse(), c.check()...)...); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// complete fills in what depends on other fields, and spells what is compared in one way.
func (c *Config) complete() {
	c.ClusterDomain = strings.ToLower(strings.TrimSuffix(c.ClusterDomain, "."))
	// Ranges that nobody else gives addresses from, where none are set.
	v4, v6 := "240.240.0.0/16", "2001:2::/48"
	if c.XDS != nil || c.Kube != nil {
		// A control plane counts upwards from 2001:2::1; this part of the range it never reaches.
		v4, v6 = "240.241.0.0/16", "2001:2:0:f0f1::/64"
	}
	if !c.VIPs.V4.IsValid() {
		c.VIPs.V4 = netip.MustParsePrefix(v4)
	}
	if !c.VIPs.V6.IsValid() {
		c.VIPs.V6 = netip.MustParsePrefix(v6)
	}
}

// parse reads the texts that stand for something else.
func (c *Config) parse() (errs []error) {
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
		c.ResolverAddresses = append(c.ResolverAddresses, ap)
	}
	var err error
	if c.ForwardZones, err = parseZones(c.Zones); err != nil {
		errs = append(errs, err)
	}
	if c.Drain, err = time.ParseDuration(c.DrainTime); err != nil || c.Drain < 0 {
		errs = append(errs, fmt.Errorf("drainTime: %q is no duration such as 30s or 10m", c.DrainTime))
	}
	return errs
}

// check says what cannot be.
func (c *Config) check() []error {
	errs := c.checkPaths()
	if !domainName.MatchString(c.ClusterDomain) {
		errs = append(errs, fmt.Errorf("clusterDomain: %q is not a DNS name", c.ClusterDomain))
	}
	if _, port, err := net.SplitHostPort(c.Listen); c.Listen != "" && (err != nil || !isPort(port)) {
		errs = append(errs, fmt.Errorf("listen: %q is not ADDRESS:PORT, such as 127.0.0.1:9553 or :9553", c.Listen))
	}
	if !c.VIPs.V4.Addr().Is4() {
		errs = append(errs, fmt.Errorf("vips.v4: %s is not an IPv4 range", c.VIPs.V4))
	}
	if !c.VIPs.V6.Addr().Is6() {
		errs = append(errs, fmt.Errorf("vips.v6: %s is not an IPv6 range", c.VIPs.V6))
	}
	if c.Light && !c.KernelAnswers {
		errs = append(errs, errors.New("light: without kernelAnswers nobody would answer; set that, too"))
	}
	return append(errs, c.checkSources()...)
}

func isPort(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
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

// Attachments is the folder of what the plugin notes of each pod.
func (c *Config) Attachments() string { return filepath.Join(c.RunDir, "attachments") }

// Bell is the socket that the plugin rings.
func (c *Config) Bell() string { return filepath.Join(c.RunDir, "bell.sock") }

// AdminSocket is where the commands ask a running dnsd.
func (c *Config) AdminSocket() string { return filepath.Join(c.RunDir, "admin.sock") }

// Door is where another dnsd knocks that wants to take over.
func (c *Config) Door() string { return filepath.Join(c.RunDir, "handover.sock") }

// VIPFile is where the virtual addresses given are kept.
func (c *Config) VIPFile() string { return filepath.Join(c.StateDir, "vips.json") }

// Inputs is the folder of what the sources last said.
func (c *Config) Inputs() string { return filepath.Join(c.StateDir, "inputs") }
