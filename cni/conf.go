package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/ebpf"
)

// conf is the network configuration as it comes on stdin: what the administrator wrote in the conflist
// and what the runtime added. Only what has no default everywhere is a key of ours.
type conf struct {
	CNIVersion string
	Name       string

	// Nameservers are what the pod's resolv.conf says where the runtime does not tell (capability dns).
	Nameservers []string `json:"nameservers"`
	// StateDir is where dnsd looks for attachments and listens; default /run/nodens.
	StateDir string `json:"stateDir"`
	// BPFPath is where the datapath is pinned, Cgroup what it is attached to; ebpf knows the defaults.
	BPFPath string `json:"bpfPath"`
	Cgroup  string `json:"cgroup"`

	// The specification writes servers, searches, options; containerd capitalises. Go does not mind.
	RuntimeConfig struct {
		DNS         struct{ Servers, Searches, Options []string }
		Annotations map[string]string `json:"io.kubernetes.cri.pod-annotations"`
	}
	PrevResult json.RawMessage

	// What GC is to keep: nil if the runtime does not say, which is not the same as nothing. The second
	// name is the one the specification first had.
	Valid    *[]types.GCAttachment `json:"cni.dev/valid-attachments"`
	ValidOld *[]types.GCAttachment `json:"cni.dev/attachments"`
}

var (
	ourKeys = []string{"nameservers", "stateDir", "bpfPath", "cgroup"}
	// Keys of the specification, of libcni, and those Multus adds to the plugins it delegates to.
	otherKeys = []string{
		"cniVersion", "cniVersions", "name", "type", "args", "ipMasq", "ipam", "dns", "capabilities",
		"runtimeConfig", "prevResult", "disableCheck", "disableGC", "loadOnlyInlinedPlugins",
		"deviceID", "pciBusID",
	}
)

// parse reads the configuration and refuses what cannot be meant, naming the key. A misspelt key would
// otherwise be noticed when a pod resolves what it should not.
func parse(stdin []byte) (*conf, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &keys); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("network configuration is not a JSON object: %v", err), "")
	}
	for key := range keys {
		// What has a slash carries its owner's name, as cni.dev/valid-attachments does.
		if !strings.Contains(key, "/") && !slices.Contains(ourKeys, key) && !slices.Contains(otherKeys, key) {
			return nil, misconfigured("unknown key %q in the nodens section of network %s", key, keys["name"])
		}
	}
	var c conf
	if err := json.Unmarshal(stdin, &c); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			err = fmt.Errorf("%s cannot be a JSON %s", wrong.Field, wrong.Value)
		}
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("network configuration: %v", err), usage)
	}
	for _, s := range c.Nameservers {
		if _, err := netip.ParseAddr(s); err != nil {
			return nil, misconfigured("nameservers: %q is not an IP address", s)
		}
	}
	for i, path := range []string{c.StateDir, c.BPFPath, c.Cgroup} {
		if path != "" && !filepath.IsAbs(path) {
			return nil, misconfigured("%s: %q is not an absolute path", ourKeys[i+1], path)
		}
	}
	return &c, nil
}

// parseForDel reads what DEL needs and forgives the rest: a pod must be able to go whatever has become
// of the configuration since it came.
func parseForDel(stdin []byte) *conf {
	var c struct{ StateDir string }
	_ = json.Unmarshal(stdin, &c)
	return &conf{StateDir: c.StateDir}
}

var usage = "nodens knows " + strings.Join(ourKeys, ", ") + " beside the keys of CNI; correct the network configuration in the runtime's net.d folder"

func misconfigured(format string, args ...any) error {
	return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf(format, args...), usage)
}

func (c *conf) attachments() string {
	if c.StateDir == "" {
		return attach.DefaultDir
	}
	return filepath.Join(c.StateDir, filepath.Base(attach.DefaultDir))
}

func (c *conf) bell() string {
	if c.StateDir == "" {
		return attach.DefaultBell
	}
	return filepath.Join(c.StateDir, filepath.Base(attach.DefaultBell))
}

func (c *conf) datapath() ebpf.Options {
	return ebpf.Options{CgroupPath: c.Cgroup, PinPath: c.BPFPath}
}

