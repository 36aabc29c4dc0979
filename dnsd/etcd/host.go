package etcd

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// hostOf returns what n answers, or nil.
func (t *tree) hostOf(n *node) *mesh.Host {
	if n.made {
		return n.host
	}
	m := maker{tree: t, node: n, host: &mesh.Host{Name: n.name, Object: "key " + t.keyOf(n.name)}}
	n.host, n.made = m.make(), !m.leans
	return n.host
}

func (t *tree) keyOf(name string) string {
	labels := strings.Split(name, ".")
	slices.Reverse(labels)
	return t.path + strings.Join(labels, "/")
}

// maker makes the host of one node.
type maker struct {
	tree  *tree
	node  *node
	host  *mesh.Host
	leans bool // on other nodes, so that it must be made anew whenever anything changes
}

func (m *maker) make() *mesh.Host {
	within, apex := m.tree.zone(m.node.name)
	if !within || strings.Contains(strings.TrimPrefix(m.node.name, "*."), "*") && m.node.records == nil {
		return nil
	}
	if isReverse(m.node.name) {
		return m.reverse()
	}
	all := m.node.records
	if len(m.tree.zones) > 0 {
		all = grouped(m.node.below())
	}
	addressed := all
	if apex {
		// A zone's own addresses are kept apart, lest it has those of all names in it.
		addressed = m.node.records
		if at := m.tree.at("apex.dns." + m.node.name); at != nil {
			addressed = grouped(at.below())
		}
	}
	if len(all) == 0 && len(addressed) == 0 {
		return nil
	}
	if len(all) > 1 || len(all) == 1 && !slices.Contains(m.node.records, all[0]) {
		m.host.Object = "keys below " + m.tree.keyOf(m.node.name)
	}
	m.addresses(addressed)
	m.data(all)
	if m.host.Addresses == nil && m.host.ExternalName == "" && m.host.Data == nil {
		return nil
	}
	return m.host
}

// count notes the time to live of a record that is used: a set has the shortest of its records.
func (m *maker) count(r *record) {
	if m.host.TTL == 0 || r.ttl < m.host.TTL {
		m.host.TTL = r.ttl
	}
}

// addresses fills in what all have of them, or an alias if there is none. DNS allows one alias, and
// nothing beside it: of several, the addresses behind those that are in the tree are taken.
func (m *maker) addresses(all []*record) {
	var aliases []string
	for _, r := range all {
		switch {
		case r.addr.IsValid():
			m.host.Addresses = append(m.host.Addresses, r.addr)
			m.count(r)
		case r.alias != "" && !r.mail && !below(r.alias, m.node.name) && !slices.Contains(aliases, r.alias):
			aliases = append(aliases, r.alias)
		}
	}
	if m.host.Addresses != nil || len(aliases) == 0 {
		m.host.Addresses = distinct(m.host.Addresses)
		m.host.Headless = m.host.Addresses != nil // connections to them are nobody's business here
		return
	}
	for _, r := range all {
		if r.alias != "" {
			m.count(r)
		}
	}
	if len(aliases) > 1 {
		m.leans = true
		w := walk{tree: m.tree, seen: map[*node]bool{}}
		for _, alias := range aliases {
			w.follow(alias)
		}
		m.host.Addresses = w.found
	}
	m.host.Addresses = distinct(m.host.Addresses)
	if m.host.Headless = m.host.Addresses != nil; !m.host.Headless {
		m.host.ExternalName = aliases[0]
	}
}

// walk finds the addresses behind aliases as far as the tree knows them, each name once: aliases may lead
// in a circle.
type walk struct {
	tree  *tree
	seen  map[*node]bool
	found []netip.Addr // most of them at the most
}

func (w *walk) follow(name string) {
	n := w.tree.at(name)
	if n == nil || w.seen[n] {
		return
	}
	w.seen[n] = true
	records := n.records
	if len(w.tree.zones) > 0 {
		records = grouped(n.below())
	}
	for _, r := range records {
		switch {
		case len(w.found) == most:
			return
		case r.addr.IsValid():
			w.found = append(w.found, r.addr)
		case r.alias != "" && !r.mail:
			w.follow(r.alias)
		}
	}
}

// data fills in the other records. Every host is an SRV record too, as SkyDNS has it, also one without a
// port; the weights of a priority are shares of a hundred.
func (m *maker) data(all []*record) {
	var d mesh.Data
	sums := map[uint16]int{}
	for _, r := range all {
		if r.text == "" {
			sums[r.priority] += r.weight
		}
	}
	for _, r := range all {
		target := r.target()
		switch {
		case r.text != "":
			if !slices.Contains(d.Texts, r.text) {
				d.Texts = append(d.Texts, r.text)
				m.count(r)
			}
			continue
		case strings.HasPrefix(target, "*."):
			continue // a name that stands for many is nobody's address
		}
		m.count(r)
		share := uint16(max(1, 100*r.weight/sums[r.priority]))
		s := mesh.Service{Target: target, Port: r.port, Priority: r.priority, Weight: share}
		if !slices.Contains(d.Services, s) {
			d.Services = append(d.Services, s)
		}
		if to := (mesh.Mail{Target: target, Preference: r.priority}); r.mail && !slices.Contains(d.Mail, to) {
			d.Mail = append(d.Mail, to)
		}
	}
	if d.Services != nil || d.Texts != nil {
		m.host.Data = &d
	}
}

// reverse is the host of the name of an address: it points to a name, and has nothing else.
func (m *maker) reverse() *mesh.Host {
	if len(m.node.records) == 0 || m.node.records[0].alias == "" {
		return nil
	}
	r := m.node.records[0]
	m.host.TTL, m.host.Data = r.ttl, &mesh.Data{Pointer: r.alias}
	return m.host
}

func isReverse(name string) bool { return below(name, "in-addr.arpa") || below(name, "ip6.arpa") }

// below reports whether name is domain or below it.
func below(name, domain string) bool {
	rest, ok := strings.CutSuffix(name, domain)
	return ok && (rest == "" || rest[len(rest)-1] == '.')
}

func distinct(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}
