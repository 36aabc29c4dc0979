package pods

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/ebpf"
)

// logAnnotation on a pod has its queries logged: all of them ("on"), or one in so many ("1/100").
const logAnnotation = "nodens.io/query-log"

// maxNameservers is how many a row holds; resolvers use three.
const maxNameservers = 4

const dnsPort = 53

// wish is what should be done for one attachment. It follows from the attachment and the options alone.
type wish struct {
	addr4, addr6 netip.Addr // the pod's; a listener stands on the one of its nameserver's family
	nameservers  []netip.Addr
	light        bool   // without listeners
	why          string // there are none, or no nameserver to capture
	client       names.Client
	host         bool            // it is no pod, but the node itself
	avoid        map[uint16]bool // ports of our band that the pod may want itself
	logEvery     int             // of so many queries one is logged; 0 means none
	problem      string          // what of its annotations makes no sense
}

func (p *Pods) wish(a attach.Attachment) wish {
	w := wish{avoid: declared(a.Annotations), host: isHost(a)}
	for _, prefix := range a.Addresses {
		addr := prefix.Addr().Unmap()
		switch {
		case addr.Is4() && !w.addr4.IsValid():
			w.addr4 = addr
		case addr.Is6() && !w.addr6.IsValid() && addr.IsGlobalUnicast():
			w.addr6 = addr
		}
	}
	w.client = names.Client{Namespace: a.PodNamespace, Search: a.DNS.Searches, IPv6: w.addr6.IsValid()}
	if len(w.client.Search) == 0 && a.PodNamespace != "" && a.PodName != "" {
		domain := p.o.ClusterDomain
		w.client.Search = []string{a.PodNamespace + ".svc." + domain, "svc." + domain, domain}
	}
	w.logEvery, w.problem = logged(a.Annotations[logAnnotation])
	by, problem := optedOut(a.Annotations)
	w.problem = cmp.Or(w.problem, problem)
	if by != "" {
		w.why = "opted out by its annotation " + by
		return w
	}
	asked := a.DNS.Nameservers
	if len(asked) == 0 {
		asked = p.o.Nameservers
	}
	if len(asked) == 0 {
		w.why = "no nameserver is known: neither its attachment nor the nameservers setting names one"
		return w
	}
	for _, n := range asked {
		n = n.Unmap()
		if len(w.nameservers) < maxNameservers && w.capturable(n, a) && !slices.Contains(w.nameservers, n) {
			w.nameservers = append(w.nameservers, n)
		}
	}
	own := a.Annotations[captureAnnotation]
	w.light = own == captureLight || p.o.Light && own != "on" && !w.host
	switch {
	case len(w.nameservers) == 0:
		w.why = "none of its nameservers can be captured: they are its own, on loopback or link-local, or of a family it has no address of"
	case w.light && p.asker(&w) == 0:
		w.nameservers, w.why = nil, "it is to have no listener, and its queries cannot be answered in the kernel, or are logged"
	case w.light:
		w.why = "light: what the kernel does not answer goes to its nameservers, and so does TCP"
	}
	return w
}

// logged reads a logAnnotation. What cannot be read is no reason to leave the pod alone.
func logged(annotation string) (every int, problem string) {
	switch annotation {
	case "", "off":
		return 0, ""
	case "on":
		return 1, ""
	}
	if n, ok := strings.CutPrefix(annotation, "1/"); ok {
		if every, err := strconv.Atoi(n); err == nil && every > 0 {
			return every, ""
		}
	}
	return 0, fmt.Sprintf("its queries are not logged: annotation %s is %q, not on, off or 1/N", logAnnotation, annotation)
}

// capturable leaves out what a listener cannot stand for. A nameserver inside the pod is the pod's own
// business. An IPv6 link-local one needs a scope in the restored source address that the kernel half
// cannot write; an IPv4 one has no scope and is where node-local DNS caches live (169.254.20.10).
func (w wish) capturable(n netip.Addr, a attach.Attachment) bool {
	own := slices.ContainsFunc(a.Addresses, func(p netip.Prefix) bool { return p.Addr().Unmap() == n })
	usable := n.IsGlobalUnicast() || n.Is4() && n.IsLinkLocalUnicast()
	return usable && !own && w.listenOn(n).IsValid()
}

// listenOn is the pod's address of the nameserver's family, if it has one.
func (w wish) listenOn(nameserver netip.Addr) netip.Addr {
	if nameserver.Is4() {
		return w.addr4
	}
	return w.addr6
}

// declared returns every number of our band that stands in an annotation. CNI is not told a pod's
// ports, but annotations repeat them: scrape ports, proxies' ports, the manifest as last applied. A
// number that is no port costs us one of a thousand.
func declared(annotations map[string]string) map[uint16]bool {
	ports := map[uint16]bool{}
	for _, text := range annotations {
		for digits := range strings.FieldsFuncSeq(text, func(r rune) bool { return r < '0' || r > '9' }) {
			n, err := strconv.ParseUint(digits, 10, 16)
			if port := uint16(n); err == nil && ebpf.PortLow <= port && port <= ebpf.PortHigh {
				ports[port] = true
			}
		}
	}
	return ports
}
