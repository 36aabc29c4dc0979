package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/nodens-dns/nodens/dnsd/admin"
)

// version is set when the binary is linked.
var version = "unknown"

// askCommands are the commands that ask a running dnsd and print what it says.
func askCommands() []*cobra.Command {
	var pod string
	explain := ask("explain NAME --pod NAMESPACE/NAME", "Say step by step what a query for NAME from a pod meets", cobra.ExactArgs(1),
		func(ctx context.Context, c *admin.Client, args []string) ([]string, error) {
			return c.Explain(ctx, args[0], pod)
		}, admin.PrintExplain)
	explain.Flags().StringVar(&pod, "pod", "", "the pod that asks, as NAMESPACE/NAME or container ID")
	_ = explain.MarkFlagRequired("pod")

	return []*cobra.Command{
		ask("status", "Say in one screen whether this node is well, and what is not", cobra.NoArgs,
			func(ctx context.Context, c *admin.Client, _ []string) (admin.Status, error) { return c.Status(ctx) }, admin.PrintStatus),
		ask("names [PART]", "List the names answered here, or those that contain PART", cobra.MaximumNArgs(1),
			func(ctx context.Context, c *admin.Client, args []string) ([]admin.NameRow, error) {
				return c.Names(ctx, append(args, "")[0])
			}, admin.PrintNames),
		ask("clusters", "List clusters with their frontends, endpoints and lookups", cobra.NoArgs,
			func(ctx context.Context, c *admin.Client, _ []string) ([]admin.ClusterRow, error) {
				return c.Clusters(ctx)
			}, admin.PrintClusters),
		ask("pods", "List the pods of this node and what is done for each", cobra.NoArgs,
			func(ctx context.Context, c *admin.Client, _ []string) ([]admin.PodRow, error) { return c.Pods(ctx) }, admin.PrintPods),
		explain,
		queryLogCommand(),
		{
			Use: "version", Short: "Print the version", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), version)
				return err
			},
		},
	}
}

// ask is a command that gets one thing from the daemon and prints it for people or as JSON.
func ask[T any](use, short string, args cobra.PositionalArgs,
	get func(context.Context, *admin.Client, []string) (T, error), text func(io.Writer, T) error) *cobra.Command {
	var socket, output string
	cmd := &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			v, err := get(cmd.Context(), admin.NewClient(socket), args)
			if err != nil {
				return err
			}
			if output == "json" {
				return admin.PrintJSON(cmd.OutOrStdout(), v)
			}
			return text(cmd.OutOrStdout(), v)
		},
	}
	addressFlags(cmd, &socket, &output)
	return cmd
}

// addressFlags are what every command has that asks a running daemon.
func addressFlags(cmd *cobra.Command, socket, output *string) {
	cmd.Flags().StringVar(socket, "socket", "/run/nodens/admin.sock", "admin socket of the daemon to ask")
	cmd.Flags().StringVarP(output, "output", "o", "text", "text or json")
}

func checkOutput(output string) error {
	if output != "text" && output != "json" {
		return fmt.Errorf("-o %q: text or json", output)
	}
	return nil
}
