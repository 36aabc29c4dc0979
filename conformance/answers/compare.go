package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/world"
)

// types are asked of every name.
var types = []string{"A", "AAAA", "CNAME", "SRV", "TXT", "PTR", "MX", "HTTPS"}

// questions are all names that are asked for, with the cluster's domain written as a dot at the end.
func questions() []string {
	names := []string{
		// services, and their ports
		"cart.shop.svc.", "_http._tcp.cart.shop.svc.", "_dns._udp.cart.shop.svc.", "_http._udp.cart.shop.svc.", "_none._tcp.cart.shop.svc.",
		"both.shop.svc.", "_https._tcp.both.shop.svc.", "idle.shop.svc.", "_80._tcp.idle.shop.svc.", "CaRt.ShOp.SvC.",
		// headless ones, and their endpoints
		"db.shop.svc.", "_sql._tcp.db.shop.svc.", "_admin._tcp.db.shop.svc.", "db-0.db.shop.svc.", "db-1.db.shop.svc.", "db-3.db.shop.svc.",
		"203-0-113-77.db.shop.svc.", "2001-db8--79.db.shop.svc.", "203-0-113-75.db.shop.svc.", "_sql._tcp.db-0.db.shop.svc.",
		"early.shop.svc.", "early-0.early.shop.svc.", "portless.shop.svc.", "203-0-113-95.portless.shop.svc.", "unready.shop.svc.", "unready-0.unready.shop.svc.",
		// endpoints of services with an address
		"203-0-113-71.cart.shop.svc.", "203-0-113-73.cart.shop.svc.", "203-0-113-99.cart.shop.svc.", "named.cart.shop.svc.", "2001-db8--80.both.shop.svc.",
		// other names
		"outside.shop.svc.", "inside.shop.svc.", "dangling.shop.svc.", "literal.shop.svc.", "below.outside.shop.svc.",
		// pods
		"203-0-113-71.shop.pod.", "192-0-2-7.bare.pod.", "2001-db8--7.shop.pod.", "192-0-2-7.nowhere.pod.", "no-ip.shop.pod.", "192-0-2-999.shop.pod.",
		// what has nothing of its own, and what does not exist
		"", "svc.", "pod.", "shop.svc.", "bare.svc.", "shop.pod.", "nowhere.svc.", "nothing.shop.svc.", "cart.bare.svc.", "cart.nowhere.svc.",
		"_tcp.cart.shop.svc.", "below.cart.shop.svc.", "deep.below.cart.shop.svc.", "dns-version.", "ns.dns.", "other.",
		// what a search list makes of names from outside, and of those of the cluster
		"www.example.com.shop.svc.", "www.example.com.svc.", "www.example.com.", "cart.shop.svc.cluster.local.shop.svc.", "cart.shop.shop.svc.",
		// wildcards are none
		"*.shop.svc.", "*.cart.shop.svc.",
	}
	for i := range names {
		names[i] += "cluster.local."
	}
	for _, ip := range []string{
		"10.97.0.7", "10.97.0.8", "fd97::8", "203.0.113.71", "203.0.113.72", "203.0.113.75", "2001:db8::75", "203.0.113.77", "203.0.113.90", "203.0.113.200", "192.0.2.7",
	} {
		reverse, _ := dns.ReverseAddr(netip.MustParseAddr(ip).String())
		names = append(names, reverse)
	}
	return append(names, "www.example.com.", "nobody.example.com.")
}

// said is what of a reply is compared: the code, the records without their times to live, and whose SOA
// record says that there are none. What a cache has kept has an age, which is nobody's answer.
func said(r app.Reply) string {
	words := []string{r.Rcode}
	for _, rr := range r.Answer {
		f := strings.Fields(rr)
		if f[3] == "SRV" {
			f[5] = "*" // the weight says something about the others only, and the same of all
		}
		words = append(words, strings.Join(append([]string{strings.ToLower(f[0])}, f[3:]...), " "))
	}
	slices.Sort(words[1:])
	for _, rr := range r.Authority {
		if f := strings.Fields(rr); f[3] == "SOA" {
			words = append(words, "SOA of "+f[0])
		}
	}
	return strings.Join(words, ", ")
}

// compare asks everything of both.
func compare(pod *world.Pod, verbose bool) error {
	asked, same := 0, 0
	used := map[*difference]int{}
	var unexplained []string
	for _, name := range questions() {
		for _, qtype := range types {
			var got [2]string
			for i, server := range []string{world.Nameservers[0].String(), corednsAddress} {
				r, err := pod.Dig(app.Question{Name: name, Type: qtype, Server: server, TCP: true})
				if err != nil {
					return fmt.Errorf("%s %s, asked of %s: %w", name, qtype, server, err)
				}
				got[i] = said(r)
			}
			asked++
			if verbose {
				fmt.Printf("%s %s\n\tdnsd     %s\n\tCoreDNS  %s\n", name, qtype, got[0], got[1])
			}
			if got[0] == got[1] {
				same++
				continue
			}
			if d := explain(name, qtype, got[0], got[1]); d != nil {
				used[d]++
				continue
			}
			unexplained = append(unexplained, fmt.Sprintf("%s %s\n\tdnsd     %s\n\tCoreDNS  %s", name, qtype, got[0], got[1]))
		}
	}
	fmt.Printf("%d questions, %d answered alike, the others for these reasons:\n", asked, same)
	for i := range differences {
		if n := used[&differences[i]]; n > 0 {
			fmt.Printf("%4d  %s\n", n, differences[i].why)
		} else {
			unexplained = append(unexplained, "there is no such difference any more: "+differences[i].why)
		}
	}
	if len(unexplained) > 0 {
		fmt.Fprintln(os.Stderr, strings.Join(unexplained, "\n"))
		return errors.New("the answers differ for no reason that is known")
	}
	return nil
}

// difference is one way in which the answers may differ.
type difference struct {
	why   string
	names []string // patterns of path.Match, of names without the cluster's domain
	types string   // that it concerns, separated by blanks; all if empty
	ours  string   // what ours begins with
	other string   // what CoreDNS's begins with
}

func explain(name, qtype, ours, other string) *difference {
	name = strings.TrimSuffix(strings.ToLower(name), "cluster.local.")
	for i := range differences {
		d := &differences[i]
		if d.types != "" && !slices.Contains(strings.Fields(d.types), qtype) ||
			!strings.HasPrefix(ours, d.ours) || !strings.HasPrefix(other, d.other) {
			continue
		}
		for _, p := range d.names {
			if ok, _ := path.Match(p, name); ok {
				return d
			}
		}
	}
	return nil
}
