// Command nodens-install puts nodens on a node and takes it off again without a moment in which a pod
// could not be made or taken down.
//
// It needs nothing but the runtime's two folders: no API server, no credentials; what containerd says on its
// socket is used where there is one. `install` stays and
// watches, since networks' own plugins rewrite, rename and replace their configuration. `vm` is for a
// machine that has no pods.
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

// options are where things are on the node. The defaults are those of most Kubernetes nodes; the plugin
// and the stub lie beside this program.
type options struct {
	netDir, binDir, cacheDir, plugin string
	sockets                          []string
	entry                            entry
}

const defaultStateDir = "/run/nodens"

// entry is the plugin's section of a network's list.
type entry struct {
	Type         string          `json:"type"`
	Capabilities map[string]bool `json:"capabilities"`
	Nameservers  []string        `json:"nameservers,omitempty"`
	StateDir     string          `json:"stateDir,omitempty"`
	BPFPath      string          `json:"bpfPath,omitempty"`
	Cgroup       string          `json:"cgroup,omitempty"`
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
	root.AddCommand(installCommand(&o), uninstallCommand(&o), statusCommand(&o))
	for _, cmd := range root.Commands() {
		o.folders(cmd)
	}
	root.AddCommand(vmCommand())
	return root
}

// folders are the flags all commands of a node with a runtime have.
func (o *options) folders(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.netDir, "net-dir", "/etc/cni/net.d", "the runtime's folder of network configurations")
	f.StringVar(&o.binDir, "bin-dir", "/opt/cni/bin", "the runtime's folder of plugins")
	f.StringVar(&o.cacheDir, "cache-dir", "/var/lib/cni/results", "where the runtime keeps what it did for each sandbox")
	f.StringVar(&o.plugin, "plugin", sibling("nodens"), "the plugin to install")
	f.StringSliceVar(&o.sockets, "runtime-socket", sockets, "where containerd is asked what it has loaded; the first that reads net-dir")
	f.StringVar(&o.entry.StateDir, "state-dir", "", "dnsd's runDir where that is not /run/nodens")
}

// sibling is the path of another program of ours.
func sibling(name string) string {
	exe, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(exe), name)
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
				return in.once(cmd.Context())
			}
			return in.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.BoolVar(&once, "once", false, "return when it is done")
	f.StringSliceVar(&o.entry.Nameservers, "nameserver", nil, "captured in pods whose runtime does not tell their nameservers")
	f.StringVar(&o.entry.BPFPath, "bpf-path", "", "dnsd's bpfPath where that is not the default")
	f.StringVar(&o.entry.Cgroup, "cgroup", "", "dnsd's cgroup where that is set")
	return cmd
}

func uninstallCommand(o *options) *cobra.Command {
	var stub string
	var lists, free, stopped bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take nodens out of the networks' lists; the plugin's file goes when no sandbox needs it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			program, err := os.ReadFile(stub)
			if err != nil {
				return fmt.Errorf("read the stub to leave behind: %w; --stub says where it is", err)
			}
			u := uninstaller{
				bin: binDir{node{}, o.binDir}, net: netd{disk: node{}, dir: o.netDir, ask: o.ask},
				cache: o.cacheDir, stub: program, claims: o.claims(), log: logger(),
			}
			till := tillTried
			for s, set := range map[stay]bool{tillListed: lists, tillFree: free, tillStopped: stopped} {
				if set {
					till = s
				}
			}
			return u.run(cmd.Context(), till)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&lists, "leave-stub", false, "be content when the lists are done, though sandboxes need the stub")
	f.BoolVar(&free, "wait", false, "stay until no sandbox needs the plugin's file")
	f.BoolVar(&stopped, "stay", false, "as --wait, then do nothing until SIGTERM: for a container, which would be started again if it ended")
	cmd.MarkFlagsMutuallyExclusive("leave-stub", "wait", "stay")
	f.StringVar(&stub, "stub", sibling("nodens-stub"), "what stands in for the plugin until then")
	return cmd
}

func statusCommand(o *options) *cobra.Command {
	var dnsd string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether plugin, chain, runtime and dnsd are as they should be; fails if one is not",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, err := o.installer()
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), in.status(cmd.Context(), dnsd))
		},
	}
	cmd.Flags().StringVar(&dnsd, "dnsd", "127.0.0.1:9553", "where dnsd's health is (its listen)")
	return cmd
}

func (o *options) installer() (*installer, error) {
	program, err := os.ReadFile(o.plugin)
	if err != nil {
		return nil, fmt.Errorf("read the plugin to install: %w; --plugin says where it is", err)
	}
	entry, err := o.entry.text()
	if err != nil {
		return nil, err
	}
	log := logger()
	return &installer{
		bin:     binDir{node{}, o.binDir},
		net:     netd{disk: node{}, dir: o.netDir, entry: entry, ask: o.ask},
		old:     enroller{cache: o.cacheDir, plugin: filepath.Join(o.binDir, pluginType), log: log},
		program: program,
		claims:  o.claims(),
		log:     log,
	}, nil
}

// ask is askRuntime of this node's.
func (o *options) ask(ctx context.Context) *loaded {
	l, err := askRuntime(ctx, o.sockets, o.netDir)
	if err != nil {
		return nil
	}
	l.beside = listens(crio)
	return l
}

// claims is the folder in which those who work on the node say so.
func (o *options) claims() string {
	return filepath.Join(cmp.Or(o.entry.StateDir, defaultStateDir), "installers")
}

// text is the entry as it stands in a list.
func (e entry) text() ([]byte, error) {
	for _, s := range e.Nameservers {
		if _, err := netip.ParseAddr(s); err != nil {
			return nil, fmt.Errorf("--nameserver %q is not an IP address", s)
		}
	}
	for flag, path := range map[string]string{"state-dir": e.StateDir, "bpf-path": e.BPFPath, "cgroup": e.Cgroup} {
		if path != "" && !filepath.IsAbs(path) {
			return nil, fmt.Errorf("--%s %q is not an absolute path", flag, path)
		}
	}
	e.Type = pluginType
	e.Capabilities = map[string]bool{"dns": true, "io.kubernetes.cri.pod-annotations": true}
	return json.Marshal(e)
}

func logger() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }
