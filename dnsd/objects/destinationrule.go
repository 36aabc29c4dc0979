package objects

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// rule is a DestinationRule.
type rule struct {
	*Meta
	spec *networking.DestinationRule
	host string // a name without a dot is a service of the rule's namespace
}

// NewDestinationRule keeps spec.
func NewDestinationRule(m Meta, spec *networking.DestinationRule) Object {
	r := &rule{spec: spec, host: strings.ToLower(strings.TrimSuffix(spec.GetHost(), "."))}
	m.Kind, m.Labels, m.Annotations = KindDestinationRule, nil, nil
	r.Meta = &m
	return r
}

func (r *rule) put(s *Set) (news bool) {
	if r.host != "" && r.host != "*" && !strings.Contains(r.host, ".") {
		r.host += "." + r.Namespace + ".svc." + s.options.ClusterDomain
	}
	if old := s.rules[r.id()]; old != nil && old.Place == r.Place && proto.Equal(old.spec, r.spec) {
		return false
	}
	s.rules[r.id()], s.ruling = r, nil
	return true
}

// rootNamespace is Istio's own, whose rules are for everybody's hosts.
const rootNamespace = "istio-system"

// rulebook is all rules, found by the hosts they are for.
type rulebook struct {
	live bool    // anybody may have written them; see binds
	all  []*rule // in order
	by   map[string][]*rule
	wild []*rule
}

func (s *Set) newRulebook() *rulebook {
	book := &rulebook{live: s.options.Live, by: map[string][]*rule{}}
	for _, r := range s.rules {
		book.all = append(book.all, r)
	}
	slices.SortFunc(book.all, func(a, b *rule) int { return compareIDs(a.id(), b.id()) })
	for _, r := range book.all {
		if strings.HasPrefix(r.host, "*") {
			book.wild = append(book.wild, r)
		} else {
			book.by[r.host] = append(book.by[r.host], r)
		}
	}
	return book
}

// rule gives each host the rule that fits it best, and says which rules were followed, and which would have
// been were they of the host's namespace.
func (book *rulebook) rule(said *content) (ruled content, by, foreign []*rule) {
	best := make([]*rule, len(said.hosts))
	for i := range said.hosts {
		var others []*rule
		if best[i], others = book.best(&said.hosts[i]); best[i] != nil {
			by = append(by, best[i])
		}
		foreign = append(foreign, others...)
	}
	if len(by) == 0 {
		return *said, nil, foreign
	}
	ruled = content{hosts: slices.Clone(said.hosts), clusters: slices.Clone(said.clusters)}
	for i, r := range best {
		if r != nil {
			ruled.apply(r, &ruled.hosts[i])
		}
	}
	return ruled, by, foreign
}

// best is the rule that fits a host best: its very name before a wildcard, the longer wildcard before
// the shorter, then a rule of the host's own namespace, then the first by namespace and name.
func (book *rulebook) best(h *mesh.Host) (best *rule, foreign []*rule) {
	for _, r := range book.by[h.Name] {
		best, foreign = book.better(r, best, h, foreign)
	}
	if best != nil {
		return best, foreign
	}
	for _, r := range book.wild {
		if strings.HasSuffix(h.Name, r.host[1:]) {
			best, foreign = book.better(r, best, h, foreign)
		}
	}
	return best, foreign
}

// better is r or best, and adds r to foreign where it may not say anything about h.
func (book *rulebook) better(r, best *rule, h *mesh.Host, foreign []*rule) (*rule, []*rule) {
	switch {
	case !book.binds(r, h):
		return best, append(foreign, r)
	case best == nil || r.compare(best, h) < 0:
		return r, foreign
	}
	return best, foreign
}

// binds says that r is followed for h by everybody. What somebody writes in another namespace is in Istio for
// the clients there; here all pods of a node share what connections are spread over.
func (book *rulebook) binds(r *rule, h *mesh.Host) bool {
	return !book.live || r.Namespace == h.Namespace || r.Namespace == rootNamespace
}

// compare is negative if r fits h better than other does.
func (r *rule) compare(other *rule, h *mesh.Host) int {
	return cmp.Or(
		cmp.Compare(len(other.host), len(r.host)),
		first(r.Namespace == h.Namespace, other.Namespace == h.Namespace),
		compareIDs(r.id(), other.id()),
	)
}

// first orders true before false.
func first(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return -1
	}
	return 1
}

// apply sets what a rule says about a host's clusters.
func (c *content) apply(r *rule, h *mesh.Host) {
	h.Ports = slices.Clone(h.Ports)
	served := false
	for i := range h.Ports {
		p := &h.Ports[i]
		at := slices.IndexFunc(c.clusters, func(cl mesh.Cluster) bool { return cl.Name == p.Cluster })
		if at < 0 {
			continue
		}
		cl, policy := &c.clusters[at], r.policyOf(p.Number)
		cl.RequiresTLS = policy.tls != nil && policy.tls.GetMode() != networking.ClientTLSSettings_DISABLE
		policy.balance(&cl.Balancing)
		if policy.lb.GetSimple() == networking.LoadBalancerSettings_PASSTHROUGH {
			// The client's own choice of address counts, as with resolution NONE.
			c.clusters = slices.Delete(c.clusters, at, at+1)
			p.Cluster = ""
			continue
		}
		served = served || !cl.RequiresTLS
	}
	// A virtual address nothing is served on would only get in the way of the host's own.
	h.Allocate = h.Allocate && served
}

// problems says what of a rule makes no difference here, if not all of it.
func (r *rule) problems(o *Options, used, foreign bool) []mesh.Problem {
	var c content
	if foreign && !used {
		c.problem(o, r.Meta, "not followed: %s is a host of another namespace, and only rules of its own one and of %s are for everybody", r.spec.GetHost(), rootNamespace)
	}
	if !used && !o.Live {
		c.problem(o, r.Meta, "no host follows it: %s is not here or follows another rule", r.spec.GetHost())
	}
	if u := r.unapplied(); len(u) > 0 {
		c.problem(o, r.Meta, "not applied: %s", strings.Join(u, ", "))
	}
	return c.problems
}

// unapplied lists the fields of a rule that make no difference here.
func (r *rule) unapplied() []string {
	var out []string
	if len(r.spec.GetSubsets()) > 0 {
		out = append(out, "subsets")
	}
	if r.spec.GetWorkloadSelector() != nil {
		out = append(out, "workloadSelector")
	}
	if to := r.spec.GetExportTo(); len(to) > 0 && !slices.Contains(to, "*") {
		out = append(out, "exportTo")
	}
	general := r.spec.GetTrafficPolicy()
	out = append(out, otherFields("trafficPolicy", general.ProtoReflect(), "loadBalancer", "tls", "connectionPool",
		"outlierDetection", "portLevelSettings")...)
	out = append(out, r.policyOf(0).unapplied()...)
	for _, s := range general.GetPortLevelSettings() {
		out = append(out, otherFields("portLevelSettings", s.ProtoReflect(), "port", "loadBalancer", "tls",
			"connectionPool", "outlierDetection")...)
		out = append(out, r.policyOf(uint16(s.GetPort().GetNumber())).unapplied()...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// otherFields names the fields that are set in m, other than those known, under their parent's name.
func otherFields(parent string, m protoreflect.Message, known ...string) (out []string) {
	m.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if !slices.Contains(known, f.JSONName()) {
			out = append(out, parent+"."+f.JSONName())
		}
		return true
	})
	return out
}
