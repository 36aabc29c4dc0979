package resolve

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/upstream"
)

const (
	// maxChain bounds the aliases followed for one name, maxQueries the queries that takes.
	maxChain   = 16
	maxQueries = 8
	// scope keeps what is known of servers from the node's own sockets apart from what pods see.
	scope = "resolve"
)

// answer is what one address family said. Without error and addresses it is a definite "no".
type answer struct {
	addresses []netip.Addr // in the server's order, each once
	ttl       time.Duration
	err       error
}

// or is what the family's addresses are after this answer, if they were old before it. A family that was
// not asked is not wanted.
func (a answer) or(old []netip.Addr) []netip.Addr {
	if a.err != nil {
		return old
	}
	return a.addresses
}

// outcome is what a lookup came to.
type outcome struct {
	v4, v6  answer
	queries int
	server  netip.AddrPort // whom it was asked of first
}

// err is why the lookup failed, unless every family that was asked gave a definite answer.
func (o outcome) err() error {
	if o.v4.err == o.v6.err {
		return o.v4.err
	}
	return errors.Join(o.v4.err, o.v6.err)
}

// ttl is the least TTL of all records that led to addresses; 0 if none did.
func (o outcome) ttl() time.Duration {
	switch {
	case len(o.v4.addresses) == 0:
		return o.v6.ttl
	case len(o.v6.addresses) == 0:
		return o.v4.ttl
	}
	return min(o.v4.ttl, o.v6.ttl)
}

// look does one lookup: the families its Lookup names, in the order it prefers them. The second choice is
// asked for only if the first gave no address and, as sure says, has none from before either.
func (r *Resolver) look(ctx context.Context, l mesh.Lookup, sure bool) (o outcome) {
	servers, err := r.servers(l)
	if err != nil {
		return outcome{v4: answer{err: err}, v6: answer{err: err}}
	}
	o.server = servers.Addrs[0]
	ask := func(qtype uint16) answer {
		a, n := r.follow(ctx, servers, l.Name, qtype)
		o.queries += n
		return a
	}
	enough := func(a answer) bool { return len(a.addresses) > 0 || a.err != nil && sure }
	switch l.Family {
	case mesh.V4Only:
		o.v4 = ask(dns.TypeA)
	case mesh.V6Only:
		o.v6 = ask(dns.TypeAAAA)
	case mesh.AllFamilies:
		second := make(chan outcome, 1)
		go func() {
			a, n := r.follow(ctx, servers, l.Name, dns.TypeAAAA)
			second <- outcome{v6: a, queries: n}
		}()
		o.v4 = ask(dns.TypeA)
		other := <-second
		o.v6 = other.v6
		o.queries += other.queries
	case mesh.V4Preferred:
		if o.v4 = ask(dns.TypeA); !enough(o.v4) {
			o.v6 = ask(dns.TypeAAAA)
		}
	default:
		if o.v6 = ask(dns.TypeAAAA); !enough(o.v6) {
			o.v4 = ask(dns.TypeA)
		}
	}
	return o
}

// servers are whom to ask for l.
func (r *Resolver) servers(l mesh.Lookup) (upstream.Servers, error) {
	s := upstream.Servers{Dial: r.o.Dial, Scope: scope, TCP: l.UseTCP, Exact: l.Resolvers != ""}
	if l.Resolvers == "" {
		if s.Addrs = r.o.Servers(); len(s.Addrs) == 0 {
			return s, errors.New("no nameserver to ask: no resolver is configured, no pod has one, and the node's resolv.conf names none")
		}
		return s, nil
	}
	for one := range strings.SplitSeq(l.Resolvers, ",") {
		addr, err := netip.ParseAddrPort(one)
		if err != nil {
			return s, fmt.Errorf("resolver of the cluster: %w", err)
		}
		s.Addrs = append(s.Addrs, addr)
	}
	return s, nil
}

