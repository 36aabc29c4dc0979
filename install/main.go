// Command nodens-install puts nodens on a node and takes it off again without a moment in which a pod
// could not be made or taken down.
//
// It needs nothing but the runtime's two folders: no API server, no credentials. `install` stays and
// watches, since networks' own plugins rewrite, rename and replace their configuration.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "nodens-install:", err)
		os.Exit(1)
	}
}

// options are where things are. The defaults are those of most Kubernetes nodes; the plugin and the stub
// lie beside this program.
type options struct {
	netDir, binDir, cacheDir string
	plugin, stub             string
	dropIn                   bool
	nameservers              []string
	stateDir, bpfPath        string
	cgroup, dnsd             string
}

func command() *cobra.Command {
	var o options
	root := &cobra.Command{
		Use:           "nodens-install",
		Short:         "Put nodens on a node, and take it off again",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	here := "."
	if exe, err := os.Executable(); err == nil {
		here = filepath.Dir(exe)
	}
	f := root.PersistentFlags()
	f.StringVar(&o.netDir, "net-dir", "/etc/cni/net.d", "the runtime's folder of network configurations")
	f.StringVar(&o.binDir, "bin-dir", "/opt/cni/bin", "the runtime's folder of plugins")
	f.StringVar(&o.plugin, "plugin", filepath.Join(here, "nodens"), "the plugin to install")
	f.StringVar(&o.cacheDir, "cache-dir", "/var/lib/cni/results", "where the runtime keeps what it did for each sandbox")
	root.AddCommand(installCommand(&o), uninstallCommand(&o, here), statusCommand(&o))
	return root
}

func installCommand(o *options) *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install, then stay and keep it so until SIGTERM, which undoes nothing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, err := o.installer()
			if err != nil {
				return err
			}
			if once {
				if _, err := in.settle(); err != nil {
					return err
				}
				return in.enrol(cmd.Context())
			}
			in.claims = filepath.Join(cmp.Or(o.stateDir, "/run/nodens"), "installers")
			return in.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.BoolVar(&once, "once", false, "return when it is done")
	o.entryFlags(cmd)
	return cmd
}

// entryFlags are what the plugin's own keys are set from.
func (o *options) entryFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.dropIn, "drop-in", false, "leave the network's list alone and use its drop-in folder (containerd 2.1 and newer)")
	f.StringSliceVar(&o.nameservers, "nameserver", nil, "captured in pods whose runtime does not tell their nameservers")
	f.StringVar(&o.stateDir, "state-dir", "", "dnsd's runDir where that is not /run/nodens")
	f.StringVar(&o.bpfPath, "bpf-path", "", "dnsd's bpfPath where that is not the default")
	f.StringVar(&o.cgroup, "cgroup", "", "dnsd's cgroup where that is set")
}

func uninstallCommand(o *options, here string) *cobra.Command {
	var until until
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take nodens out of the networks' lists; the plugin's file goes when no sandbox needs it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			stub, err := os.ReadFile(o.stub)
			if err != nil {
				return fmt.Errorf("read the stub to leave behind: %w", err)
			}
			log := logger()
			u := uninstaller{
				bin: binDir{node{}, o.binDir}, net: netd{disk: node{}, dir: o.netDir},
				cache: o.cacheDir, stub: stub, log: log,
			}
			return u.run(cmd.Context(), until)
		},
	}
	cmd.Flags().BoolVar(&until.lists, "leave-stub", false, "be content when the lists are done, though sandboxes need the stub")
	cmd.Flags().BoolVar(&until.stub, "wait", false, "stay until no sandbox needs the plugin's file")
	cmd.Flags().BoolVar(&until.stopped, "stay", false, "as --wait, and then until SIGTERM: where what ends is started again")
	cmd.MarkFlagsMutuallyExclusive("leave-stub", "wait", "stay")
	cmd.Flags().StringVar(&o.stub, "stub", filepath.Join(here, "nodens-stub"), "what stands in for the plugin until then")
	return cmd
}

func statusCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether plugin, chain and dnsd are as they should be; fails if one is not",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, err := o.installer()
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), in.status(cmd.Context(), o.dnsd))
		},
	}
	cmd.Flags().StringVar(&o.dnsd, "dnsd", "127.0.0.1:9553", "where dnsd's health is (its listen)")
	return cmd
}

func (o *options) installer() (*installer, error) {
	program, err := os.ReadFile(o.plugin)
	if err != nil {
		return nil, fmt.Errorf("read the plugin to install: %w", err)
	}
	entry, err := o.entry()
	if err != nil {
		return nil, err
	}
	log := logger()
	return &installer{
		bin:     binDir{node{}, o.binDir},
		net:     netd{disk: node{}, dir: o.netDir, dropIn: o.dropIn, entry: entry},
		old:     enroller{cache: o.cacheDir, plugin: filepath.Join(o.binDir, pluginType), log: log},
		program: program,
		log:     log,
	}, nil
}

// entry is the plugin's section of a network's list.
func (o *options) entry() ([]byte, error) {
	e := struct {
		Type         string          `json:"type"`
		Capabilities map[string]bool `json:"capabilities"`
		Nameservers  []string        `json:"nameservers,omitempty"`
		StateDir     string          `json:"stateDir,omitempty"`
		BPFPath      string          `json:"bpfPath,omitempty"`
		Cgroup       string          `json:"cgroup,omitempty"`
	}{
		Type:         pluginType,
		Capabilities: map[string]bool{"dns": true, "io.kubernetes.cri.pod-annotations": true},
		Nameservers:  o.nameservers, StateDir: o.stateDir, BPFPath: o.bpfPath, Cgroup: o.cgroup,
	}
	for _, s := range o.nameservers {
		if _, err := netip.ParseAddr(s); err != nil {
			return nil, fmt.Errorf("--nameserver %q is not an IP address", s)
		}
	}
	for flag, path := range map[string]string{"state-dir": o.stateDir, "bpf-path": o.bpfPath, "cgroup": o.cgroup} {
		if path != "" && !filepath.IsAbs(path) {
			return nil, fmt.Errorf("--%s %q is not an absolute path", flag, path)
		}
	}
	return json.Marshal(e)
}

func logger() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }
