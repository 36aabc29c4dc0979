package show

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/nodens-dns/nodens/dnsd/admin"
	"github.com/nodens-dns/nodens/dnsd/pods"
	"github.com/nodens-dns/nodens/dnsd/serve"
)

// queries shows the queries of a pod, or of all of them, until ctx is done.
func (n *Node) queries(ctx context.Context, pod string, every int, show func(*admin.Query, bool) error) error {
	if pod != "" {
		p, err := n.pod(pod)
		if err != nil {
			return err
		}
		pod = asker(p)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n.Answers.Watched(ctx)
	tap := n.Server.Tap(pod, every)
	defer n.Server.Untap(tap)
	if err := show(nil, false); err != nil {
		return err
	}
	return follow(ctx, tap, show)
}

// LogQueries writes the queries of pods that want to be logged always to standard output, where runtimes
// look for what is to be kept; dnsd's own log is on standard error.
func (n *Node) LogQueries(ctx context.Context) error {
	out := bufio.NewWriter(os.Stdout)
	err := follow(ctx, n.Server.Log(), func(q *admin.Query, more bool) error {
		err := admin.PrintQuery(out, *q)
		if !more {
			err = out.Flush()
		}
		return err
	})
	if err != nil {
		// Nobody's queries wait for this. Counted they are all the same.
		n.Log.Error("queries are not logged any more: standard output cannot be written to", "error", err)
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
func (n *Node) pod(wanted string) (pods.Pod, error) {
	list := n.Pods.List()
	i := slices.IndexFunc(list, func(p pods.Pod) bool { return podName(p) == wanted || p.Key.ContainerID == wanted })
	if i < 0 {
		return pods.Pod{}, fmt.Errorf("no pod %q on this node; `dnsd pods` lists them", wanted)
	}
	return list[i], nil
}
