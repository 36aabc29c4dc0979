// Command dnsd answers the DNS queries of a node's pods, gives mesh hosts virtual addresses and keeps
// the kernel's balancing equal to what the control plane says.
//
// `dnsd run` is the daemon; the other commands ask a running one over its admin socket.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/nodens-dns/nodens/dnsd/config"
	"github.com/nodens-dns/nodens/dnsd/machine"
	"github.com/nodens-dns/nodens/dnsd/process"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends what the first one could not
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "dnsd:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "dnsd",
		Short:         "Node-local DNS and connection balancing for the pods of a node",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(runCommand(), detachCommand())
	root.AddCommand(askCommands()...)
	root.AddCommand(routesCommand())
	return root
}

func runCommand() *cobra.Command {
	var path, level string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon until SIGTERM; pods keep what the kernel holds when it goes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var l slog.Level
			if err := l.UnmarshalText([]byte(level)); err != nil {
				return fmt.Errorf("--log-level: %w", err)
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l}))
			c, err := config.Read(path)
			if err != nil {
				return err
			}
			if os.Getenv("GOGC") == "" {
				// A node has more use for memory than for the little time that collecting it twice as
				// often takes: plain answers make no garbage.
				debug.SetGCPercent(50)
			}
			if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) == 1 {
				// Who waits for queries keeps a processor while he does, unless it is the only one.
				runtime.GOMAXPROCS(2)
			}
			if c.CaptureHost {
				machine.LookUpMarked()
			}
			if err := process.WakeSoon(); err != nil {
				log.Warn("queries wait longer for a processor", "error", err)
			}
			return run(cmd.Context(), c, log)
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "configuration file (YAML or JSON); without it every default")
	cmd.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return cmd
}