// follow asks for the addresses of name of one type and follows the aliases, by further queries where a
// server does not. It also says how many queries it took.
func (r *Resolver) follow(ctx context.Context, s upstream.Servers, name string, qtype uint16) (a answer, queries int) {
	fail := func(err error) (answer, int) {
		return answer{err: fmt.Errorf("%s %s: %w", name, dns.TypeToString[qtype], err)}, queries
	}
	c := chain{names: []string{dns.CanonicalName(name)}}
	for queries < maxQueries {
		at := c.end()
		queries++
		m, err := r.o.Exchange(ctx, s, new(dns.Msg).SetQuestion(at, qtype))
		if err != nil {
			return fail(err)
		}
		if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError || m.Truncated {
			return fail(errors.New(complaint(m)))
		}
		if err := c.extend(m.Answer); err != nil {
			return fail(err)
		}
		if a.addresses = c.addresses(m.Answer, qtype); len(a.addresses) > 0 && m.Rcode == dns.RcodeSuccess {
			a.ttl = time.Duration(*c.ttl) * time.Second
			return a, queries
		}
		a.addresses = nil
		denied := m.Rcode == dns.RcodeNameError || hasType(m.Ns, dns.TypeSOA)
		switch {
		case !denied && c.end() != at:
			continue // the server left the rest to us
		case !denied && hasType(m.Ns, dns.TypeNS):
			return fail(errors.New("the server refers to others instead of answering"))
		}
		return a, queries
	}
	return fail(fmt.Errorf("more than %d queries to follow its aliases", maxQueries))
}

// complaint says what is wrong with a reply that is not an answer.
func complaint(m *dns.Msg) string {
	if m.Truncated {
		return "the answer is cut short and cannot be had over TCP"
	}
	if s, ok := dns.RcodeToString[m.Rcode]; ok {
		return "the server says " + s
	}
	return fmt.Sprintf("the server says rcode %d", m.Rcode)
}

// chain is the names from the one asked for to the one that has the addresses, and the least TTL on the
// way.
type chain struct {
	names []string
	ttl   *uint32
}

func (c *chain) end() string { return c.names[len(c.names)-1] }

// extend follows the aliases in an answer section from the end of the chain, in whatever order they are.
func (c *chain) extend(answer []dns.RR) error {
	for {
		i := slices.IndexFunc(answer, func(rr dns.RR) bool {
			return rr.Header().Rrtype == dns.TypeCNAME && dns.CanonicalName(rr.Header().Name) == c.end()
		})
		if i < 0 {
			return nil
		}
		target := dns.CanonicalName(answer[i].(*dns.CNAME).Target)
		if slices.Contains(c.names, target) {
			return fmt.Errorf("its aliases go in a circle, back to %s", target)
		}
		if len(c.names) > maxChain {
			return fmt.Errorf("it has more than %d aliases", maxChain)
		}
		c.names = append(c.names, target)
		c.least(answer[i])
	}
}

// addresses are those of the chain's end, each once.
func (c *chain) addresses(answer []dns.RR, qtype uint16) (all []netip.Addr) {
	for _, rr := range answer {
		if rr.Header().Rrtype != qtype || dns.CanonicalName(rr.Header().Name) != c.end() {
			continue
		}
		var addr netip.Addr
		switch rr := rr.(type) {
		case *dns.A:
			addr, _ = netip.AddrFromSlice(rr.A)
		case *dns.AAAA:
			addr, _ = netip.AddrFromSlice(rr.AAAA)
		}
		// An IPv4-mapped address in an AAAA record is an IPv4 address.
		if addr = addr.Unmap(); !addr.IsValid() || slices.Contains(all, addr) {
			continue
		}
		all = append(all, addr)
		c.least(rr)
	}
	return all
}

func (c *chain) least(rr dns.RR) {
	if ttl := rr.Header().Ttl; c.ttl == nil || ttl < *c.ttl {
		c.ttl = &ttl
	}
}

func hasType(rrs []dns.RR, t uint16) bool {
	return slices.ContainsFunc(rrs, func(rr dns.RR) bool { return rr.Header().Rrtype == t })
}
