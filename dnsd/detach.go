package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/nodens-dns/nodens/dnsd/config"
	"github.com/nodens-dns/nodens/dnsd/tenure"
	"github.com/nodens-dns/nodens/ebpf"
)

// detachCommand takes the kernel half off the node, for an uninstall.
func detachCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "detach",
		Short: "Take the programs and maps off this node; no dnsd may be running",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Read(path)
			if err != nil {
				return err
			}
			return detach(cmd.OutOrStdout(), c)
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "the daemon's configuration file; without it every default")
	return cmd
}

// detach removes what is pinned, in the order in which nothing is left half at work. A dnsd that runs
// would go on with maps that no program reads, so its folders must be free. What it has found is said to out: with
// another configuration's bpfPath that is nothing.
func detach(out io.Writer, c *config.Config) error {
	release, err := tenure.Hold(c.StateDir, c.RunDir)
	if err != nil {
		return err
	}
	defer release()
	said := "off this node: the programs and maps of %s\n"
	if _, err := os.Stat(c.BPFPath); errors.Is(err, fs.ErrNotExist) {
		said = "nothing is attached from %s; if something should be, name its configuration with --config\n"
	}
	if err := ebpf.Remove(ebpf.Options{CgroupPath: c.Cgroup, PinPath: c.BPFPath}); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, said, c.BPFPath)
	return err
}
