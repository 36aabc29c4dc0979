package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/nodens-dns/nodens/dnsd/admin"
)

// queryLogCommand shows queries while it runs and leaves nothing switched on behind it.
func queryLogCommand() *cobra.Command {
	var socket, output string
	var every, n int
	cmd := &cobra.Command{
		Use:   "querylog [NAMESPACE/NAME]",
		Short: "Show DNS queries as they are answered, of one pod or of all, until interrupted",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			ctx, enough := context.WithCancel(cmd.Context())
			defer enough()
			shown := 0
			return admin.NewClient(socket).Queries(ctx, append(args, "")[0], every, func(q admin.Query) error {
				if shown++; shown == n {
					enough()
				}
				if output == "json" {
					return admin.PrintJSONLine(out, q)
				}
				return admin.PrintQuery(out, q)
			})
		},
	}
	cmd.Flags().IntVar(&every, "every", 1, "show one in so many queries, taken by chance")
	cmd.Flags().IntVarP(&n, "count", "n", 0, "end after so many; 0 means never")
	addressFlags(cmd, &socket, &output)
	return cmd
}
