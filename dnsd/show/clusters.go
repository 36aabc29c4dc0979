package show

import (
	"net/netip"
	"slices"
	"time"

	"github.com/nodens-dns/nodens/dnsd/admin"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/resolve"
	"github.com/nodens-dns/nodens/ebpf"
)

// clusterRows lists the plan's assignments with what the kernel does for each.
func (n *Node) clusterRows() []admin.ClusterRow {
	st := n.State()
	lookups := make(map[mesh.Lookup]resolve.Status)
	for _, l := range n.Resolver.Status() {
		lookups[l.Lookup] = l
	}
	frontends := make(map[string][]string, len(st.Plan.Assignments))
	for _, f := range st.Plan.Frontends {
		frontends[f.Assignment] = append(frontends[f.Assignment], frontendText(f))
	}
	held := n.Kernel.Backends()
	rows := make([]admin.ClusterRow, 0, len(st.Plan.Assignments))
	for _, a := range st.Plan.Assignments {
		rows = append(rows, clusterRow(a, frontends[a.Name], lookups, held[a.Name]))
	}
	return rows
}

// clusterRow is one assignment, of whose names lookups knows the state, and of whose endpoints held what
// the kernel has.
func clusterRow(a *mesh.Assignment, frontends []string, lookups map[mesh.Lookup]resolve.Status, held []ebpf.BackendState) admin.ClusterRow {
	row := admin.ClusterRow{
		Name: a.Name, Source: a.Source, Type: string(a.Discovery), Policy: string(a.LbPolicy),
		Frontends: slices.Concat([]string{}, frontends),
	}
	from := make(map[netip.Addr][]resolve.Status)
	for _, lookup := range a.Lookups {
		l, ok := lookups[lookup]
		if !ok {
			continue // it has only just been asked for
		}
		row.Lookups = append(row.Lookups, lookupRow(l))
		for _, addr := range l.Addresses {
			from[addr] = append(from[addr], l)
		}
	}
	row.Endpoints = endpointRows(a, from, held)
	if !slices.ContainsFunc(held, takes) {
		row.Problem = "no endpoint: connections are refused"
	}
	return row
}

// takes says whether a backend gets connections.
func takes(b ebpf.BackendState) bool { return b.Weight > 0 }

func lookupRow(l resolve.Status) admin.LookupRow {
	return admin.LookupRow{
		Name: l.Lookup.Name, Family: string(l.Lookup.Family), Resolvers: l.Lookup.Resolvers, TCP: l.Lookup.UseTCP,
		Addresses: texts(l.Addresses), Asked: l.Success, Expires: expiry(l), Next: l.Due,
		Negative: l.Negative, Error: l.Error,
	}
}

// expiry is when the TTL of the newest answer ends; zero if there was none.
func expiry(l resolve.Status) time.Time {
	if l.Success.IsZero() {
		return time.Time{}
	}
	return l.Success.Add(l.TTL)
}

// endpointRows are the assignment's endpoints, each address once, and after them what the kernel still
// holds of those before.
func endpointRows(a *mesh.Assignment, from map[netip.Addr][]resolve.Status, held []ebpf.BackendState) []admin.EndpointRow {
	var rows []admin.EndpointRow
	at := make(map[netip.AddrPort]int)
	for _, loc := range a.Localities {
		for _, e := range loc.Endpoints {
			if i, again := at[e.Address]; again {
				if rows[i].Priority == loc.Priority {
					rows[i].Weight += e.Weight
				}
				continue
			}
			at[e.Address] = len(rows)
			row := admin.EndpointRow{Address: endpointAddress(e.Address), Priority: loc.Priority, Weight: e.Weight, State: admin.Standby}
			if e.Unhealthy {
				row.State = admin.Unhealthy
			}
			for _, l := range from[e.Address.Addr()] {
				row.From = append(row.From, admin.Origin{Name: l.Lookup.Name, Expires: expiry(l), Error: l.Error})
			}
			rows = append(rows, row)
		}
	}
	for _, b := range held {
		i, ok := at[b.Addr]
		if !ok {
			i = len(rows)
			rows = append(rows, admin.EndpointRow{Address: endpointAddress(b.Addr), Weight: b.Weight})
		}
		rows[i].Active, rows[i].Connections, rows[i].Failures = b.Active, b.Connections, b.Failures
		switch {
		case b.Ejected:
			rows[i].State, rows[i].EjectedUntil = admin.Ejected, b.EjectedUntil
		case takes(b):
			rows[i].State = admin.Serving
		}
	}
	return rows
}

// endpointAddress leaves out the port where it is the one the client asks for.
func endpointAddress(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}
