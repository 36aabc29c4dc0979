package mesh

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// claim is what one object of one source says about a host, checked and spelled as a plan spells it.
type claim struct {
	source *source
	host   Host
	views  []string // sorted; [""] is everybody
}

// given says that the cluster itself declares the host, and not just somebody in it.
func (h *Host) given() bool { return h.Kubernetes || h.Imported }

func (cl *claim) seenBy(view string) bool { return slices.Contains(cl.views, view) }

// row is what one host is in one view, once all objects about it have been heard.
type row struct {
	host, view   string
	source       *source
	object       string
	also         []Declarer
	namespace    string
	kubernetes   bool
	given        bool // as Host.given
	headless     bool
	allocate     bool
	externalName string
	addrs        []netip.Addr // sorted
	ports        []Port       // sorted by number and protocol
	records      []Record     // sorted by label
	ttl          uint32
	data         *Data

	all            *row // everybody's, if listeners are all that tells this one from it
	balanced       bool // some address has a frontend
	serve4, serve6 bool // some frontend has an endpoint of the family
}

// deaf says that connections to addr could only be refused, for want of endpoints of its family,
// while the other family has some. Such an address is not answered: not every client tries the next.
func (r *row) deaf(addr netip.Addr) bool {
	if addr.Is4() {
		return r.serve6 && !r.serve4
	}
	return r.serve4 && !r.serve6
}

// reach notes what connections to one of the row's ports are spread over.
func (r *row) reach(a *assigned) {
	r.balanced = true
	r.serve4, r.serve6 = r.serve4 || a.has4, r.serve6 || a.has6
}

// hear returns what one host is in all views, sorted, without virtual addresses of ours so far, and notes
// what of it concerns the next plan. There are none if nobody declares the host any more.
func (r *run) hear(u *unit) []*row {
	e := ear{vips: r.vips}
	var claims []*claim
	for _, s := range r.sources {
		for host := range s.hosts.all(u.name) {
			if cl := e.check(s, host); cl != nil {
				claims = append(claims, cl)
			}
		}
	}
	if len(claims) > 1 {
		slices.SortFunc(claims, func(a, b *claim) int {
			return cmp.Or(cmp.Compare(a.source.rank, b.source.rank), compareHosts(&a.host, &b.host))
		})
	}
	rows := make([]*row, 0, len(claims))
	for _, view := range viewsOf(claims) {
		if row := e.hear(claims, view); row != nil {
			rows = append(rows, row)
		}
	}
	u.all, u.announced = e.all, e.announced
	return rows
}

// ear hears the claims about one host, and what is to be reported about them.
type ear struct {
	reports
	vips      *VIPs
	announced []netip.Addr // of those that pairs are given from
}

// compareHosts orders the objects of one source about one host: the service before what decorates it, then by name. The rest is only there to make the order the same every time.
func compareHosts(a, b *Host) int {
	return cmp.Or(
		compareBools(b.given(), a.given()),
		cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(a.Object, b.Object),
		slices.CompareFunc(a.Ports, b.Ports, comparePorts),
		cmp.Compare(a.ExternalName, b.ExternalName),
		slices.CompareFunc(a.Addresses, b.Addresses, netip.Addr.Compare),
	)
}

func comparePorts(a, b Port) int {
	return cmp.Or(
		cmp.Compare(a.Number, b.Number), cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Name, b.Name),
	)
}

// viewsOf returns every view that one of the claims names, sorted.
func viewsOf(claims []*claim) []string {
	if len(claims) == 1 {
		return claims[0].views // the usual case
	}
	var views []string
	for _, cl := range claims {
		views = append(views, cl.views...)
	}
	slices.Sort(views)
	return slices.Compact(views)
}

// hear makes a view's row of the claims about one host. It returns nil where the row would only
// repeat everybody's: when the strongest source has nothing to tell this namespace in particular.
func (e *ear) hear(claims []*claim, view string) *row {
	var heard []*claim
	for _, cl := range claims {
		if cl.seenBy(view) || cl.seenBy("") {
			heard = append(heard, cl)
		}
	}
	// What a source says to this namespace alone comes before what it says to everybody, but for services:
	// nobody has a service's name by saying it to those who use it.
	slices.SortStableFunc(heard, func(a, b *claim) int {
		return cmp.Or(cmp.Compare(a.source.rank, b.source.rank), compareBools(b.host.given(), a.host.given()),
			compareBools(b.seenBy(view), a.seenBy(view)))
	})
	n := 1
	for n < len(heard) && heard[n].source == heard[0].source {
		n++
	}
	if !heard[0].seenBy(view) {
		e.reportUnheard(heard[0], heard[1:n], view)
		return nil
	}
	r := e.unite(heard[:n], view)
	if r.allocate && len(r.addrs) == 0 && !r.headless && r.externalName == "" {
		r.addrs = adopt(heard[n:])
	}
	for _, cl := range heard[n:] {
		r.also = append(r.also, Declarer{cl.source.name, cl.host.Object})
	}
	e.reportLost(r, heard[n:])
	return r
}

