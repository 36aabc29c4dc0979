package show

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/admin"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/dnsd/pods"
)

// nameRows lists the names that contain filter.
func (n *Node) nameRows(filter string) []admin.NameRow {
	rows := []admin.NameRow{}
	for _, name := range n.State().Plan.Names {
		if !strings.Contains(name.Host, strings.ToLower(filter)) {
			continue
		}
		row := admin.NameRow{
			Name: name.Host, View: name.View, VIP: name.Virtual, CNAME: name.CNAME, Source: name.Source, Object: name.Object,
			Addresses: texts(slices.Concat(name.Addr4, name.Addr6)),
		}
		for _, p := range name.Ports {
			row.Ports = append(row.Ports, strconv.Itoa(int(p.Number))+"/"+p.Protocol.String())
		}
		rows = append(rows, row)
	}
	return rows
}

func frontendText(f *mesh.Frontend) string {
	s := netip.AddrPortFrom(f.Address, f.Port).String() + "/" + f.Protocol.String()
	if f.Port == 0 {
		s = f.Address.String() + " other ports"
	}
	if f.View != "" {
		s += " for " + f.View
	}
	return s
}

// podRows lists the pods of this node.
func (n *Node) podRows() []admin.PodRow {
	rows := []admin.PodRow{}
	for _, p := range n.Pods.List() {
		row := admin.PodRow{
			Pod: podName(p), Container: p.Key.ContainerID, Interface: p.Key.IfName, Netns: p.Netns, Cookie: p.Cookie,
			State: string(p.State), Reason: p.Reason, Since: p.Since, Dropped: n.Server.Dropped(asker(p)),
			Kernel: n.kernelRow(p),
		}
		for _, a := range p.Addresses {
			row.Addresses = append(row.Addresses, a.Addr().String())
		}
		for _, ns := range p.Nameservers {
			row.Nameservers = append(row.Nameservers, admin.NameserverRow{Address: ns.Addr.String(), Port: ns.Port})
		}
		rows = append(rows, row)
	}
	return rows
}

// kernelRow says what the kernel has answered a pod; nil where it does not.
func (n *Node) kernelRow(p pods.Pod) *admin.KernelRow {
	o, ok := n.Answers.Of(p)
	if !ok {
		return nil
	}
	return &admin.KernelRow{Declared: o.Declared, Learned: o.Learned + o.Denied, Unknown: o.Unknown, Unusual: o.Unusual, Watched: o.Watched}
}

// asker is how the pod's queries are called.
func asker(p pods.Pod) string {
	if p.Name == "" {
		return p.Key.String()
	}
	return podName(p)
}

// podName is how the pod is asked for.
func podName(p pods.Pod) string {
	if p.Name == "" {
		return p.Key.ContainerID
	}
	return p.Namespace + "/" + p.Name
}

func texts(addrs []netip.Addr) []string {
	var list []string
	for _, a := range addrs {
		list = append(list, a.String())
	}
	return list
}

// explain says what a query for name from a pod meets, and what a connection to the answer does.
func (n *Node) explain(name, pod string) ([]string, error) {
	p, err := n.pod(pod)
	if err = cmp.Or(err, names.Check(name)); err != nil {
		return nil, err
	}
	lines := []string{fmt.Sprintf("pod %s is %s%s", podName(p), p.State, because(p.Reason))}
	for _, ns := range p.Nameservers {
		lines = append(lines, fmt.Sprintf("queries to %s:53 are turned to port %d of the pod's own address; what is not ours is asked of %[1]s from the pod", ns.Addr, ns.Port))
	}
	table := n.Server.Table()
	lines = append(lines, table.Explain(&p.Client, name)...)
	if zone, servers, ok := n.Upstream.Zone(name); ok {
		lines = append(lines, fmt.Sprintf("what is not ours of zone %s is asked of %v from the node, not of the pod's nameserver",
			cmp.Or(strings.TrimSuffix(zone, "."), "."), servers))
	}
	lines = append(lines, n.Answers.Explain(p, name))
	a := table.Lookup(&p.Client, name, 1) // RFC 1035
	if row := table.Row(&a); row != nil {
		lines = append(lines, conflicts(n.State().Plan, row.Host)...)
	}
	return append(lines, n.explainConnect(p, name)...), nil
}

// conflicts says what objects claim in vain for a host.
func conflicts(plan *mesh.Plan, host string) (lines []string) {
	for _, p := range plan.Problems {
		if p.Conflict == host {
			lines = append(lines, fmt.Sprintf("conflict: %s of source %s: %s", p.Object, p.Source, p.Reason))
		}
	}
	return lines
}

// explainConnect says where connections to the addresses of name go.
func (n *Node) explainConnect(p pods.Pod, name string) []string {
	st := n.State()
	var lines []string
	table := n.Server.Table()
	const a, aaaa = 1, 28 // RFC 1035, RFC 3596
	v4, v6 := table.Lookup(&p.Client, name, a), table.Lookup(&p.Client, name, aaaa)
	for _, addr := range slices.Concat(v4.Addresses, v6.Addresses) {
		for _, f := range st.Plan.Frontends {
			if f.Address != addr || (f.View != "" && f.View != p.Namespace) {
				continue
			}
			line := "connect to " + frontendText(f) + ": " + f.Assignment
			for _, a := range st.Plan.Assignments {
				if a.Name == f.Assignment {
					line += endpointText(a)
				}
			}
			lines = append(lines, line)
		}
	}
	return lines
}

func endpointText(a *mesh.Assignment) string {
	var list []string
	for _, l := range a.Localities {
		for _, e := range l.Endpoints {
			list = append(list, e.Address.String())
		}
	}
	if len(list) == 0 {
		return ", which has no endpoint: refused"
	}
	return fmt.Sprintf(", %s over %s", a.LbPolicy, strings.Join(list, " "))
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}