// keeps says whether GC leaves the attachment be.
func (c *conf) keeps(a attach.Attachment) bool {
	valid := c.Valid
	if valid == nil {
		valid = c.ValidOld
	}
	switch {
	case a.Network != c.Name:
		return true // another network's GC comes for it
	case valid == nil:
		return a.Alive()
	default:
		return slices.Contains(*valid, types.GCAttachment{ContainerID: a.ContainerID, IfName: a.IfName})
	}
}

// result is the result of the plugins before us. Ours is the same, so its bytes are passed on as they
// came, with all keys, known and unknown; only a missing cniVersion is put in. There is none to pass on
// when nodens stands alone or first in its list, which is an error.
func (c *conf) result() ([]byte, error) {
	const missing = "nodens must be called as a chained plugin"
	const remedy = "put {\"type\": \"nodens\"} into the plugins list of a .conflist, after the plugin that makes the interface"
	raw := c.PrevResult
	if len(raw) == 0 || string(raw) == "null" {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, missing+": there is no prevResult", remedy)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("prevResult is not an object: %v", err), remedy)
	}
	if _, given := keys["cniVersion"]; given {
		return raw, nil
	}
	version, err := json.Marshal(c.CNIVersion)
	if err != nil {
		return nil, err
	}
	out := append([]byte(`{"cniVersion":`), version...)
	if len(keys) > 0 {
		out = append(out, ',')
	}
	return append(out, raw[1:]...), nil
}

// attachment is what there is to note about the pod, from all the runtime says. The second value says
// what of it makes no sense; the pod must not fail for that.
func (c *conf) attachment(args *skel.CmdArgs) (attach.Attachment, error) {
	id := podArgs(args.Args)
	iface, addrs, err := c.inside(args.IfName)
	a := attach.Attachment{
		Network: c.Name, ContainerID: args.ContainerID, IfName: args.IfName, Netns: args.Netns,
		PodNamespace: id["K8S_POD_NAMESPACE"], PodName: id["K8S_POD_NAME"], PodUID: id["K8S_POD_UID"],
		Interface: iface, Addresses: addrs,
		DNS: attach.DNS{
			Searches: c.RuntimeConfig.DNS.Searches,
			Options:  c.RuntimeConfig.DNS.Options,
		},
		Annotations: c.RuntimeConfig.Annotations,
		Created:     time.Now().UTC(),
	}
	servers := c.RuntimeConfig.DNS.Servers
	if len(servers) == 0 {
		servers = c.Nameservers
	}
	for _, s := range servers {
		addr, bad := netip.ParseAddr(s)
		if bad != nil {
			err = errors.Join(err, fmt.Errorf("runtimeConfig: DNS server %q is not an IP address", s))
			continue
		}
		a.DNS.Nameservers = append(a.DNS.Nameservers, addr)
	}
	return a, err
}

// inside returns the addresses the plugins before us gave the pod and the interface that has them,
// which is ifname unless the result knows better. Interfaces at the host's end have no sandbox. The
// shape is that of every specification since 0.3.0.
func (c *conf) inside(ifname string) (string, []netip.Prefix, error) {
	var result struct {
		Interfaces []struct{ Name, Sandbox string }
		IPs        []struct {
			Address   string
			Interface *int
		}
	}
	if err := json.Unmarshal(c.PrevResult, &result); err != nil {
		return ifname, nil, fmt.Errorf("prevResult: %w", err)
	}
	var (
		found string
		addrs []netip.Prefix
		errs  []error
	)
	for _, ip := range result.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(result.Interfaces) {
			if result.Interfaces[*i].Sandbox == "" {
				continue
			}
			if found == "" || result.Interfaces[*i].Name == ifname {
				found = result.Interfaces[*i].Name
			}
		}
		addr, err := netip.ParsePrefix(ip.Address)
		if err != nil {
			errs = append(errs, fmt.Errorf("prevResult: %w", err))
			continue
		}
		addrs = append(addrs, addr)
	}
	if found == "" {
		found = ifname
	}
	return found, addrs, errors.Join(errs...)
}

// podArgs reads CNI_ARGS, "K=V;K=V" in any order. Runtimes differ in what they give, so nothing is
// demanded and nothing unknown is refused.
func podArgs(args string) map[string]string {
	m := make(map[string]string)
	for pair := range strings.SplitSeq(args, ";") {
		k, v, _ := strings.Cut(pair, "=")
		m[k] = v
	}
	return m
}