// reportUnheard tells who says something of a service to one namespace that the service is everybody's.
func (e *ear) reportUnheard(service *claim, claims []*claim, view string) {
	for _, cl := range claims {
		if cl.seenBy(view) {
			e.conflict(cl.source, cl.host.Object, cl.host.Name, "%s is %s to everybody; what is said of it to %s alone is left out",
				cl.host.Name, service.host.Object, view)
		}
	}
}

// reportLost tells weaker sources that the addresses they announce for a host are answered to nobody.
// What else they say of it gives way without a word: that is what precedence is for.
func (e *ear) reportLost(r *row, claims []*claim) {
	for _, cl := range claims {
		lost := slices.DeleteFunc(slices.Clone(cl.host.Addresses), func(addr netip.Addr) bool { return slices.Contains(r.addrs, addr) })
		if len(lost) > 0 && !cl.host.Headless && cl.seenBy(r.view) {
			e.conflict(cl.source, cl.host.Object, r.host, "%s is answered as %s of source %s says, which counts for more: %v is no address of it",
				r.host, r.object, r.source.name, lost)
		}
	}
}

// unite makes a row of what one source's objects say; the first decides what kind of host it is.
func (e *ear) unite(claims []*claim, view string) *row {
	first := claims[0]
	r := &row{
		host:         first.host.Name,
		view:         view,
		source:       first.source,
		object:       first.host.Object,
		namespace:    first.host.Namespace,
		headless:     first.host.Headless,
		externalName: first.host.ExternalName,
	}
	r.given = first.host.given() // which come first
	for _, cl := range claims {
		h := &cl.host
		if h.Headless != r.headless || h.ExternalName != r.externalName {
			e.conflict(cl.source, h.Object, r.host, "%s is another kind of host in %s, which counts; this one is left out", h.Name, first.host.Object)
			continue
		}
		if h.Object != first.host.Object {
			r.object += ", " + h.Object
		}
		r.kubernetes = r.kubernetes || h.Kubernetes
		r.allocate = r.allocate || h.Allocate
		if r.given && !h.given() {
			e.reportLost(r, []*claim{cl}) // a service has the addresses that the cluster gives it
		} else {
			r.addrs = append(r.addrs, h.Addresses...)
		}
		e.unitePorts(r, cl, first.seenBy(view) != cl.seenBy(view))
		r.records = append(r.records, h.Records...)
		r.uniteData(h)
	}
	r.addrs = sortAddrs(r.addrs)
	if !slices.IsSortedFunc(r.ports, comparePorts) {
		slices.SortFunc(r.ports, comparePorts) // its own: see unitePorts
	}
	r.records = uniteRecords(r.records)
	return r
}

// unitePorts adds a claim's ports to the row. A port that is there already stays as it is; quiet
// means that this is intended, since a namespace's own word counts for more than everybody's.
func (e *ear) unitePorts(r *row, cl *claim, quiet bool) {
	if len(r.ports) == 0 && distinctPorts(cl.host.Ports) {
		r.ports = slices.Clip(cl.host.Ports) // the usual case: the object's, to which nothing is added in place
		return
	}
	for _, p := range cl.host.Ports {
		i := slices.IndexFunc(r.ports, func(q Port) bool { return q.Number == p.Number && q.Protocol == p.Protocol })
		switch {
		case i < 0:
			r.ports = append(r.ports, p)
		case r.ports[i].Cluster != p.Cluster && !quiet:
			e.conflict(cl.source, cl.host.Object, r.host, "port %d/%s of %s goes to cluster %q already, by another object; cluster %q gets nothing from it",
				p.Number, p.Protocol, r.host, r.ports[i].Cluster, p.Cluster)
		}
	}
}

// distinctPorts says that ports are sorted and each is there once.
func distinctPorts(ports []Port) bool {
	for i := 1; i < len(ports); i++ {
		a, b := ports[i-1], ports[i]
		if cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Protocol, b.Protocol)) >= 0 {
			return false
		}
	}
	return true
}

