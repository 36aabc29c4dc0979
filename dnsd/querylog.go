package main

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/nodens-dns/nodens/dnsd/admin"
	"github.com/nodens-dns/nodens/dnsd/pods"
	"github.com/nodens-dns/nodens/dnsd/serve"
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

// queries shows the queries of a pod, or of all of them, until ctx is done.
func (d *daemon) queries(ctx context.Context, pod string, every int, show func(*admin.Query, bool) error) error {
	if pod != "" {
		p, err := d.pod(pod)
		if err != nil {
			return err
		}
		pod = asker(p)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.hub.answers.watched(ctx)
	tap := d.server.Tap(pod, every)
	defer d.server.Untap(tap)
	if err := show(nil, false); err != nil {
		return err
	}
	return follow(ctx, tap, show)
}

// logQueries writes the queries of pods that want to be logged always to standard output, where runtimes
// look for what is to be kept; dnsd's own log is on standard error.
func (d *daemon) logQueries(ctx context.Context) error {
	out := bufio.NewWriter(os.Stdout)
	err := follow(ctx, d.server.Log(), func(q *admin.Query, more bool) error {
		err := admin.PrintQuery(out, *q)
		if !more {
			err = out.Flush()
		}
		return err
	})
	if err != nil {
		// Nobody's queries wait for this. Counted they are all the same.
		d.log.Error("queries are not logged any more: standard output cannot be written to", "error", err)
	}
	return nil
}

// follow hands on what tap shows until ctx is done.
func follow(ctx context.Context, tap *serve.Tap, show func(q *admin.Query, more bool) error) error {
	var lost uint64
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-tap.Entries():
			q := queryRow(e)
			now := tap.Lost()
			q.Lost, lost = now-lost, now
			if err := show(q, len(tap.Entries()) > 0); err != nil {
				return err
			}
		}
	}
}

func queryRow(e *serve.Entry) *admin.Query {
	return &admin.Query{
		Time: e.Time, Took: e.Took, Pod: e.Pod, Client: e.Client.String(), Network: e.Network, Nameserver: e.Nameserver.String(),
		Name: e.Name, Type: e.Type, Rcode: e.Rcode, Source: e.Source, Object: e.Object, Server: text(e.Server),
	}
}

// text is nothing for no address.
func text(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// pod finds a pod of this node by namespace/name or container ID.
func (d *daemon) pod(wanted string) (pods.Pod, error) {
	list := d.pods.List()
	i := slices.IndexFunc(list, func(p pods.Pod) bool { return podName(p) == wanted || p.Key.ContainerID == wanted })
	if i < 0 {
		return pods.Pod{}, fmt.Errorf("no pod %q on this node; `dnsd pods` lists them", wanted)
	}
	return list[i], nil
}
