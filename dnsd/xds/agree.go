package xds

import (
	"cmp"
	"maps"
	"reflect"
	"slices"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// agreement makes one input of what several streams were told. What all of them say is said once, for
// everybody; what differs is said to those namespaces that were told so, and to nobody else.
type agreement struct {
	views []*view // sorted by their first namespaces
	memo  *memo

	hosts     map[string][]*variant[mesh.Host]
	listeners map[string][]*variant[*listener]
	used      map[string]bool // clusters some port or listener leads to
	// renamed has the clusters that differ: what each is called in each view.
	renamed map[string][]string
	in      mesh.Input
}

// variant is one of the things that one name stands for, and the views it does so in, by their place.
type variant[T any] struct {
	value T
	from  []any // what it was made of; equal ones need not be made again
	seen  []int
}

// agree returns the input of views, sorted: equal views give equal inputs.
func agree(views []*view, m *memo) mesh.Input {
	a := &agreement{
		views: views, memo: m,
		hosts: map[string][]*variant[mesh.Host]{}, listeners: map[string][]*variant[*listener]{},
		renamed: map[string][]string{}, used: map[string]bool{},
	}
	a.in.Source = sourceName
	for i, v := range views {
		a.hear(i, v)
	}
	a.addClusters()
	a.addHosts()
	a.addListeners()
	a.addProblems()
	m.turn()
	return a.in
}

// namespaces are those of some views, sorted.
func (a *agreement) namespaces(views []int) []string {
	var all []string
	for _, i := range views {
		all = append(all, a.views[i].namespaces...)
	}
	slices.Sort(all)
	return all
}

// hear gathers the hosts and listeners of one view. Most are as in the views before, and made of the same
// things.
func (a *agreement) hear(i int, v *view) {
	v.hosts(func(n *name, records []*name) {
		v.makings(n, records)
		h := known(a.hosts[n.host], v.from)
		if h == nil {
			h = &variant[mesh.Host]{value: v.host(n, records), from: slices.Clone(v.from)}
			if same := alike(a.hosts[n.host], h.value); same != nil {
				h = same
			} else {
				a.hosts[n.host] = append(a.hosts[n.host], h)
			}
			for _, p := range h.value.Ports {
				a.used[p.Cluster] = true
			}
		}
		h.seen = append(h.seen, i)
	})
	for name, l := range v.binding() {
		j := slices.IndexFunc(a.listeners[name], func(at *variant[*listener]) bool { return at.value == l })
		if j < 0 {
			j = len(a.listeners[name])
			a.listeners[name] = append(a.listeners[name], &variant[*listener]{value: l})
			for _, b := range l.binds {
				for _, c := range b.Clusters {
					a.used[c.Name] = true
				}
			}
		}
		at := a.listeners[name][j]
		at.seen = append(at.seen, i)
	}
}

// makings puts all that a host is made of into v.from.
func (v *view) makings(n *name, records []*name) {
	v.from = append(v.from[:0], n)
	for _, c := range v.serving(n.host) {
		v.from = append(v.from, c, v.assignment(c))
	}
	for _, r := range records {
		v.from = append(v.from, r)
	}
}

func known[T any](variants []*variant[T], from []any) *variant[T] {
	for _, v := range variants {
		if slices.Equal(v.from, from) {
			return v
		}
	}
	return nil
}

func alike[T any](variants []*variant[T], value T) *variant[T] {
	for _, v := range variants {
		if reflect.DeepEqual(v.value, value) {
			return v
		}
	}
	return nil
}

// addClusters adds those in use. Of one that is missing there is one without endpoints, so that connections
// to the listeners that lead there are refused, as a proxy would: the control plane sends listeners before
// clusters at times, and clusters without endpoints not at all. One that could not be used stays away.
func (a *agreement) addClusters() {
	delete(a.used, "") // of ports that are left alone
	for _, name := range slices.Sorted(maps.Keys(a.used)) {
		variants := a.clusterVariants(name)
		for i, c := range variants {
			called := name
			if i > 0 {
				called = name + "@" + a.views[c.seen[0]].namespaces[0]
			}
			if len(variants) > 1 {
				a.rename(name, called, c.seen)
			}
			v := a.views[c.seen[0]]
			r := c.value
			if _, bad := v.problems[clusterType][name]; r == nil && !bad {
				r = unsent
			}
			if r == nil {
				continue
			}
			out := r.Cluster
			out.Name = called
			a.in.Clusters = append(a.in.Clusters, out)
			for _, n := range r.notes {
				v.note(object("cluster", called, 0), n)
			}
		}
	}
}

// unsent is a cluster that only its name is known of.
var unsent = &resolved{
	Cluster: mesh.Cluster{Discovery: mesh.Static, Balancing: mesh.Balancing{LbPolicy: mesh.LeastRequest}},
	notes:   []string{"the control plane has not sent it, though listeners lead there"},
}

// clusterVariants are the different contents of one cluster. The first keeps the plain name: it is the
// one most namespaces see, so that one namespace that differs concerns nobody else.
func (a *agreement) clusterVariants(name string) []*variant[*resolved] {
	var variants []*variant[*resolved]
	var last recipe // of the view before, which is mostly that of this one
	var same *variant[*resolved]
	for i, v := range a.views {
		c := v.clusters[name]
		if c == nil && !v.missing[name] {
			continue // it is nothing to this view
		}
		next := recipe{c: c, hashed: v.hashed[name]}
		if c != nil {
			next.from = v.assignment(c)
		}
		if same == nil || next != last {
			var r *resolved
			if c != nil {
				r = a.memo.resolved(next)
			}
			if same = alike(variants, r); same == nil {
				same = &variant[*resolved]{value: r}
				variants = append(variants, same)
			}
			last = next
		}
		same.seen = append(same.seen, i)
	}
	slices.SortStableFunc(variants, func(x, y *variant[*resolved]) int {
		missing := func(v *variant[*resolved]) int {
			if v.value == nil {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(missing(x), missing(y)), cmp.Compare(len(a.namespaces(y.seen)), len(a.namespaces(x.seen))), cmp.Compare(x.seen[0], y.seen[0]))
	})
	return variants
}

func (a *agreement) rename(name, called string, seen []int) {
	if a.renamed[name] == nil {
		a.renamed[name] = make([]string, len(a.views))
	}
	for _, i := range seen {
		a.renamed[name][i] = called
	}
}

// called is what a view's cluster is called in the input.
func (a *agreement) called(name string, view int) string {
	if names := a.renamed[name]; names != nil && names[view] != "" {
		return names[view]
	}
	return name
}

func (a *agreement) addHosts() {
	for _, name := range slices.Sorted(maps.Keys(a.hosts)) {
		var parts []*variant[mesh.Host]
		for _, h := range a.hosts[name] {
			if !slices.ContainsFunc(h.value.Ports, func(p mesh.Port) bool { return a.renamed[p.Cluster] != nil }) {
				parts = append(parts, h)
				continue
			}
			parts = append(parts, split(h, func(i int) mesh.Host { return a.hostIn(h.value, i) })...)
		}
		slices.SortFunc(parts, func(a, b *variant[mesh.Host]) int { return cmp.Compare(a.seen[0], b.seen[0]) })
		for _, part := range parts {
			if len(part.seen) < len(a.views) {
				part.value.ExportTo = a.namespaces(part.seen)
			}
			a.in.Hosts = append(a.in.Hosts, part.value)
		}
	}
}

// hostIn is the host with its clusters called as they are in a view.
func (a *agreement) hostIn(h mesh.Host, view int) mesh.Host {
	for i, p := range h.Ports {
		if called := a.called(p.Cluster, view); called != p.Cluster {
			h.Ports = slices.Clone(h.Ports)
			h.Ports[i].Cluster = called
		}
	}
	return h
}

func (a *agreement) addListeners() {
	for _, name := range slices.Sorted(maps.Keys(a.listeners)) {
		var parts []*variant[[]mesh.Listener]
		if all := a.listeners[name]; len(all) == 1 && len(all[0].seen) == len(a.views) && !a.touched(all[0].value) {
			a.in.Listeners = append(a.in.Listeners, all[0].value.binds...)
			continue // nearly all of them
		}
		for _, l := range a.listeners[name] {
			for _, part := range split(l, func(i int) []mesh.Listener { return a.bindsIn(l.value.binds, i) }) {
				if same := alike(parts, part.value); same != nil {
					same.seen = append(same.seen, part.seen...)
					slices.Sort(same.seen)
				} else {
					parts = append(parts, part)
				}
			}
		}
		slices.SortFunc(parts, func(a, b *variant[[]mesh.Listener]) int { return cmp.Compare(a.seen[0], b.seen[0]) })
		for _, part := range parts {
			if len(part.seen) == len(a.views) {
				a.in.Listeners = append(a.in.Listeners, part.value...)
				continue
			}
			for _, namespace := range a.namespaces(part.seen) {
				for _, l := range part.value {
					l.View = namespace
					a.in.Listeners = append(a.in.Listeners, l)
				}
			}
		}
	}
}

// touched says whether one of the listener's clusters is called otherwise in some view.
func (a *agreement) touched(l *listener) bool {
	return slices.ContainsFunc(l.binds, func(b mesh.Listener) bool {
		return slices.ContainsFunc(b.Clusters, func(c mesh.WeightedCluster) bool { return a.renamed[c.Name] != nil })
	})
}

// bindsIn is a listener with its clusters called as they are in a view.
func (a *agreement) bindsIn(binds []mesh.Listener, view int) []mesh.Listener {
	binds = slices.Clone(binds)
	for i := range binds {
		clusters := slices.Clone(binds[i].Clusters)
		for j := range clusters {
			clusters[j].Name = a.called(clusters[j].Name, view)
		}
		binds[i].Clusters = clusters
	}
	return binds
}

// split divides a variant by what makes of it in each of its views.
func split[T, U any](v *variant[T], in func(view int) U) []*variant[U] {
	var parts []*variant[U]
	for _, i := range v.seen {
		value := in(i)
		part := alike(parts, value)
		if part == nil {
			part = &variant[U]{value: value}
			parts = append(parts, part)
		}
		part.seen = append(part.seen, i)
	}
	return parts
}

// addProblems adds what the streams could not use, each thing once.
func (a *agreement) addProblems() {
	had := map[mesh.Problem]bool{}
	for _, v := range a.views {
		for _, p := range v.told() {
			if !had[p] {
				had[p] = true
				a.in.Problems = append(a.in.Problems, p)
			}
		}
	}
}