// adopt returns the addresses that the strongest of the weaker sources announces.
func adopt(claims []*claim) []netip.Addr {
	var addrs []netip.Addr
	var from *source
	for _, cl := range claims {
		if cl.host.Headless || len(cl.host.Addresses) == 0 || (from != nil && cl.source != from) {
			continue
		}
		from = cl.source
		addrs = append(addrs, cl.host.Addresses...)
	}
	return sortAddrs(addrs)
}

func sortAddrs(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// uniteRecords makes one record of all that have the same label.
func uniteRecords(records []Record) []Record {
	slices.SortStableFunc(records, func(a, b Record) int { return cmp.Compare(a.Label, b.Label) })
	var united []Record
	for _, rec := range records {
		if n := len(united); n == 0 || united[n-1].Label != rec.Label {
			united = append(united, Record{Label: rec.Label})
		}
		last := &united[len(united)-1]
		last.Addresses = append(last.Addresses, rec.Addresses...)
		last.Ports = append(last.Ports, rec.Ports...)
	}
	for i := range united {
		united[i].Addresses = sortAddrs(united[i].Addresses)
		slices.SortFunc(united[i].Ports, comparePorts)
		united[i].Ports = slices.Compact(united[i].Ports)
	}
	return united
}

// check returns what an object says about a host, or nil if nobody is to see it. Parts that cannot be
// right are reported and left out.
func (e *ear) check(s *source, h *Host) *claim {
	name, err := hostName(h.Name)
	if err != nil {
		return nil // the source has reported it
	}
	cl := &claim{source: s, host: *h, views: e.viewsOfHost(s, h)}
	if len(cl.views) == 0 {
		return nil
	}
	cl.host.Name = name
	cl.host.Data = e.checkData(s, h)
	if h.ExternalName != "" {
		if cl.host.ExternalName, err = dnsName(h.ExternalName); err != nil {
			e.report(s, h.Object, "external name %v", err)
			return nil
		}
		if len(h.Addresses) > 0 {
			e.report(s, h.Object, "%s has an external name, so its addresses are left out", name)
		}
		cl.host.Addresses = nil
		return cl
	}
	cl.host.Addresses = e.checkAddrs(s, h.Object, h.Addresses)
	for _, addr := range cl.host.Addresses {
		if e.vips.contains(addr) {
			e.announced = append(e.announced, addr)
		}
	}
	cl.host.Ports = e.checkPorts(s, h)
	cl.host.Records = e.checkRecords(s, h)
	return cl
}

// viewsOfHost reads ExportTo the way Istio means it: "*" everybody, "." the object's own namespace,
// "~" nobody, else a namespace.
func (e *ear) viewsOfHost(s *source, h *Host) []string {
	if len(h.ExportTo) == 0 || slices.Contains(h.ExportTo, "*") {
		return []string{""}
	}
	var views []string
	for _, to := range h.ExportTo {
		switch {
		case to == "~" || to == "":
		case to != ".":
			views = append(views, to)
		case h.Namespace != "":
			views = append(views, h.Namespace)
		default:
			e.report(s, h.Object, `%s is exported to its own namespace ("."), but has none; nobody sees it`, h.Name)
		}
	}
	slices.Sort(views)
	return slices.Compact(views)
}

func (e *ear) checkAddrs(s *source, object string, addrs []netip.Addr) []netip.Addr {
	var good []netip.Addr
	for _, addr := range addrs {
		if err := checkAddress(addr); err != nil {
			e.report(s, object, "%v; it is left out", err)
			continue
		}
		good = append(good, addr.Unmap())
	}
	return good
}

func (e *ear) checkPorts(s *source, h *Host) []Port {
	bad := func(p Port) bool { return p.Number == 0 || (p.Protocol != TCP && p.Protocol != UDP) }
	if !slices.ContainsFunc(h.Ports, bad) {
		return h.Ports
	}
	e.report(s, h.Object, "%s has ports that are not TCP or UDP ports from 1 to 65535; they are left out", h.Name)
	return slices.DeleteFunc(slices.Clone(h.Ports), bad)
}

func (e *ear) checkRecords(s *source, h *Host) []Record {
	var good []Record
	for _, rec := range h.Records {
		label, err := dnsName(rec.Label)
		if err != nil || strings.HasPrefix(h.Name, "*.") {
			e.report(s, h.Object, "record %q below %s: not a name that can be asked for", rec.Label, h.Name)
			continue
		}
		rec.Label, rec.Addresses = label, e.checkAddrs(s, h.Object, rec.Addresses)
		good = append(good, rec)
	}
	return good
}
