package etcd

import (
	"slices"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// most is how many keys a name may have below it to be answered with them: no message carries more, and
// a whole zone is no answer.
const most = 1000

// tree holds the records of all keys, by the labels of their names.
type tree struct {
	path  string   // "/skydns/"
	zones []string // in lower case, without the final dot; none: keys are answered only as they stand
	root  node
}

// node is a name.
type node struct {
	name     string           // "" for the root
	records  []*record        // by key: of several, which differ in the case of letters only
	children map[string]*node // by label, in lower case
	count    int              // records here and below

	made bool       // host is what follows from the records as they are
	host *mesh.Host // nil for a name with nothing to answer
}

// newTree returns the tree of the keys below path.
func newTree(path string, zones []string) *tree { return &tree{path: path, zones: zones} }

// nameOf is the DNS name of a key: its labels are the key's parts, the last one first.
func (t *tree) nameOf(key string) string {
	labels := strings.Split(strings.TrimPrefix(key, t.path), "/")
	if n := len(labels); n > 1 && labels[n-1] == "" {
		labels = labels[:n-1] // a key with a slash at its end is one value of the name
	}
	slices.Reverse(labels)
	return strings.ToLower(strings.Join(labels, "."))
}

// zone says whether name is in one of the zones, and whether it is the zone's own.
func (t *tree) zone(name string) (within, apex bool) {
	for _, zone := range t.zones {
		rest, ok := strings.CutSuffix(name, zone)
		if ok && rest == "" {
			return true, true
		}
		within = within || ok && rest[len(rest)-1] == '.'
	}
	return within || len(t.zones) == 0, false
}

// put enters a key's record, or takes the key out if r is nil, and forgets what followed from it.
func (t *tree) put(key string, r *record) {
	parts := t.partsOf(key)
	if r == nil && !t.has(parts, key) {
		return
	}
	n := &t.root
	path := []*node{n}
	for _, part := range parts {
		child := n.children[part]
		if child == nil {
			child = &node{name: strings.TrimSuffix(part+"."+n.name, ".")}
			if part == "" {
				child.name = n.name
			}
			if n.children == nil {
				n.children = map[string]*node{}
			}
			n.children[part] = child
		}
		n = child
		path = append(path, n)
	}
	change := n.keep(key, r)
	for i, n := range path {
		n.made, n.count = false, n.count+change
		if i+1 < len(path) && path[i+1].count+change == 0 {
			delete(n.children, parts[i])
		}
	}
}

// keep has r be the record of key, none if it is nil, and returns by how many they have become more.
func (n *node) keep(key string, r *record) (change int) {
	before := len(n.records)
	n.records = slices.DeleteFunc(n.records, func(r *record) bool { return r.key == key })
	if r != nil {
		n.records = append(n.records, r)
		slices.SortFunc(n.records, compareKeys)
	}
	return len(n.records) - before
}

func compareKeys(a, b *record) int { return strings.Compare(a.key, b.key) }

// partsOf are the labels of a key's node, from the root on. DNS knows no case.
func (t *tree) partsOf(key string) []string {
	return strings.Split(strings.ToLower(strings.TrimPrefix(key, t.path)), "/")
}

func (t *tree) has(parts []string, key string) bool {
	n := &t.root
	for _, part := range parts {
		if n = n.children[part]; n == nil {
			return false
		}
	}
	return slices.ContainsFunc(n.records, func(r *record) bool { return r.key == key })
}

// at returns the node of a name in lower case, or nil.
func (t *tree) at(name string) *node {
	n := &t.root
	labels := strings.Split(name, ".")
	for _, label := range slices.Backward(labels) {
		if n = n.children[label]; n == nil {
			return nil
		}
	}
	return n
}

// below returns the records below n in the order of their keys, or n's own if there are none. More than
// an answer could carry count as none.
func (n *node) below() []*record {
	own := n.count - len(n.records)
	if own == 0 || own > most {
		return n.records
	}
	all := make([]*record, 0, own)
	for _, child := range n.children {
		all = child.gather(all)
	}
	slices.SortFunc(all, compareKeys)
	return all
}

func (n *node) gather(all []*record) []*record {
	all = append(all, n.records...)
	for _, child := range n.children {
		all = child.gather(all)
	}
	return all
}

// hosts returns what the names of the tree are, in order.
func (t *tree) hosts() []mesh.Host {
	var all []mesh.Host
	var walk func(n *node)
	walk = func(n *node) {
		if h := t.hostOf(n); h != nil {
			all = append(all, *h)
		}
		for _, child := range n.children {
			walk(child)
		}
	}
	for _, child := range t.root.children {
		walk(child)
	}
	slices.SortFunc(all, func(a, b mesh.Host) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Object, b.Object)
	})
	return all
}
