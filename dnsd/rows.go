package main

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
func (d *daemon) nameRows(filter string) []admin.NameRow {
	rows := []admin.NameRow{}
	for _, n := range d.hub.state.Load().plan.Names {
		if !strings.Contains(n.Host, strings.ToLower(filter)) {
			continue
		}
		row := admin.NameRow{
			Name: n.Host, View: n.View, VIP: n.Virtual, CNAME: n.CNAME, Source: n.Source, Object: n.Object,
			Addresses: texts(slices.Concat(n.Addr4, n.Addr6)),
		}
		for _, p := range n.Ports {
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
func (d *daemon) podRows() []admin.PodRow {
	rows := []admin.PodRow{}
	for _, p := range d.pods.List() {
		row := admin.PodRow{
			Pod: podName(p), Container: p.Key.ContainerID, Interface: p.Key.IfName, Netns: p.Netns, Cookie: p.Cookie,
			State: string(p.State), Reason: p.Reason, Since: p.Since, Dropped: d.server.Dropped(asker(p)),
			Kernel: d.hub.answers.kernelRow(p),
		}
		for _, a := range p.Addresses {
			row.Addresses = append(row.Addresses, a.Addr().String())
		}
		for _, n := range p.Nameservers {
			row.Nameservers = append(row.Nameservers, admin.NameserverRow{Address: n.Addr.String(), Port: n.Port})
		}
		rows = append(rows, row)
	}
	return rows
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
func (d *daemon) explain(name, pod string) ([]string, error) {
	p, err := d.pod(pod)
	if err = cmp.Or(err, names.Check(name)); err != nil {
		return nil, err
	}
	lines := []string{fmt.Sprintf("pod %s is %s%s", podName(p), p.State, because(p.Reason))}
	for _, n := range p.Nameservers {
		lines = append(lines, fmt.Sprintf("queries to %s:53 are turned to port %d of the pod's own address; what is not ours is asked of %[1]s from the pod", n.Addr, n.Port))
	}
	table := d.server.Table()
	lines = append(lines, table.Explain(&p.Client, name)...)
	if zone, servers, ok := d.upstream.Zone(name); ok {
		lines = append(lines, fmt.Sprintf("what is not ours of zone %s is asked of %v from the node, not of the pod's nameserver",
			cmp.Or(strings.TrimSuffix(zone, "."), "."), servers))
	}
	lines = append(lines, d.hub.answers.explain(p, name))
	a := table.Lookup(&p.Client, name, 1) // RFC 1035
	if row := table.Row(&a); row != nil {
		lines = append(lines, conflicts(d.hub.state.Load().plan, row.Host)...)
	}
	return append(lines, d.explainConnect(p, name)...), nil
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
func (d *daemon) explainConnect(p pods.Pod, name string) []string {
	st := d.hub.state.Load()
	var lines []string
	table := d.server.Table()
	const a, aaaa = 1, 28 // RFC 1035, RFC 3596
	v4, v6 := table.Lookup(&p.Client, name, a), table.Lookup(&p.Client, name, aaaa)
	for _, addr := range slices.Concat(v4.Addresses, v6.Addresses) {
		for _, f := range st.plan.Frontends {
			if f.Address != addr || (f.View != "" && f.View != p.Namespace) {
				continue
			}
			line := "connect to " + frontendText(f) + ": " + f.Assignment
			for _, a := range st.plan.Assignments {
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
