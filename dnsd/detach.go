package main

import (
	"github.com/spf13/cobra"

	"github.com/nodens-dns/nodens/dnsd/config"
	"github.com/nodens-dns/nodens/ebpf"
)

// detachCommand takes the kernel half off the node, for an uninstall.
func detachCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "detach",
		Short: "Take the programs and maps off this node; no dnsd may be running",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := config.Read(path)
			if err != nil {
				return err
			}
			return detach(c)
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "the daemon's configuration file; without it every default")
	return cmd
}

// detach removes what is pinned, in the order in which nothing is left half at work. A dnsd that runs
// would go on with maps that no program reads, so its folders must be free.
func detach(c *config.Config) error {
	held, err := alone(existing(c.StateDir, c.RunDir)...)
	if err != nil {
		return err
	}
	defer held.release()
	return ebpf.Remove(ebpf.Options{CgroupPath: c.Cgroup, PinPath: c.BPFPath})
}
